"""A plan of `multirate` as TensorFlow operations: waveforms to scattering coefficients.

Real convolutions, matrix products and what each value is put through, on shapes that
are known when the graph is made.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tl.scattering import planning

# Clips transformed at once inside one call: bounds the memory of a batch.
_PARALLEL_CLIPS = 2

# Where a modulus counts as zero.
_TINY = 1e-18


class _Kernels(NamedTuple):
    """The constants of a plan, under the names that it has for them."""

    halvings: dict[int, Any]
    moments: dict[int, Any]
    spread: Any
    echo: Any
    first: list[Any]
    second: list[Any]


class Cascade:
    """A plan as TensorFlow operations."""

    def __init__(self, plan: planning.Plan, *, as_bits: bool = False) -> None:
        self._plan = plan
        self.dtype = tf.as_dtype(plan.dtype)
        self._as_bits = as_bits
        kernels = _Kernels(
            plan.halvings,
            plan.moments,
            plan.spread,
            plan.echo,
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
        signals = self._pyramid({plan.hop: [circle]}, plan.first, kernels.halvings)
        slowest = kernels.moments[plan.lowest]
        moments = [_in_blocks(signals[plan.lowest].plain, slowest)]
        moduli: dict[int, list[tf.Tensor]] = {}
        for group, kernel in zip(plan.first, kernels.first, strict=True):
            filters = group.filters
            real, imaginary = signals[filters.rate_in].convolve(kernel, 2)
            modulus = _modulus(real, imaginary, len(group.rows))
            moduli.setdefault(filters.rate_out, []).append(modulus)
        signals = self._pyramid(moduli, plan.second, kernels.halvings)
        moments.append(_in_blocks(signals[plan.lowest].plain, slowest))
        for group, kernel in zip(plan.second, kernels.second, strict=True):
            filters = group.filters
            parents = signals[filters.rate_in]
            real, imaginary = parents.convolve(kernel, 2, group.rows)
            modulus = _modulus(real, imaginary, 1)
            moments.append(_in_blocks(modulus, kernels.moments[filters.rate_out]))
        return self._average(tf.concat(moments, 0), kernels)

    def _pyramid(
        self,
        signals: dict[int, list[tf.Tensor]],
        readers: list[planning.Group],
        halvings: dict[int, tf.Tensor],
    ) -> dict[int, _Extended]:
        # By rate, parts `[rows, samples]` -> the same joined and, above them, those of
        # all higher rates, halved.
        rates = [self._plan.hop >> i for i in range(self._plan.hop.bit_length())]
        whole: dict[int, _Extended] = {}
        for rate in rates:
            parts = signals.get(rate, [])
            if 2 * rate in whole and 2 * rate in halvings:
                [halved] = whole[2 * rate].convolve(halvings[2 * rate], 1)
                parts = [_rows(halved), *parts]
            if parts:
                kernels = [
                    g.filters.kernel for g in readers if g.filters.rate_in == rate
                ]
                kernels += [halvings[rate]] if rate in halvings else []
                margin = max([_reach(kernel)[1] for kernel in kernels], default=0)
                joined = tf.concat(parts, 0) if len(parts) > 1 else parts[0]
                left, right = self._plan.beyond(joined.shape[1], margin, margin)
                parts = [_take(joined, left), joined, _take(joined, right)]
                whole[rate] = _Extended(joined, tf.concat(parts, 1), margin)
        return whole

    def _reflect(self, clip: tf.Tensor) -> tf.Tensor:
        last = self._plan.num_samples - 1
        missing = self._plan.length - self._plan.num_samples
        left = 0 if self._plan.is_mirrored else missing // 2
        right = missing - left
        return tf.concat(
            [clip, clip[last - right : last][::-1], clip[1 : left + 1][::-1]], 0
        )

    def _average(self, moments: tf.Tensor, kernels: _Kernels) -> tf.Tensor:
        # [paths * blocks, 1 + moments] -> [paths, frames]
        plan = self._plan
        num_paths, num_blocks = len(plan.order), plan.num_blocks
        size, width, outputs = kernels.spread.shape
        stride = outputs // plan.oversampling
        reach = (size - 1) * stride // 2
        # Frames before the first one are those after it, mirrored.
        mirrored = reach if plan.is_mirrored else 0
        num_steps = -(-(mirrored + num_blocks) // stride)
        blocks = tf.reshape(moments, [num_paths, num_blocks, -1])
        before = mirrored + reach
        after = (num_steps + size - 1) * stride - before - num_blocks
        if plan.is_mirrored:
            around = tf.pad(blocks, [[0, 0], [before, after], [0, 0]])
        else:
            places = np.arange(-before, num_blocks + after) % num_blocks
            around = tf.gather(blocks, places, axis=1)
        steps = tf.reshape(around, [num_paths, -1, width])
        frames = _rows(tf.nn.conv1d(steps, kernels.spread, 1, "VALID"))
        start, num = mirrored * plan.oversampling, plan.num_frames
        kept = frames[:, start : start + num]
        if plan.is_mirrored:
            echo = frames[:, : start + 1][:, ::-1][:, :num]
            echo -= blocks[:, 0, :1] * kernels.echo[: echo.shape[1]]
            kept += tf.pad(echo, [[0, 0], [0, num - echo.shape[1]]])
        return tf.gather(kept, plan.order)


class _Extended(NamedTuple):
    """Signals `[rows, samples]`, gone on with at both ends by `margin` samples."""

    plain: tf.Tensor
    extended: tf.Tensor
    margin: int

    def convolve(
        self, kernel: tf.Tensor, num_parts: int, rows: range | None = None
    ) -> list[tf.Tensor]:
        """Returns `[rows, steps, outputs]`, the outputs in parts."""
        size, stride, _ = kernel.shape
        signals = self.extended
        if rows is not None and len(rows) < signals.shape[0]:
            signals = signals[rows.start : rows.stop]
        num_rows, length = signals.shape
        num_steps = self.plain.shape[1] // stride
        begin = self.margin - _reach(kernel)[0]
        # Where nothing needs to be moved, more steps are made than are kept.
        if num_rows > 1:
            skip, begin = divmod(begin, stride)
            end = begin + (length - begin) // stride * stride
        else:
            skip, end = 0, begin + (num_steps + size - 1) * stride
        steps = tf.reshape(signals[:, begin:end], [num_rows, -1, stride])
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
    if len(places) > 1 and np.all(steps == steps[0]) and abs(steps[0]) == 1:
        first, last = sorted((places[0], places[-1]))
        taken = signals[:, first : last + 1]
        return taken if steps[0] == 1 else taken[:, ::-1]
    return tf.gather(signals, places, axis=1)


def _in_blocks(signals: tf.Tensor, moments: tf.Tensor) -> tf.Tensor:
    # [rows, samples] -> [rows * blocks, 1 + moments]
    return tf.reshape(signals, [-1, moments.shape[0]]) @ moments


def _modulus(real: tf.Tensor, imaginary: tf.Tensor, num_wavelets: int) -> tf.Tensor:
    # [rows, steps, wavelets * outputs] -> [rows * wavelets, samples]
    power = tf.square(real) + tf.square(imaginary)
    # The root, with a gradient where it is zero.
    modulus = tf.sqrt(tf.maximum(power, _TINY**2)) - _TINY
    if num_wavelets > 1:
        rows, steps, outputs = modulus.shape
        shape = [rows, steps, num_wavelets, outputs // num_wavelets]
        modulus = tf.transpose(tf.reshape(modulus, shape), [0, 2, 1, 3])
        modulus = tf.reshape(modulus, [rows * num_wavelets, -1])
    return _rows(modulus)


def _rows(steps: tf.Tensor) -> tf.Tensor:
    return tf.reshape(steps, [steps.shape[0], -1])
