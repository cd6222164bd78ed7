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
# For drawing the first order at 16 ms per frame.
_FINE_SAMPLES = 256


def speed(repeats: int) -> None:
    """Prints the time beside kymatio's, and the memory."""
    for batch in (1, 8):
        _beside_kymatio(batch, repeats)
    _by_itself()


def _beside_kymatio(batch: int, repeats: int) -> None:
    size = _CLIP_SECS * params.SAMPLE_RATE_HZ
    clips = np.random.default_rng(0).standard_normal([batch, size]).astype(np.float32)
    kymatio = ScatteringTensorFlow1D(_J, size, _Q)
    calls = {
        "genre_tl": _traced(clips),
        "kymatio, TensorFlow": lambda: kymatio(tf.constant(clips)).numpy(),
    }
    secs = timing.seconds(list(calls.values()), repeats)
    own = timing.median(secs[0])
    rows = [
        [
            name,
            timing.milliseconds(each),
            f"{batch * _CLIP_SECS / timing.median(each):.0f}",
            f"{timing.median(each) / own:.1f}",
        ]
        for name, each in zip(calls, secs, strict=True)
    ]
    head = ["", "time", "times real time", "relative to genre_tl"]
    timing.table(f"{batch} clips of {_CLIP_SECS} s", head, rows)


def _traced(clips: np.ndarray) -> timing.Call:
    # One graph for every batch size, as in a model.
    spec = tf.TensorSpec([None, clips.shape[1]], tf.float32)
    layer = scattering.Scattering1D(_J, _Q)
    graph = tf.function(layer, [spec], autograph=False)
    return lambda: graph(tf.constant(clips)).numpy()


def _by_itself() -> None:
    runs = {batch: timing.in_new_process(_run_layer, batch) for batch in (0, 1, 8)}
    (built, traced), _ = runs[1]
    rows = [["layer built", f"{built:.2f} s"], ["traced", f"{traced:.2f} s"]]
    names = {0: "without a call", 1: "batches of 1", 8: "batches of 8"}
    rows += [
        [f"peak memory of the process, {names[batch]}", f"{peak:.0f} MB"]
        for batch, (_, peak) in runs.items()
    ]
    timing.table(f"The layer at {_CLIP_SECS} s", ["", ""], rows)


def _run_layer(batch: int) -> tuple[float, float]:
    size = _CLIP_SECS * params.SAMPLE_RATE_HZ
    start = time.perf_counter()
    layer = scattering.Scattering1D(_J, _Q)
    layer.build((None, size))
    built = time.perf_counter()
    spec = tf.TensorSpec([None, size], tf.float32)
    graph = tf.function(layer, [spec], autograph=False).get_concrete_function()
    traced = time.perf_counter()
    for _ in range(3 if batch else 0):
        graph(tf.random.normal([batch, size]))
    return built - start, traced - built


def accuracy(recording: str, output_dir: str) -> None:
    """Draws a recording's coefficients, and their error path by path.

    The reference is kymatio in double precision and without inner subsampling, for
    the first 8 seconds; it takes a minute and 2 GB.

    Raises:
      ValueError: if the recording cannot be decoded.
    """
    [clip] = decoding.read([recording], max_secs=_CLIP_SECS)
    if clip.waveform is None:
        raise ValueError(f"{clip.path}: {clip.error}")
    os.makedirs(output_dir, exist_ok=True)
    path = os.path.join(output_dir, "scaleogram.png")
    _draw_coefficients(clip.waveform, path)
    print(path)
    path = os.path.join(output_dir, "scattering_error.png")
    _draw_errors(clip.waveform[: 8 * params.SAMPLE_RATE_HZ], path)
    print(path)


def _draw_coefficients(waveform: np.ndarray, path: str) -> None:
    layer = scattering.Scattering1D(_J, _Q)
    fine = scattering.Scattering1D(_J, _Q, T=_FINE_SAMPLES, max_order=1)
    drawings.scaleogram(
        waveform,
        fine(waveform[None])[0, 1:].numpy(),
        layer(waveform[None])[0].numpy(),
        layer.meta(),
        path,
        title=f"Scattering transform, J={_J}, Q={_Q}",
    )


def _draw_errors(waveform: np.ndarray, path: str) -> None:
    kymatio = ScatteringNumPy1D(_J, len(waveform), _Q, oversampling=_J)
    exact = kymatio(waveform.astype(np.float64))[:, :: 2**_J]
    errors, rows = {}, []
    for name, dtype in (("standard", "float32"), ("high", "float64")):
        error = errors[name] = _relative_error(waveform.astype(dtype), exact, name)
        rows.append([name, f"{np.median(error):.1e}", f"{error.max():.1e}"])
    timing.table("Relative error of a path", ["precision", "median", "largest"], rows)
    meta = kymatio.meta()
    last = np.nan_to_num(meta["xi"])[np.arange(len(exact)), meta["order"] - 1]
    hz = last * params.SAMPLE_RATE_HZ
    title = "Relative error by path, against the exact transform"
    drawings.path_errors(errors, meta["order"], hz, path, title=title)


def _relative_error(waveform: np.ndarray, exact: np.ndarray, precision: str) -> Any:
    layer = scattering.Scattering1D(_J, _Q, precision=precision, dtype=waveform.dtype)
    actual = layer(waveform[None])[0].numpy()
    difference = actual - exact[:, : actual.shape[1]]
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(exact, axis=1)
