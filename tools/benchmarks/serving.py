"""Start, latency, throughput and memory of an export."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.serving import export

from . import timing

_CLIP_SECS, _HOUR_SECS = 30, 3600
_BATCHES = (1, 2, 4, 8, 16)


class _Answers(NamedTuple):
    load_secs: float
    first_secs: list[float]  # of the first answer for each size
    secs: list[list[float]]  # of the others


def speed(model: str, repeats: int) -> None:
    """Prints how long an export takes to load and to answer."""
    folder = str(export.newest(model) or model)
    one, peak = timing.in_new_process(_answer, folder, [(1, _CLIP_SECS)], 20 * repeats)
    sizes = [(batch, _CLIP_SECS) for batch in _BATCHES]
    many, _ = timing.in_new_process(_answer, folder, sizes, repeats)
    hour, hour_peak = timing.in_new_process(_answer, folder, [(1, _HOUR_SECS)], 0)
    [secs] = one.secs
    rows = [
        ["export loaded", f"{one.load_secs:.1f} s"],
        ["first answer", f"{one.first_secs[0]:.1f} s"],
        [f"later answers ({len(secs)})", timing.milliseconds(secs)],
        ["99th percentile", f"{1e3 * np.percentile(secs, 99):.0f} ms"],
        ["peak memory of the process", f"{peak:.0f} MB"],
        ["one hour of audio", f"{hour.first_secs[0]:.1f} s"],
        ["peak memory, one hour", f"{hour_peak:.0f} MB"],
    ]
    timing.table(f"An export, clips of {_CLIP_SECS} s", ["", ""], rows)
    slowest = timing.median(many.secs[0])
    rows = []
    for batch, own in zip(_BATCHES, many.secs, strict=True):
        secs_per_clip = timing.median(own) / batch
        rates = f"{1 / secs_per_clip:.1f}", f"{slowest / secs_per_clip:.2f}"
        rows.append([str(batch), timing.milliseconds(own), *rates])
    head = ["clips per request", "time", "clips per second", "relative to 1 clip"]
    timing.table("Throughput", head, rows)


def _answer(folder: str, sizes: Sequence[tuple[int, int]], repeats: int) -> _Answers:
    # Loads an export and sends requests of (clips, seconds).
    start = time.perf_counter()
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    answers = _Answers(time.perf_counter() - start, [], [])
    for batch, secs in sizes:
        shape = [batch, secs * params.SAMPLE_RATE_HZ]
        clips = tf.random.uniform(shape, -0.1, 0.1)
        call = functools.partial(_scores, serve, clips)
        taken = [timing.once(call) for _ in range(1 + repeats)]
        answers.first_secs.append(taken[0])
        answers.secs.append(taken[1:])
    return answers


def _scores(serve: Callable[..., Any], clips: tf.Tensor) -> np.ndarray:
    return serve(waveform=clips)["scores"].numpy()
