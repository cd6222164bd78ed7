"""Waveforms to log-scattering frames on disk, and from there to batches.

`framing` cuts waveforms into segments, `log_scattering` turns these into frames,
`extraction` does both for the files of a table and `feature_store` keeps the frames.
`pipeline` reads them as `tf.data` batches, which `augmentation` varies; `waveforms`
makes batches from audio files.
"""

from genre_tl.features.framing import PAD_VALUE
from genre_tl.features.log_scattering import LogScattering

__all__ = ["PAD_VALUE", "LogScattering"]
