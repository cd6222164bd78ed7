"""The scattering transform: waveforms to coefficients, as a Keras layer.

`Scattering1D` is a drop-in for kymatio's Keras layer. Filters and path order come from
kymatio (wavelets), which planning turns into strided convolutions and operations
runs in TensorFlow.
"""

from genre_tl import backend  # noqa: F401
from genre_tl.scattering.layers import Scattering1D

__all__ = ["Scattering1D"]
