"""Start, latency, throughput and memory of an export."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.serving import export

from . import timing

_CLIP_SECS, _HOUR_SECS = 30, 3600
_BATCHES = (1, 2, 4, 8, 16)


def speed(model: str, repeats: int) -> None:
    """Prints how long an export takes to load and to answer."""
    folder = str(export.newest(model) or model)
    (load_secs, [(first, *later)]), peak = timing.in_new_process(
        _answer, folder, [(1, _CLIP_SECS)], 20 * repeats
    )
    sizes = [(batch, _CLIP_SECS) for batch in _BATCHES]
    (_, many), _ = timing.in_new_process(_answer, folder, sizes, repeats)
    (_, hour), hour_peak = timing.in_new_process(_answer, folder, [(1, _HOUR_SECS)], 0)
    rows = [
        ["export loaded", f"{load_secs:.1f} s"],
        ["first answer", f"{first:.1f} s"],
        [f"later answers ({len(later)})", timing.milliseconds(later)],
        ["99th percentile", f"{1e3 * np.percentile(later, 99):.0f} ms"],
        ["peak memory of the process", f"{peak:.0f} MB"],
        ["one hour of audio", f"{hour[0][0]:.1f} s"],
        ["peak memory, one hour", f"{hour_peak:.0f} MB"],
    ]
    timing.table(f"An export, clips of {_CLIP_SECS} s", ["", ""], rows)
    alone, rows = timing.median(many[0][1:]), []
    for batch, (_, *secs) in zip(_BATCHES, many, strict=True):
        rate = batch / timing.median(secs)
        cells = timing.milliseconds(secs), f"{rate:.1f}", f"{rate * alone:.2f}"
        rows.append([str(batch), *cells])
    head = ["clips per request", "time", "clips per second", "relative to 1 clip"]
    timing.table("Throughput", head, rows)


def _answer(
    folder: str, sizes: list[tuple[int, int]], repeats: int
) -> tuple[float, list[list[float]]]:
    """Returns the seconds to load an export, and those of its answers for each size."""
    start = time.perf_counter()
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    load_secs, taken = time.perf_counter() - start, []
    for batch, secs in sizes:
        shape = [batch, secs * params.SAMPLE_RATE_HZ]
        clips = tf.random.uniform(shape, -0.1, 0.1)

        def call(clips: tf.Tensor = clips) -> np.ndarray:
            return serve(waveform=clips)["scores"].numpy()

        taken.append([timing.once(call) for _ in range(1 + repeats)])
    return load_secs, taken
