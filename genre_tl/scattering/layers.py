"""The scattering transform as a Keras layer.

`Scattering1D` computes what kymatio defines (same filters, same path order),
exactly and fast. `docs/scattering.md` explains the algorithm.

    >>> layer = scattering.Scattering1D(J=13, Q=8)
    >>> coefficients = layer(waveform)  # [batch, samples] -> [batch, paths, frames]

Sources: S. Mallat, "Group invariant scattering" (2012); J. Andén and S. Mallat,
"Deep scattering spectrum" (2014); kymatio 0.3.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from genre_tl.scattering import operations, planning, wavelets


@keras.saving.register_keras_serializable(package="genre_tl")
class Scattering1D(keras.layers.Layer):
    """Time scattering transform, a drop-in for kymatio's Keras `Scattering1D`.

    S0 = x * phi, S1 = |x * psi1| * phi, S2 = ||x * psi1| * psi2| * phi (Song et
    al. 2017, equations 1 and 2), the signal mirrored at both ends. Unlike
    kymatio 0.3.0, whose coefficients lose a factor of two at every octave of
    its inner subsampling, the result is that of the transform without any
    inner subsampling, read at samples 0, 2^J, 2 * 2^J ... of the clip.

    Input: `[..., samples]` real, with a static number of samples. Output:
    `[..., paths, frames]`, in kymatio's path order; see `meta`.

    Under a mixed-precision policy the transform still computes in float32
    (spectra span more than half precision holds) and casts its output.

    Args:
      J: log2 of the largest wavelet scale, in samples.
      Q: wavelets per octave of the first order, or a pair for both orders.
      T: samples over which the low-pass averages; 2**J if None.
      max_order: 1 or 2.
      oversampling: log2 of how many times more frames to put out.
      precision: `standard` (relative error 3e-4 in the median path) or `high`
        (below 1e-5, in double precision, at several times the cost).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: for arguments out of range; the message names them.
    """

    def __init__(
        self,
        J: int,
        Q: int | tuple[int, ...] = 1,
        T: int | None = None,
        max_order: int = 2,
        oversampling: int = 0,
        precision: str = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A config read back from JSON holds a list.
        self.J, self.Q, self.T = J, Q if isinstance(Q, int) else tuple(Q), T
        self.max_order, self.oversampling = max_order, oversampling
        self.precision = precision
        self._transform = wavelets.Transform(J, self.Q, T, max_order, oversampling)
        if precision not in planning.SAMPLING:
            raise ValueError(
                f"precision must be one of {sorted(planning.SAMPLING)}, "
                f"got {precision!r}"
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Plans the transform for the static number of samples."""
        self._plan = planning.plan(
            self._transform, _num_samples(input_shape), self.precision
        )
        # Tensors made here are shared by every graph that calls the layer.
        with tf.init_scope():
            self._cascade = operations.Cascade(self._plan)

    def shield_filters(self) -> None:
        """Hides the filters from converters that cut constants to half precision.

        For `precision="standard"`, after `build`, before the graph is traced.
        """
        with tf.init_scope():
            self._cascade = operations.Cascade(self._plan, as_bits=True)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[..., paths, frames]` of `[..., samples]`."""
        if not inputs.dtype.is_floating:
            raise ValueError(
                f"Scattering1D takes real floating-point samples, got "
                f"{inputs.dtype.name}: scale integers to [-1, 1], split complex ones"
            )
        clips = tf.cast(inputs, self._cascade.dtype)
        output = self._cascade(tf.reshape(clips, [-1, inputs.shape[-1]]))
        shape = tf.concat([tf.shape(inputs)[:-1], tf.shape(output)[1:]], 0)
        output = tf.cast(tf.reshape(output, shape), self.compute_dtype)
        return tf.ensure_shape(output, self.compute_output_shape(inputs.shape))

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape `[..., paths, frames]`, as kymatio's."""
        num_frames = self._transform.num_frames(_num_samples(input_shape))
        return (*tuple(input_shape)[:-1], self.output_size(), num_frames)

    def output_size(self) -> int:
        """Returns the number of paths."""
        return len(self.meta()["order"])

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths.

        Arrays with a row for each path, in order of output: `order`, and with
        a column for each order (NaN where the path is shorter) `xi` and
        `sigma` in cycles a sample, `j` and `n`; the list `key` of tuples `n`.
        """
        return self._transform.meta()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("J", "Q", "T", "max_order", "oversampling", "precision")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _num_samples(input_shape: tuple[int | None, ...]) -> int:
    if len(input_shape) < 2 or input_shape[-1] is None:
        raise ValueError(
            "Scattering1D takes [batch, samples] with a static number of samples, "
            f"got shape {tuple(input_shape)}: add a batch axis, or cut or pad the "
            "clips to one length"
        )
    return int(input_shape[-1])
