"""Waveforms to log-scattering frames on disk, and from there to batches.

`framing` cuts waveforms into segments and `log_scattering` turns these into frames. A
`shard_job` does both for some files, and `extraction` for those of a table.
`feature_store` keeps the frames, with an index in `columns`. `pipeline` reads them as
`tf.data` batches, which `augmentation` varies; `waveforms` makes batches from audio
files.
"""

from genre_tl.features.framing import PAD_VALUE
from genre_tl.features.log_scattering import LogScattering

__all__ = ["PAD_VALUE", "LogScattering"]
