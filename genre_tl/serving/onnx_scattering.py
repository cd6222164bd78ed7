"""Writes a planned scattering transform as ONNX operations.

The same computation as `scattering.operations`, of the same plan. Convolutions have two
dimensions, one of them of length 1: ONNX Runtime is twice as fast with these.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from genre_tl.scattering import planning
from genre_tl.serving.onnx_builder import Builder


class _Value(NamedTuple):
    """A value and its static shape."""

    name: str
    shape: tuple[int, ...]


class _Signals(NamedTuple):
    """Signals `[rows, samples]`, and the same with as many more at both ends."""

    plain: _Value
    extended: _Value


class PlannedTransform:
    """A plan as ONNX operations, added to a graph by calls."""

    def __init__(self, build: Builder, plan: planning.Plan) -> None:
        self._build, self._plan = build, plan

    def __call__(self, clip: str) -> str:
        """Returns `[paths, frames]` for `[samples]`."""
        plan, kernels = self._plan, self._plan.kernels
        signals = self._pyramid({plan.hop: [self._extend(clip)]}, kernels.first)
        moments = [self._in_blocks(signals[plan.lowest].plain, plan.lowest)]
        moduli: dict[int, list[_Value]] = {}
        for group in kernels.first:
            made = self._convolve(signals[group.rate_in], group.kernel)
            modulus = self._modulus(made, group.num_rows)
            moduli.setdefault(group.rate_out, []).append(modulus)
        signals = self._pyramid(moduli, kernels.second)
        moments.append(self._in_blocks(signals[plan.lowest].plain, plan.lowest))
        for group in kernels.second:
            parents = self._rows(signals[group.rate_in], group.first, group.num_rows)
            modulus = self._modulus(self._convolve(parents, group.kernel), 1)
            moments.append(self._in_blocks(modulus, group.rate_out))
        return self._average(self._concat(moments, 0))

    def _extend(self, clip: str) -> _Value:
        # [samples] -> [1, samples], with the reflections at the end and, on a circle,
        # at the start.
        plan = self._plan
        last = plan.num_samples - 1
        missing = plan.num_blocks * plan.hop - plan.num_samples
        left = 0 if plan.is_mirrored else missing // 2
        row = _Value(self._build.op("Unsqueeze", clip, [0]), (1, plan.num_samples))
        after = self._take(row, np.arange(last - 1, last - 1 - missing + left, -1))
        return self._concat([row, after, self._take(row, np.arange(left, 0, -1))], 1)

    def _pyramid(
        self, signals: dict[int, list[_Value]], readers: list[planning.Group]
    ) -> dict[int, _Signals]:
        # Parts `[rows, samples]` by rate -> at each rate, those of all higher rates,
        # halved, and then its own.
        halvings = self._plan.kernels.halvings
        whole: dict[int, _Signals] = {}
        for rate in self._plan.rates:
            parts = signals.get(rate, [])
            if 2 * rate in whole and 2 * rate in halvings:
                halved = self._convolve(whole[2 * rate], halvings[2 * rate])
                parts = [self._in_order(halved), *parts]
            if parts:
                kernels = [each.kernel for each in readers if each.rate_in == rate]
                kernels += [halvings[rate]] if rate in halvings else []
                margin = max((_reach(kernel)[1] for kernel in kernels), default=0)
                plain = self._concat(parts, 0)
                left, right = self._plan.beyond(plain.shape[1], margin)
                around = [self._take(plain, left), plain, self._take(plain, right)]
                whole[rate] = _Signals(plain, self._concat(around, 1))
        return whole

    def _convolve(self, signals: _Signals, kernel: np.ndarray) -> _Value:
        # -> [rows, outputs, steps]
        size, stride, _ = kernel.shape
        length, num_samples = signals.extended.shape[1], signals.plain.shape[1]
        begin = (length - num_samples) // 2 - _reach(kernel)[0]
        end = begin + (num_samples // stride + size - 1) * stride
        return self._convolved(self._part(signals.extended, begin, end, 1), kernel)

    def _convolved(self, samples: _Value, kernel: np.ndarray) -> _Value:
        size, stride, outputs = kernel.shape
        weights = kernel.reshape(size * stride, outputs).T[:, np.newaxis, np.newaxis]
        images = self._build.op("Unsqueeze", samples.name, [1, 2])
        made = self._build.op("Conv", images, weights, strides=[1, stride])
        num_steps = samples.shape[1] // stride - size + 1
        shape = samples.shape[0], outputs, num_steps
        return _Value(self._build.op("Squeeze", made, [2]), shape)

    def _modulus(self, made: _Value, num_wavelets: int) -> _Value:
        # [rows, wavelets * outputs, steps] -> [rows * wavelets, samples]
        build, (rows, outputs, steps) = self._build, made.shape
        squares = [
            build.op("Mul", x, x) for x in build.ops("Split", 2, made.name, axis=1)
        ]
        modulus = build.op("Sqrt", build.op("Add", *squares))
        shape = rows * num_wavelets, outputs // 2 // num_wavelets, steps
        return self._in_order(_Value(build.op("Reshape", modulus, shape), shape))

    def _average(self, moments: _Value) -> str:
        # [paths * blocks, 1 + moments] -> [paths, frames]
        plan, build, low_pass = self._plan, self._build, self._plan.kernels.low_pass
        size, width, outputs = low_pass.shape
        stride = outputs // plan.oversampling
        reach = (size - 1) * stride // 2
        missing = -plan.num_blocks % stride + reach
        shape = len(plan.order), plan.num_blocks, moments.shape[1]
        blocks = build.op("Reshape", moments.name, shape)
        if plan.is_mirrored:
            blocks = self._reflected(_Value(blocks, shape), reach, missing)
        else:
            places = np.arange(-reach, plan.num_blocks + missing) % plan.num_blocks
            blocks = build.op("Gather", blocks, places, axis=1)
        num_steps = (reach + plan.num_blocks + missing) // stride
        flat = len(plan.order), num_steps * width
        steps = _Value(build.op("Reshape", blocks, flat), flat)
        frames = self._in_order(self._convolved(steps, low_pass))
        frames = self._part(frames, 0, plan.num_frames, 1)
        return build.op("Gather", frames.name, plan.order, axis=0)

    def _reflected(self, blocks: _Value, reach: int, missing: int) -> str:
        # With blocks before the first and after the last: `operations._reflected`.
        build = self._build
        count = min(reach, blocks.shape[1] - 1)
        shown, following = (self._part(blocks, x, x + count, 1) for x in (0, 1))
        own, others = (self._part(x, 0, 1, 2).name for x in (shown, following))
        signs = (-1.0) ** np.arange(-1, blocks.shape[2] - 1)
        turned = build.op("Mul", build.op("Add", shown.name, others), signs)
        turned = build.op("Sub", turned, own)
        before = build.op("Gather", turned, np.arange(count)[::-1], axis=1)
        joined = build.op("Concat", before, blocks.name, axis=1)
        return build.op("Pad", joined, [0, reach - count, 0, 0, missing, 0])

    def _in_blocks(self, signals: _Value, rate: int) -> _Value:
        # [rows, samples] -> [rows * blocks, 1 + moments]
        moments = self._plan.kernels.moments[rate]
        shape = math.prod(signals.shape) // rate, rate
        blocks = self._build.op("Reshape", signals.name, shape)
        made = self._build.op("MatMul", blocks, moments)
        return _Value(made, (shape[0], moments.shape[1]))

    def _in_order(self, steps: _Value) -> _Value:
        # [rows, outputs, steps] -> [rows, samples]
        made = self._build.op("Transpose", steps.name, perm=[0, 2, 1])
        shape = steps.shape[0], steps.shape[1] * steps.shape[2]
        return _Value(self._build.op("Reshape", made, shape), shape)

    def _rows(self, signals: _Signals, first: int, count: int) -> _Signals:
        return _Signals(*(self._part(x, first, first + count, 0) for x in signals))

    def _concat(self, parts: list[_Value], axis: int) -> _Value:
        parts = [part for part in parts if part.shape[axis]]
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        names = [part.name for part in parts]
        return _Value(self._build.op("Concat", *names, axis=axis), tuple(shape))

    def _part(self, value: _Value, start: int, stop: int, axis: int) -> _Value:
        shape = list(value.shape)
        if (start, stop) == (0, shape[axis]):
            return value
        shape[axis] = stop - start
        made = self._build.op("Slice", value.name, [start], [stop], [axis])
        return _Value(made, tuple(shape))

    def _take(self, signals: _Value, places: np.ndarray) -> _Value:
        # [rows, samples] -> [rows, places]
        made = self._build.op("Gather", signals.name, places, axis=1)
        return _Value(made, (signals.shape[0], len(places)))


def _reach(kernel: np.ndarray) -> tuple[int, int]:
    # Samples that a step sees before it, and after.
    size, stride, _ = kernel.shape
    before = (size - 1) * stride // 2
    return before, (size - 1) * stride - before
