"""Speed and error of the scattering layer, beside kymatio."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

# Unlike kymatio.numpy and kymatio.tensorflow, these load with SciPy 1.17 too.
from kymatio.scattering1d.frontend.numpy_frontend import ScatteringNumPy1D
from kymatio.scattering1d.frontend.tensorflow_frontend import ScatteringTensorFlow1D

from genre_tl import params, scattering
from genre_tl.audio import decoding
from genre_tl.evaluation import plots

from . import timing

_J, _Q = 13, 8
_CLIP_SECS, _EXACT_SECS = 30, 8
_CLIP_SAMPLES = _CLIP_SECS * params.SAMPLE_RATE_HZ


def speed(repeats: int) -> None:
    """Prints the time of a call beside kymatio's, for batches of 1 and 8."""
    spec = tf.TensorSpec([None, _CLIP_SAMPLES], tf.float32)
    layer = tf.function(scattering.Scattering1D(_J, _Q), [spec], autograph=False)
    kymatio = ScatteringTensorFlow1D(_J, _CLIP_SAMPLES, _Q)
    for batch in (1, 8):
        clips = tf.random.stateless_normal([batch, _CLIP_SAMPLES], [0, 0])
        calls = {
            "genre_tl": lambda clips=clips: layer(clips).numpy(),
            "kymatio, TensorFlow": lambda clips=clips: kymatio(clips).numpy(),
        }
        secs = timing.seconds(list(calls.values()), repeats)
        own, rows = timing.median(secs[0]), []
        for name, each in zip(calls, secs, strict=True):
            typical = timing.median(each)
            rate, ratio = batch * _CLIP_SECS / typical, typical / own
            cells = timing.milliseconds(each), f"{rate:.0f}", f"{ratio:.1f}"
            rows.append([name, *cells])
        head = ["", "time", "times real time", "relative to genre_tl"]
        timing.table(f"{batch} clips of {_CLIP_SECS} s", head, rows)


def accuracy(recording: str, output_dir: str) -> None:
    """Prints and draws the error of every path, for the start of a recording.

    The reference is kymatio in double precision and without inner subsampling; it
    takes a minute and 2 GB.
    """
    [clip] = decoding.read([recording], max_secs=_EXACT_SECS)
    if clip.waveform is None:
        raise ValueError(f"{clip.path}: {clip.error}")
    kymatio = ScatteringNumPy1D(_J, len(clip.waveform), _Q, oversampling=_J)
    exact = kymatio(clip.waveform.astype(np.float64))[:, :: 2**_J]
    errors, rows = {}, []
    for name, dtype in (("standard", "float32"), ("high", "float64")):
        layer = scattering.Scattering1D(_J, _Q, precision=name, dtype=dtype)
        actual = layer(clip.waveform[None].astype(dtype))[0].numpy()
        difference = actual - exact[:, : actual.shape[1]]
        error = np.linalg.norm(difference, axis=1) / np.linalg.norm(exact, axis=1)
        errors[name] = error
        rows.append([name, f"{np.median(error):.1e}", f"{error.max():.1e}"])
    timing.table("Relative error of a path", ["precision", "median", "largest"], rows)
    meta = kymatio.meta()
    last = np.nan_to_num(meta["xi"])[np.arange(len(exact)), meta["order"] - 1]
    os.makedirs(output_dir, exist_ok=True)
    path = os.path.join(output_dir, "scattering_error.png")
    draw_errors(errors, meta["order"], last * params.SAMPLE_RATE_HZ, path)
    print(path)


def draw_errors(
    errors: Mapping[str, np.ndarray], order: np.ndarray, hz: np.ndarray, path: str
) -> None:
    """Draws relative errors, each `[paths]`, against the last wavelet's frequency."""
    title = "Relative error by path, against the exact transform"
    with plots.picture(path, title, (9, 4.8)) as fig:
        row = fig.subplots(1, 2, sharey=True)
        for ax, number in zip(row, (1, 2), strict=True):
            chosen = order == number
            for (name, values), line in zip(errors.items(), plots.LINES, strict=False):
                label = f"{name}: median {np.median(values[chosen]):.1e}"
                color = line["color"]
                ax.plot(hz[chosen], values[chosen], ".", color=color, label=label)
            ax.set(xscale="log", yscale="log", title=f"order {number}")
            ax.set_xlabel("centre frequency of the last wavelet (Hz)")
            plots.legend_below(ax)
        row[0].set_ylabel("relative error in L2")
