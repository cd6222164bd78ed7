"""Start, latency and throughput of an export."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.serving import versions

from . import timing

_CLIP_SECS = 30
_BATCHES = (1, 2, 4, 8, 16)


def speed(model: str, repeats: int) -> None:
    """Prints how long an export takes to load and to answer."""
    start = time.perf_counter()
    folder = str(versions.newest(model) or model)
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    load_secs = time.perf_counter() - start
    first, *later = _answer_secs(serve, 1, 20 * repeats)
    rows = [
        ["export loaded", f"{load_secs:.1f} s"],
        ["first answer", f"{first:.1f} s"],
        [f"later answers ({len(later)})", timing.milliseconds(later)],
        ["99th percentile", f"{1e3 * np.percentile(later, 99):.0f} ms"],
    ]
    timing.table(f"An export, clips of {_CLIP_SECS} s", ["", ""], rows)
    alone, rows = timing.median(later), []
    for batch in _BATCHES:
        secs = _answer_secs(serve, batch, repeats)[1:]
        rate = batch / timing.median(secs)
        cells = timing.milliseconds(secs), f"{rate:.1f}", f"{rate * alone:.2f}"
        rows.append([str(batch), *cells])
    head = ["clips per request", "time", "clips per second", "relative to 1 clip"]
    timing.table("Throughput", head, rows)


def _answer_secs(serve: Any, batch: int, repeats: int) -> list[float]:
    """Times a warm-up request and `repeats` more."""
    shape = [batch, _CLIP_SECS * params.SAMPLE_RATE_HZ]
    clips = tf.random.uniform(shape, -0.1, 0.1)

    def call() -> np.ndarray:
        return serve(waveform=clips)["scores"].numpy()

    return [timing.once(call) for _ in range(1 + repeats)]
