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

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from genre_tl import multirate, params, wavelets

# What stands in for a frame that lies beyond the end of the clip.
PAD_VALUE = -1000.0

# Clips transformed at once inside one call: bounds the memory of a batch.
_PARALLEL_CLIPS = 2

# Where a modulus counts as zero.
_TINY = 1e-18


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
        if precision not in multirate.SAMPLING:
            raise ValueError(
                f"precision must be one of {sorted(multirate.SAMPLING)}, "
                f"got {precision!r}"
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Plans the transform for the static number of samples."""
        self._plan = multirate.plan(
            self._transform, _num_samples(input_shape), self.precision
        )
        # Tensors made here are shared by every graph that calls the layer.
        with tf.init_scope():
            self._cascade = _Cascade(self._plan)

    def shield_filters(self) -> None:
        """Hides the filters from converters that cut constants to half precision.

        For `precision="standard"`, after `build`, before the graph is traced.
        """
        with tf.init_scope():
            self._cascade = _Cascade(self._plan, as_bits=True)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[..., paths, frames]` of `[..., samples]`."""
        if not inputs.dtype.is_floating:
            raise ValueError(
                f"Scattering1D takes real floating-point samples, got "
                f"{inputs.dtype.name}: scale integers to [-1, 1], split complex ones"
            )
        cascade = self._cascade
        clips = tf.reshape(tf.cast(inputs, cascade.dtype), [-1, inputs.shape[-1]])
        output = cascade(clips)
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
        coefficients = self.scattering(_mirror(waveform, lengths))
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


class _Kernels(NamedTuple):
    """The constants of a plan, under the names that it has for them."""

    halvings: dict[int, Any]
    low_pass: dict[int, Any]
    first: list[Any]
    second: list[Any]


class _Cascade:
    """A plan as TensorFlow operations."""

    def __init__(self, plan: multirate.Plan, *, as_bits: bool = False) -> None:
        self._plan = plan
        self.dtype = tf.as_dtype(plan.dtype)
        self._as_bits = as_bits
        kernels = _Kernels(
            plan.halvings,
            plan.low_pass,
            [group.filters.kernel for group in plan.first],
            [group.filters.kernel for group in plan.second],
        )
        self._kernels = tf.nest.map_structure(self._tensor, kernels)

    def _tensor(self, values: np.ndarray) -> tf.Tensor:
        values = values.astype(self.dtype.as_numpy_dtype)
        return tf.constant(values.view(np.int32) if self._as_bits else values)

    def __call__(self, clips: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, paths, frames]` of `[batch, samples]`."""
        kernels = self._kernels
        if self._as_bits:
            # Nothing that a converter could work out beforehand.
            nothing = tf.cast(clips[0, 0] > tf.float32.max, tf.int32)
            kernels = tf.nest.map_structure(
                lambda bits: tf.bitcast(bits + nothing, tf.float32), kernels
            )
        transform = functools.partial(self._transform, kernels=kernels)
        if clips.shape[0] == 1:
            return transform(clips[0])[tf.newaxis]
        # Clip by clip, a few side by side: what one clip needs stays in the
        # processor's caches, and memory does not grow with the batch.
        return tf.map_fn(
            tf.autograph.experimental.do_not_convert(transform),
            clips,
            parallel_iterations=_PARALLEL_CLIPS,
        )

    def _transform(self, clip: tf.Tensor, kernels: _Kernels) -> tf.Tensor:
        # [samples] -> [paths, frames]
        plan = self._plan
        circle = self._reflect(clip)[tf.newaxis]
        signals = self._pyramid({plan.hop: circle}, kernels.halvings)
        lowest = min(group.filters.rate_in for group in plan.first)
        weighted = [_weigh(signals[lowest], kernels.low_pass[lowest])]
        moduli: dict[int, list[tf.Tensor]] = {}
        for group, kernel in zip(plan.first, kernels.first, strict=True):
            filters = group.filters
            modulus = _modulus(signals[filters.rate_in], kernel, len(group.rows))
            weighted.append(_weigh(modulus, kernels.low_pass[filters.rate_out]))
            moduli.setdefault(filters.rate_out, []).append(modulus)
        joined = {rate: tf.concat(parts, 0) for rate, parts in moduli.items()}
        signals = self._pyramid(joined, kernels.halvings)
        for group, kernel in zip(plan.second, kernels.second, strict=True):
            rows, filters = group.rows, group.filters
            parents = signals[filters.rate_in][rows.start : rows.stop]
            modulus = _modulus(parents, kernel, 1)
            weighted.append(_weigh(modulus, kernels.low_pass[filters.rate_out]))
        return self._average(tf.concat(weighted, 0))

    def _pyramid(
        self, signals: dict[int, tf.Tensor], halvings: dict[int, tf.Tensor]
    ) -> dict[int, tf.Tensor]:
        # By rate, `[rows, samples]` -> the same with, above the rows of a rate, those
        # of all higher ones, halved.
        rates = [self._plan.hop >> i for i in range(self._plan.hop.bit_length())]
        whole: dict[int, tf.Tensor] = {}
        for rate in rates:
            parts = [signals[rate]] if rate in signals else []
            if 2 * rate in whole and 2 * rate in halvings:
                halved = _convolve(whole[2 * rate], halvings[2 * rate])
                parts.insert(0, _rows(halved))
            if parts:
                whole[rate] = tf.concat(parts, 0)
        return whole

    def _reflect(self, clip: tf.Tensor) -> tf.Tensor:
        last = self._plan.num_samples - 1
        missing = self._plan.length - self._plan.num_samples
        left, right = missing // 2, missing - missing // 2
        return tf.concat(
            [clip, clip[last - right : last][::-1], clip[1 : left + 1][::-1]], 0
        )

    def _average(self, weighted: tf.Tensor) -> tf.Tensor:
        # What each block gives to those around it -> [paths, frames]
        plan = self._plan
        shape = [len(plan.order), plan.num_blocks, -1, plan.oversampling]
        blocks = tf.reshape(weighted, shape)
        reach = blocks.shape[2] // 2
        lags = range(-reach, reach + 1)
        averaged = tf.add_n(
            [tf.roll(blocks[:, :, reach + lag], lag, axis=1) for lag in lags]
        )
        averaged = tf.reshape(averaged, [len(plan.order), -1])
        return tf.gather(averaged[:, : plan.num_frames], plan.order)


def _weigh(signals: tf.Tensor, low_pass: tf.Tensor) -> tf.Tensor:
    # [rows, samples] -> [rows * blocks, blocks reached * oversampling]
    return tf.reshape(signals, [-1, low_pass.shape[0]]) @ low_pass


def _modulus(signals: tf.Tensor, kernel: tf.Tensor, num_wavelets: int) -> tf.Tensor:
    # [rows, samples] -> [rows * wavelets, samples]
    real, imaginary = tf.split(_convolve(signals, kernel), 2, axis=2)
    power = tf.square(real) + tf.square(imaginary)
    # The root, with a gradient where it is zero.
    modulus = tf.sqrt(tf.maximum(power, _TINY**2)) - _TINY
    if num_wavelets > 1:
        rows, steps, outputs = modulus.shape
        shape = [rows, steps, num_wavelets, outputs // num_wavelets]
        modulus = tf.transpose(tf.reshape(modulus, shape), [0, 2, 1, 3])
        modulus = tf.reshape(modulus, [rows * num_wavelets, -1])
    return _rows(modulus)


def _convolve(signals: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    # [rows, samples] on a circle -> [rows, steps, outputs]
    size, stride, _ = kernel.shape
    rows, length = signals.shape
    before = (size - 1) * stride // 2
    after = (size - 1) * stride - before
    # A filter may go round a short circle more than once.
    turns = [signals] * (before // length + after // length)
    before, after = before % length, after % length
    parts = [signals[:, length - before :], *turns, signals, signals[:, :after]]
    steps = tf.reshape(tf.concat(parts, 1), [rows, -1, stride])
    return tf.nn.conv1d(steps, kernel, 1, "VALID")


def _rows(steps: tf.Tensor) -> tf.Tensor:
    return tf.reshape(steps, [steps.shape[0], -1])


def _num_samples(input_shape: tuple[int | None, ...]) -> int:
    if len(input_shape) < 2 or input_shape[-1] is None:
        raise ValueError(
            "Scattering1D takes [batch, samples] with a static number of samples, "
            f"got shape {tuple(input_shape)}: add a batch axis, or cut or pad the "
            "clips to one length"
        )
    return int(input_shape[-1])
