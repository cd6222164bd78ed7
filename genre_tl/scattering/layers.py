"""The scattering transform as Keras layers, and the features made of it.

`Scattering1D` computes what kymatio defines (same filters, same path order),
exactly and fast; `LogScattering` turns waveforms into the frames that the
recurrent network reads. `docs/scattering.md` explains the algorithm.

    >>> layer = scattering.Scattering1D(J=13, Q=8)
    >>> coefficients = layer(waveform)  # [batch, samples] -> [batch, paths, frames]

Sources: S. Mallat, "Group invariant scattering" (2012); J. Andén and S. Mallat,
"Deep scattering spectrum" (2014); kymatio 0.3.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from genre_tl import params
from genre_tl.scattering import operations, planning, wavelets

# What stands in for a frame that lies beyond the end of the clip.
PAD_VALUE = -1000.0


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


@keras.saving.register_keras_serializable(package="genre_tl")
class LogScattering(keras.layers.Layer):
    """Waveforms to frames of log-scattering coefficients.

    First order: log(S1 + floor). Second order: log of S2 over the S1 of its
    parent path, which makes it independent of loudness (Andén and Mallat,
    2014, section III-B: renormalised scattering). Order zero, the signal's
    mean, carries nothing that is heard and is left out.

    A clip may be shorter than the layer's input: zeros at its end are
    padding, whatever their number. The clip is mirrored at its last sample
    that is not zero, and frames that begin beyond it hold `PAD_VALUE` in every
    path, for `keras.layers.Masking`. A silent clip counts as one frame.

    Input: `[batch, samples]` at 16 kHz. Output: `[batch, frames, paths]`.

    Args:
      J: log2 of averaging and hop, in samples.
      Q: wavelets per octave.
      max_order: 1 or 2.
      log_floor: added before the logarithm; full scale is 1.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        J: int = 13,
        Q: int = 8,
        max_order: int = 2,
        log_floor: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.J, self.Q = J, Q
        self.max_order, self.log_floor = max_order, log_floor
        self.scattering = Scattering1D(J, Q, max_order=max_order, dtype="float32")
        meta = self.scattering.meta()
        self._is_second = meta["order"] == 2
        self._parents = meta["n"][self._is_second, 0].astype(int)

    @classmethod
    def from_params(cls, frontend: params.Frontend) -> LogScattering:
        """Returns the layer of a preset's frontend."""
        return cls(
            J=frontend.J,
            Q=frontend.Q,
            max_order=frontend.max_order,
            log_floor=frontend.log_floor,
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Plans the transform for the static number of samples."""
        self.scattering.build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, frames, paths]` of `[batch, samples]`."""
        waveform = tf.cast(inputs, tf.float32)
        lengths = valid_samples(waveform)
        return self.of_mirrored(_mirror(waveform, lengths), lengths)

    def of_mirrored(self, waveform: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the frames of clips that were mirrored before, where that is cheaper.

        Args:
          waveform: float32 `[batch, samples]`; a clip shorter than that goes on with
            itself, mirrored at its last sample and at its first, again and again.
          lengths: samples of each clip itself, int32 `[batch]`, at least 1.
        """
        coefficients = self.scattering(waveform)
        frames = tf.transpose(self._log(coefficients), [0, 2, 1])
        starts = tf.range(frames.shape[1]) * 2**self.J
        is_valid = starts[tf.newaxis, :, tf.newaxis] < lengths[:, None, None]
        return tf.where(is_valid, frames, tf.constant(PAD_VALUE, frames.dtype))

    def _log(self, coefficients: tf.Tensor) -> tf.Tensor:
        # [batch, 1 + first + second, frames]
        num_second = int(self._is_second.sum())
        num_first = coefficients.shape[1] - 1 - num_second
        # Rounding may leave a coefficient a hair below zero.
        logs = tf.math.log(tf.nn.relu(coefficients) + self.log_floor)
        _, first, second = tf.split(logs, [1, num_first, num_second], axis=1)
        if not num_second:
            return first
        second -= tf.gather(first, self._parents, axis=1)
        return tf.concat([first, second], axis=1)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns `[batch, frames, paths]`."""
        batch, paths, frames = self.scattering.compute_output_shape(input_shape)
        return batch, frames, paths - 1  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("J", "Q", "max_order", "log_floor")
        return super().get_config() | {name: getattr(self, name) for name in names}


def valid_samples(waveform: tf.Tensor) -> tf.Tensor:
    """Counts the samples of each clip up to its last that is not zero.

    Args:
      waveform: `[batch, samples]`.

    Returns:
      `[batch]` int32, at least 1.
    """
    positions = tf.range(1, tf.shape(waveform)[1] + 1)
    counts = tf.where(tf.equal(waveform, 0.0), 0, positions[tf.newaxis])
    return tf.maximum(tf.reduce_max(counts, axis=1), 1)


def _mirror(waveform: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    # Continues each clip beyond its length by reflecting it there and back.
    last = lengths[:, tf.newaxis] - 1
    position = tf.range(waveform.shape[1])[tf.newaxis]
    phase = tf.math.floormod(position, tf.maximum(2 * last, 1))
    return tf.gather(waveform, last - tf.abs(last - phase), batch_dims=1)


def _num_samples(input_shape: tuple[int | None, ...]) -> int:
    if len(input_shape) < 2 or input_shape[-1] is None:
        raise ValueError(
            "Scattering1D takes [batch, samples] with a static number of samples, "
            f"got shape {tuple(input_shape)}: add a batch axis, or cut or pad the "
            "clips to one length"
        )
    return int(input_shape[-1])
