"""The scattering transform: waveforms to `[frames, paths]`, as Keras layers.

`Scattering1D` is a drop-in for kymatio's Keras layer; `LogScattering` makes the
log-scattering frames that the network reads. Filters and path order come from
kymatio (wavelets), which planning turns into strided convolutions and operations
runs in TensorFlow.
"""

from genre_tl.scattering.layers import (
    PAD_VALUE,
    LogScattering,
    Scattering1D,
    valid_samples,
)

__all__ = ["PAD_VALUE", "LogScattering", "Scattering1D", "valid_samples"]
