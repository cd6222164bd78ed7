"""Runs a plan in TensorFlow, with real convolutions and matrix products."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from genre_tl.scattering import planning

# In TensorFloat-32, the default of TensorFlow on a GPU, the error of the median path is
# 1.1e-3 instead of 7e-5. The switch is for the process, read when an operation runs.
tf.config.experimental.enable_tensor_float_32_execution(False)

# Clips of a batch that are transformed in parallel: bounds memory.
_PARALLEL_CLIPS = 2

# Keeps the gradient of a modulus finite at zero.
_TINY = 1e-18


class PlannedTransform:
    """A plan as TensorFlow operations, with its constants.

    `as_bits` hides float32 constants from converters, as integers.
    """

    def __init__(self, plan: planning.Plan, *, as_bits: bool = False) -> None:
        self._plan, self._as_bits = plan, as_bits
        self.dtype = tf.as_dtype(plan.precision.dtype)
        # Every graph that calls this shares the constants.
        with tf.init_scope():
            self._kernels = tf.nest.map_structure(self._constant, plan.kernels)

    def _constant(self, values: np.ndarray | int) -> tf.Tensor | int:
        if isinstance(values, int):
            return values
        values = values.astype(self.dtype.as_numpy_dtype)
        return tf.constant(values.view(np.int32) if self._as_bits else values)

    def __call__(self, clips: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, paths, frames]` for `[batch, samples]`."""
        kernels = self._kernels
        if self._as_bits:
            # Depends on the input, so that a converter cannot fold the constants.
            zero = tf.cast(clips[0, 0] > tf.float32.max, tf.int32)
            kernels = tf.nest.map_structure(
                lambda x: x if isinstance(x, int) else tf.bitcast(x + zero, tf.float32),
                kernels,
            )
        transform = functools.partial(self._transform, kernels=kernels)
        if clips.shape[0] == 1:
            return transform(clips[0])[tf.newaxis]
        # One clip at a time fits into the processor's caches.
        return tf.map_fn(
            tf.autograph.experimental.do_not_convert(transform),
            clips,
            parallel_iterations=1 if tf.executing_eagerly() else _PARALLEL_CLIPS,
        )

    def _transform(self, clip: tf.Tensor, kernels: planning.Kernels) -> tf.Tensor:
        # [samples] -> [paths, frames]
        plan = self._plan
        extended = self._extend(clip)[tf.newaxis]
        signals = self._pyramid({plan.hop: [extended]}, kernels.first, kernels.halvings)
        lowest = kernels.moments[plan.lowest]
        moments = [_in_blocks(signals[plan.lowest].plain, lowest)]
        moduli: dict[int, list[tf.Tensor]] = {}
        for group in kernels.first:
            parts = signals[group.rate_in].convolve(group.kernel, 2)
            modulus = _modulus(parts, group.num_rows)
            moduli.setdefault(group.rate_out, []).append(modulus)
        signals = self._pyramid(moduli, kernels.second, kernels.halvings)
        moments.append(_in_blocks(signals[plan.lowest].plain, lowest))
        for group in kernels.second:
            parents = signals[group.rate_in].rows(group.first, group.num_rows)
            modulus = _modulus(parents.convolve(group.kernel, 2), 1)
            moments.append(_in_blocks(modulus, kernels.moments[group.rate_out]))
        return self._average(tf.concat(moments, 0), kernels.low_pass)

    def _extend(self, clip: tf.Tensor) -> tf.Tensor:
        # Appends the reflections at the end and, on a circle, at the start.
        plan = self._plan
        last = plan.num_samples - 1
        missing = plan.num_blocks * plan.hop - plan.num_samples
        left = 0 if plan.is_mirrored else missing // 2
        after, before = clip[last - missing + left : last], clip[1 : left + 1]
        return tf.concat([clip, after[::-1], before[::-1]], 0)

    def _pyramid(
        self,
        signals: dict[int, list[tf.Tensor]],
        readers: list[planning.Group],
        halvings: dict[int, tf.Tensor],
    ) -> dict[int, _Signals]:
        # Parts `[rows, samples]` by rate -> at each rate, those of all higher rates,
        # halved, and then its own.
        whole: dict[int, _Signals] = {}
        for rate in self._plan.rates:
            parts = signals.get(rate, [])
            if 2 * rate in whole and 2 * rate in halvings:
                [halved] = whole[2 * rate].convolve(halvings[2 * rate], 1)
                parts = [_rows(halved), *parts]
            if parts:
                kernels = [each.kernel for each in readers if each.rate_in == rate]
                kernels += [halvings[rate]] if rate in halvings else []
                margin = max((_reach(kernel)[1] for kernel in kernels), default=0)
                plain = tf.concat(parts, 0)
                left, right = self._plan.beyond(plain.shape[1], margin)
                around = [_take(plain, left), plain, _take(plain, right)]
                whole[rate] = _Signals(plain, tf.concat(around, 1))
        return whole

    def _average(self, moments: tf.Tensor, low_pass: tf.Tensor) -> tf.Tensor:
        # [paths * blocks, 1 + moments] -> [paths, frames]
        plan = self._plan
        num_blocks = plan.num_blocks
        size, width, outputs = low_pass.shape
        stride = outputs // plan.oversampling
        reach = (size - 1) * stride // 2
        missing = -num_blocks % stride + reach
        blocks = tf.reshape(moments, [len(plan.order), num_blocks, -1])
        if plan.is_mirrored:
            blocks = tf.concat([_reflected(blocks[:, : reach + 1]), blocks], 1)
            before = reach + num_blocks - blocks.shape[1]
            around = tf.pad(blocks, [[0, 0], [before, missing], [0, 0]])
        else:
            places = np.arange(-reach, num_blocks + missing) % num_blocks
            around = tf.gather(blocks, places, axis=1)
        steps = tf.reshape(around, [len(plan.order), -1, width])
        frames = _rows(tf.nn.conv1d(steps, low_pass, 1, "VALID"))
        return tf.gather(frames[:, : plan.num_frames], plan.order)


