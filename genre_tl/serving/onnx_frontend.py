"""Writes the front end as ONNX operations: from clips to segments, and to frames.

The same computation as `features.framing` and `features.LogScattering`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from genre_tl import features, params
from genre_tl.audio import sound
from genre_tl.features import log_scattering
from genre_tl.scattering import planning, wavelets
from genre_tl.serving import runtimes
from genre_tl.serving.onnx_builder import Builder
from genre_tl.serving.onnx_scattering import PlannedTransform


class Segments(NamedTuple):
    """Segments of a batch of clips, in order: names of values `[segments]`."""

    clips: str  # row of each segment's clip, int64
    numbers: str  # its number in the clip, with those that hold no sound, int64
    starts: str  # its first sample in the row, int64
    lengths: str  # its valid samples, int64; 0 for a clip without sound
    weights: str  # its valid frames, float32, at least 1


def padding(build: Builder, waveform: str, given: str) -> str:
    """Returns the first sample of each clip where none is given (NaN): `[batch]`."""
    first = build.op("Squeeze", build.op("Slice", waveform, [0], [1], [1]), [1])
    return build.op("Where", build.op("IsNaN", given), first, given)


def starts(build: Builder, waveform: str, given: str) -> str:
    """Returns where each clip begins if no place is given (-1): int64 `[batch]`."""
    search, keep = Builder(build), Builder(build)
    first = _first_sound(search, waveform)
    search.op("Where", search.op("Less", given, 0), first, given)
    keep.op("Expand", given, keep.size(waveform, 0))
    lowest = build.op("ReduceMin", given, keepdims=0)
    return build.choose(build.op("Less", lowest, 0), search, keep, np.int64)


def _first_sound(build: Builder, waveform: str) -> str:
    head = build.op("Slice", waveform, [0], [sound.MIN_HEAD], [1])
    first = build.op("Slice", waveform, [0], [1], [1])
    is_same = build.cast(build.op("Equal", head, first), np.float32)
    is_head = build.op("Greater", build.op("ReduceMin", is_same, axes=[1]), 0.5)
    length = build.size(waveform, 1)
    is_head = build.op(
        "And", is_head, build.op("GreaterOrEqual", length, sound.MIN_HEAD)
    )
    is_sound = _is_sound(build, waveform, build.op("Where", is_head, first, 0.0))
    is_sound = build.cast(is_sound, np.float32)
    place = build.op("ArgMax", is_sound, axis=1, keepdims=0)
    has_sound = build.op(
        "Greater", build.op("ReduceMax", is_sound, axes=[1], keepdims=0), 0.5
    )
    return build.op("Where", has_sound, place, length)


def segments(
    build: Builder, waveform: str, frontend: params.Frontend, starts: str, padding: str
) -> Segments:
    """Lists the segments of clips that hold sound, at least one of each clip."""
    size = frontend.segment_samples
    num_clips, num_samples = (build.size(waveform, axis) for axis in (0, 1))
    most = build.op("ReduceMax", build.op("Sub", num_samples, starts), keepdims=0)
    count = build.op("Div", build.op("Add", build.op("Max", most, 1), size - 1), size)
    numbers = build.op("Range", 0, count, 1)
    grid = build.op("Concat", num_clips, build.op("Unsqueeze", count, [0]), axis=0)
    rows = build.op("Range", 0, build.op("Squeeze", num_clips), 1)
    rows = build.op("Expand", build.op("Unsqueeze", rows, [1]), grid)
    begins = build.op("Mul", numbers, size)
    begins = build.op("Add", build.op("Unsqueeze", starts, [1]), begins)
    clips, begins = (build.op("Reshape", x, [-1]) for x in (rows, begins))
    lengths = _valid_samples(build, waveform, padding, (clips, begins), size)

    has_sound = build.op("Greater", build.op("Reshape", lengths, grid), 0)
    some = build.op("ReduceMax", build.cast(has_sound, np.int64), axes=[1])
    # The first of a clip without sound.
    is_stand_in = build.op(
        "And", build.op("Less", some, 1), build.op("Less", numbers, 1)
    )
    is_listed = build.op("Reshape", build.op("Or", has_sound, is_stand_in), [-1])
    listed = build.op("Squeeze", build.op("NonZero", is_listed), [0])
    clips, begins, lengths = (
        build.op("Gather", x, listed) for x in (clips, begins, lengths)
    )
    begins = build.op("Where", build.op("Greater", lengths, 0), begins, 0)
    numbers = build.op("Mod", listed, count)
    hop = frontend.hop_samples
    frames = build.op("Div", build.op("Add", lengths, hop - 1), hop)
    weights = build.cast(build.op("Max", frames, 1), np.float32)
    return Segments(clips, numbers, begins, lengths, weights)


def _valid_samples(
    build: Builder, waveform: str, padding: str, places: tuple[str, str], size: int
) -> str:
    """Returns the samples of each segment up to its last sound, int64 `[segments]`."""
    body, number = Builder(build), build.name("number")
    clip, begin = (body.op("Gather", x, number) for x in places)
    samples = _samples(body, waveform, clip, begin, body.op("Add", begin, size))
    is_sound = _is_sound(body, samples, body.op("Gather", padding, clip))
    ends = body.op("Range", 1, body.op("Add", body.op("Size", samples), 1), 1)
    ends = body.op("Where", is_sound, ends, 0)
    last = body.op("ReduceMax", body.op("Concat", ends, [0], axis=0), keepdims=0)
    return build.loop(build.op("Size", places[0]), body, number, last, np.int64)


def frames(
    build: Builder, waveform: str, frontend: params.Frontend, segments: Segments
) -> str:
    """Returns log-scattering frames `[segments, frames, paths]`.

    Frames that begin after the last valid sample have meaningless values.
    """
    # One segment at a time fits into the processor's caches.
    body, number = Builder(build), build.name("number")
    clip, begin, length = (
        body.op("Gather", x, number)
        for x in (segments.clips, segments.starts, segments.lengths)
    )
    row = _mirrored(body, waveform, (clip, begin, length), frontend.segment_samples)
    weight = body.op("Gather", segments.weights, number)
    made = _log_scattering(body, row, weight, frontend)
    count = build.op("Size", segments.clips)
    return build.loop(count, body, number, made, np.float32)


def times(build: Builder, frontend: params.Frontend, segments: Segments) -> str:
    """Returns the times of frames in seconds, float32 `[segments, frames]`.

    They are `NO_TIME` where a frame is not valid.
    """
    numbers = np.arange(frontend.segment_frames)
    samples = build.op("Unsqueeze", segments.starts, [1])
    samples = build.op("Add", samples, frontend.hop_samples * numbers)
    rate_hz = float(params.SAMPLE_RATE_HZ)
    secs = build.op("Div", build.cast(samples, np.float32), rate_hz)
    counts = build.op("Unsqueeze", segments.weights, [1])
    is_valid = build.op("Less", numbers.astype(np.float32), counts)
    return build.op("Where", is_valid, secs, runtimes.NO_TIME)


def _mirrored(
    build: Builder, waveform: str, place: tuple[str, str, str], size: int
) -> str:
    """Returns a segment, extended by reflection, float32 `[size]`."""
    clip, begin, length = place
    samples = _samples(build, waveform, clip, begin, build.op("Add", begin, length))
    is_usable = build.op("LessOrEqual", build.op("Abs", samples), sound.LOUDEST)
    samples = build.op("Where", is_usable, samples, 0.0)
    missing = build.op("Sub", 1, build.op("Min", length, 1))
    missing = build.op("Concat", [0], build.op("Unsqueeze", missing, [0]), axis=0)
    samples = build.op("Pad", samples, missing)
    # Backwards from the last sample but one, no further than needed.
    last = build.op("Sub", build.size(samples, 0), 1)
    least = build.op("Max", build.op("Sub", build.op("Mul", last, 2), size - 1), 1)
    back = build.op("Slice", samples, least, last, [0])
    back = build.op("Slice", back, [-1], [-(2**62)], [0], [-1])
    period = build.op("Concat", samples, back, axis=0)
    length = build.size(period, 0)
    rounds = build.op("Div", build.op("Add", length, size - 1), length)
    row = build.op("Slice", build.op("Tile", period, rounds), [0], [size], [0])
    return build.op("Reshape", row, [size])


def _log_scattering(
    build: Builder, row: str, weight: str, frontend: params.Frontend
) -> str:
    """Returns the frames `[frames, paths]` of a segment with `weight` valid ones."""
    layer = features.LogScattering.from_params(frontend)
    transform = wavelets.transform(
        frontend.J, frontend.Q, frontend.T, frontend.max_order, 0
    )
    plan = planning.Plan(transform, frontend.segment_samples, "standard")
    coefficients = PlannedTransform(build, plan)(row)
    coefficients = build.op("Slice", coefficients, [1], [2**31], [0])
    first = build.op("Slice", coefficients, [0], [layer.num_first], [0])
    if frontend.remove_level:
        is_valid = build.op(
            "Less", np.arange(plan.num_frames, dtype=np.float32), weight
        )
        squares = build.op(
            "Mul", build.op("Mul", first, first), build.cast(is_valid, np.float32)
        )
        total = build.op("ReduceSum", squares, keepdims=0)
        mean = build.op("Div", total, build.op("Mul", weight, float(layer.num_first)))
        level = build.op("Max", build.op("Sqrt", mean), log_scattering.MIN_LEVEL)
        coefficients = build.op("Div", coefficients, level)
    floor = build.op("Add", build.op("Relu", coefficients), frontend.log_floor)
    logs = build.op("Log", floor)
    if len(layer.parents):
        first = build.op("Slice", logs, [0], [layer.num_first], [0])
        second = build.op("Slice", logs, [layer.num_first], [2**31], [0])
        own = build.op("Gather", first, layer.parents, axis=0)
        logs = build.op("Concat", first, build.op("Sub", second, own), axis=0)
    return build.op("Transpose", logs, perm=[1, 0])


def _samples(build: Builder, waveform: str, clip: str, begin: str, end: str) -> str:
    """Returns some samples of a clip, `[samples]`; fewer at its end."""
    clip, begin, end = (build.op("Unsqueeze", x, [0]) for x in (clip, begin, end))
    first = build.op("Concat", clip, begin, axis=0)
    after = build.op("Concat", build.op("Add", clip, 1), end, axis=0)
    return build.op("Reshape", build.op("Slice", waveform, first, after, [0, 1]), [-1])


def _is_sound(build: Builder, samples: str, padding: str) -> str:
    level = build.op("Abs", samples)
    is_loud = build.op("Greater", level, sound.SILENCE)
    is_usable = build.op("LessOrEqual", level, sound.LOUDEST)
    differs = build.op("Not", build.op("Equal", samples, padding))
    return build.op("And", build.op("And", is_loud, is_usable), differs)
