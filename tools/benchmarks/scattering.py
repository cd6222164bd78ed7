"""Speed, memory and error of the scattering layer, beside kymatio."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

# Unlike kymatio.numpy and kymatio.tensorflow, these load with SciPy 1.17 too.
from kymatio.scattering1d.frontend.numpy_frontend import ScatteringNumPy1D
from kymatio.scattering1d.frontend.tensorflow_frontend import ScatteringTensorFlow1D

from genre_tl import params, scattering
from genre_tl.audio import decoding

from . import drawings, timing

_J, _Q = 13, 8
_CLIP_SECS = 30
_CLIP_SAMPLES = _CLIP_SECS * params.SAMPLE_RATE_HZ


def speed(repeats: int) -> None:
    """Prints the time beside kymatio's, and the memory."""
    _, graph = _built_and_traced()
    kymatio = ScatteringTensorFlow1D(_J, _CLIP_SAMPLES, _Q)
    for batch in (1, 8):
        clips = tf.random.stateless_normal([batch, _CLIP_SAMPLES], [0, 0])
        calls = {
            "genre_tl": lambda clips=clips: graph(clips).numpy(),
            "kymatio, TensorFlow": lambda clips=clips: kymatio(clips).numpy(),
        }
        secs = timing.seconds(list(calls.values()), repeats)
        own, rows = timing.median(secs[0]), []
        for name, each in zip(calls, secs, strict=True):
            rate, ratio = (
                batch * _CLIP_SECS / timing.median(each),
                timing.median(each) / own,
            )
            rows.append(
                [name, timing.milliseconds(each), f"{rate:.0f}", f"{ratio:.1f}"]
            )
        head = ["", "time", "times real time", "relative to genre_tl"]
        timing.table(f"{batch} clips of {_CLIP_SECS} s", head, rows)
    _by_itself()


def _by_itself() -> None:
    runs = {batch: timing.in_new_process(_run_layer, batch) for batch in (0, 1, 8)}
    (built, traced), _ = runs[1]
    rows = [["layer built", f"{built:.2f} s"], ["traced", f"{traced:.2f} s"]]
    for batch, (_, peak) in runs.items():
        what = f"batches of {batch}" if batch else "without a call"
        rows.append([f"peak memory of the process, {what}", f"{peak:.0f} MB"])
    timing.table(f"The layer at {_CLIP_SECS} s", ["", ""], rows)


def _run_layer(batch: int) -> tuple[float, float]:
    secs, graph = _built_and_traced()
    for _ in range(3 if batch else 0):
        graph(tf.random.normal([batch, _CLIP_SAMPLES]))
    return secs


def _built_and_traced() -> tuple[tuple[float, float], Any]:
    # Returns the seconds of both, and the graph, for batches of any size.
    start = time.perf_counter()
    layer = scattering.Scattering1D(_J, _Q)
    layer.build((None, _CLIP_SAMPLES))
    built = time.perf_counter()
    spec = tf.TensorSpec([None, _CLIP_SAMPLES], tf.float32)
    graph = tf.function(layer, [spec], autograph=False).get_concrete_function()
    return (built - start, time.perf_counter() - built), graph


def accuracy(recording: str, output_dir: str) -> None:
    """Draws a recording's coefficients, and their error path by path.

    The reference is kymatio in double precision and without inner subsampling, for
    the first 8 seconds; it takes a minute and 2 GB.
    """
    [clip] = decoding.read([recording], max_secs=_CLIP_SECS)
    if clip.waveform is None:
        raise ValueError(f"{clip.path}: {clip.error}")
    os.makedirs(output_dir, exist_ok=True)
    for name, draw in (
        ("scaleogram", _draw_coefficients),
        ("scattering_error", _draw_errors),
    ):
        path = os.path.join(output_dir, f"{name}.png")
        draw(clip.waveform, path)
        print(path)


def _draw_coefficients(waveform: np.ndarray, path: str) -> None:
    layer = scattering.Scattering1D(_J, _Q)
    fine = scattering.Scattering1D(_J, _Q, T=256, max_order=1)  # 16 ms per frame.
    first = fine(waveform[None])[0, 1:].numpy()
    both = layer(waveform[None])[0].numpy()
    drawings.scaleogram(waveform, first, both, layer.meta(), path)


def _draw_errors(waveform: np.ndarray, path: str) -> None:
    waveform = waveform[: 8 * params.SAMPLE_RATE_HZ]
    kymatio = ScatteringNumPy1D(_J, len(waveform), _Q, oversampling=_J)
    exact = kymatio(waveform.astype(np.float64))[:, :: 2**_J]
    errors, rows = {}, []
    for name, dtype in (("standard", "float32"), ("high", "float64")):
        layer = scattering.Scattering1D(_J, _Q, precision=name, dtype=dtype)
        actual = layer(waveform[None].astype(dtype))[0].numpy()
        difference = actual - exact[:, : actual.shape[1]]
        error = np.linalg.norm(difference, axis=1) / np.linalg.norm(exact, axis=1)
        errors[name] = error
        rows.append([name, f"{np.median(error):.1e}", f"{error.max():.1e}"])
    timing.table("Relative error of a path", ["precision", "median", "largest"], rows)
    meta = kymatio.meta()
    last = np.nan_to_num(meta["xi"])[np.arange(len(exact)), meta["order"] - 1]
    drawings.path_errors(errors, meta["order"], last * params.SAMPLE_RATE_HZ, path)