class _Signals(NamedTuple):
    """Signals `[rows, samples]`, and the same with as many more at both ends."""

    plain: tf.Tensor
    extended: tf.Tensor

    def rows(self, first: int, count: int) -> _Signals:
        """Returns `count` rows from row `first` on."""
        return _Signals(*(signals[first : first + count] for signals in self))

    def convolve(self, kernel: tf.Tensor, num_parts: int) -> list[tf.Tensor]:
        """Returns `[rows, steps, outputs]`, the outputs split into parts."""
        size, stride, _ = kernel.shape
        num_rows, length = self.extended.shape
        num_steps = self.plain.shape[1] // stride
        begin = (length - self.plain.shape[1]) // 2 - _reach(kernel)[0]
        if num_rows > 1:
            # Dropping steps afterwards is cheaper than moving the samples before.
            skip, begin = divmod(begin, stride)
            end = begin + (length - begin) // stride * stride
        else:
            skip, end = 0, begin + (num_steps + size - 1) * stride
        steps = tf.reshape(self.extended[:, begin:end], [num_rows, -1, stride])
        made = tf.nn.conv1d(steps, kernel, 1, "VALID")
        width = made.shape[2] // num_parts
        return [
            made[:, skip : skip + num_steps, part * width : (part + 1) * width]
            for part in range(num_parts)
        ]


def _reach(kernel: tf.Tensor) -> tuple[int, int]:
    # Samples that a step sees before it, and after.
    size, stride, _ = kernel.shape
    before = (size - 1) * stride // 2
    return before, (size - 1) * stride - before


def _take(signals: tf.Tensor, places: np.ndarray) -> tf.Tensor:
    # [rows, samples] -> [rows, places]
    steps = np.diff(places)
    if len(steps) and abs(steps[0]) == 1 and np.all(steps == steps[0]):
        first, last = sorted((places[0], places[-1]))
        return signals[:, first : last + 1][:, :: steps[0]]
    return tf.gather(signals, places, axis=1)


def _in_blocks(signals: tf.Tensor, moments: tf.Tensor) -> tf.Tensor:
    # [rows, samples] -> [rows * blocks, 1 + moments]
    return tf.reshape(signals, [-1, moments.shape[0]]) @ moments


def _reflected(blocks: tf.Tensor) -> tf.Tensor:
    # [rows, blocks, 1 + moments] -> [rows, blocks - 1, ...]: the moments of the blocks
    # before the first, of a signal that is reflected at its first sample. Legendre
    # polynomials are even or odd; a reflected block holds the first sample of the next
    # block instead of its own.
    first = blocks[..., :1]
    signs = tf.constant((-1.0) ** np.arange(-1, blocks.shape[2] - 1), blocks.dtype)
    turned = signs * (blocks[:, :-1] + first[:, 1:]) - first[:, :-1]
    return turned[:, ::-1]


def _modulus(parts: list[tf.Tensor], num_wavelets: int) -> tf.Tensor:
    # [rows, steps, wavelets * outputs] -> [rows * wavelets, samples]
    real, imaginary = parts
    power = tf.square(real) + tf.square(imaginary)
    modulus = tf.sqrt(tf.maximum(power, _TINY**2)) - _TINY
    if num_wavelets > 1:
        rows, steps, outputs = modulus.shape
        shape = [rows, steps, num_wavelets, outputs // num_wavelets]
        modulus = tf.transpose(tf.reshape(modulus, shape), [0, 2, 1, 3])
        modulus = tf.reshape(modulus, [rows * num_wavelets, -1])
    return _rows(modulus)


def _rows(steps: tf.Tensor) -> tf.Tensor:
    return tf.reshape(steps, [steps.shape[0], -1])
