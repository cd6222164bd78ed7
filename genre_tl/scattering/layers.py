"""The scattering transform as a Keras layer; see `docs/scattering.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from genre_tl.scattering import operations, planning, wavelets

_Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="genre_tl")
class Scattering1D(keras.layers.Layer):
    """Time scattering transform, a drop-in for kymatio's Keras `Scattering1D`.

    S0 = x * phi, S1 = |x * psi1| * phi, S2 = ||x * psi1| * psi2| * phi (Song et al.
    2017, equations 1 and 2). The signal is reflected at both ends. The result equals
    kymatio's without inner subsampling, at samples 0, 2^J, 2 * 2^J ... of the clip;
    kymatio 0.3.0 itself loses a factor of two per octave that it subsamples.

    Input: `[..., samples]`, floating point, with a static number of samples.
    Output: `[..., paths, frames]`, in kymatio's path order; see `meta`.

    Under a mixed-precision policy the layer computes in float32 and casts its output.
    Importing this module turns TensorFloat-32, less exact, off for the whole process.

    Args:
      J: log2 of the largest wavelet scale, in samples.
      Q: wavelets per octave in the first order, or a pair for both orders.
      T: averaging length of the low-pass, in samples; None means 2**J.
      max_order: 1 or 2.
      oversampling: log2 of the factor by which there are more frames.
      precision: `standard` (relative error of the median path 3e-4) or `high`
        (1e-5, in double precision, several times slower).
      **kwargs: passed on to `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range, or an input is not floating point,
        shorter than 2**J or T, or of another length than the layer was built for.
    """

    def __init__(
        self,
        J: int,
        Q: int | Sequence[int] = 1,
        T: int | None = None,
        max_order: int = 2,
        oversampling: int = 0,
        precision: str = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A config read from JSON holds a list.
        self.J, self.Q, self.T = J, tuple(Q) if isinstance(Q, list) else Q, T
        self.max_order, self.oversampling = max_order, oversampling
        self.precision = precision
        self._transform = wavelets.transform(J, Q, T, max_order, oversampling)
        if precision not in (choices := sorted(planning.PRECISIONS)):
            raise ValueError(f"precision must be one of {choices}, got {precision!r}")

    def build(self, input_shape: _Shape) -> None:
        """Plans the transform for a static number of samples."""
        num_samples = _num_samples(input_shape)
        self.input_spec = keras.layers.InputSpec(axes={-1: num_samples})
        self._plan = planning.Plan(self._transform, num_samples, self.precision)
        self._computation = operations.PlannedTransform(self._plan)

    def shield_filters(self) -> None:
        """Hides the filters from converters that round constants to half precision.

        For `precision="standard"`; call it after `build` and before tracing.
        """
        self._computation = operations.PlannedTransform(self._plan, as_bits=True)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[..., paths, frames]` for `[..., samples]`."""
        if not inputs.dtype.is_floating:
            raise ValueError(
                f"Scattering1D takes real floating-point samples, got "
                f"{inputs.dtype.name}: scale integers to [-1, 1], split complex numbers"
            )
        clips = tf.cast(inputs, self._computation.dtype)
        output = self._computation(tf.reshape(clips, [-1, inputs.shape[-1]]))
        shape = tf.concat([tf.shape(inputs)[:-1], tf.shape(output)[1:]], 0)
        output = tf.cast(tf.reshape(output, shape), self.compute_dtype)
        return tf.ensure_shape(output, self.compute_output_shape(inputs.shape))

    def compute_output_shape(self, input_shape: _Shape) -> _Shape:
        """Returns `[..., paths, frames]`."""
        num_frames = self._transform.num_frames(_num_samples(input_shape))
        return (*tuple(input_shape)[:-1], self.output_size(), num_frames)

    def output_size(self) -> int:
        """Returns the number of paths."""
        return len(self.meta()["order"])

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths.

        Arrays with one row per path, in output order: `order`, and with one column
        per order (NaN where a path has none) `xi` and `sigma` in cycles per sample,
        `j` and `n`; and `key`, a list of tuples `n`.
        """
        return self._transform.meta()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("J", "Q", "T", "max_order", "oversampling", "precision")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _num_samples(input_shape: _Shape) -> int:
    if len(input_shape) < 2 or input_shape[-1] is None:
        raise ValueError(
            "Scattering1D takes [batch, samples] with a static number of samples, "
            f"got shape {tuple(input_shape)}: add a batch axis, or cut or pad the "
            "clips to one length"
        )
    return int(input_shape[-1])
