"""Speed and memory of the programs that read audio files."""

from __future__ import annotations

import csv
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import soundfile
import tensorflow as tf
from kymatio.scattering1d.frontend.tensorflow_frontend import ScatteringTensorFlow1D

from genre_tl import params
from genre_tl.audio import decoding

from . import timing

if sys.platform != "win32":
    import resource

_RATE_HZ = params.SAMPLE_RATE_HZ
_LOOP_FILES, _LOOP_SECS = 3, 30
_PIECE_SAMPLES = 240 * _RATE_HZ


def speed(model: str, folders: Sequence[str], max_files: int | None) -> None:
    """Prints the time of `predict` and `extract_features` for the files of folders.

    The peer is a loop over soundfile and kymatio, timed for the first 30 s of a few
    files and scaled.
    """
    paths = sorted(x for each in folders for x in pathlib.Path(each).rglob("*"))
    names = [str(x) for x in paths if x.suffix.lower() in (".mp3", ".wav", ".flac")]
    names = names[:max_files]
    if not names:
        raise ValueError(f"no audio files in {', '.join(folders) or 'no folder'}")
    secs = {"predict": timing.once(lambda: _predict(model, names))}
    peak = peak_memory()
    secs["predict, one file"] = timing.once(lambda: _predict(model, names[:1]))
    secs["extract_features"] = timing.once(lambda: _extract(names))
    start = time.perf_counter()
    clips = decoding.read(names, piece_samples=_PIECE_SAMPLES)
    samples = sum(len(x.waveform) for x in clips if x.waveform is not None)
    secs["decoding and resampling"] = time.perf_counter() - start
    audio_secs = samples / _RATE_HZ
    name = f"loop over soundfile and kymatio ({len(names[:_LOOP_FILES])} files, scaled)"
    secs[name] = _loop_share(names[:_LOOP_FILES]) * audio_secs
    rows = [
        [name, f"{x:.1f} s", f"{audio_secs / x:.0f}", f"{x / secs['predict']:.2f}"]
        for name, x in secs.items()
    ]
    head = ["", "time", "times real time", "relative to predict"]
    timing.table(f"{len(names)} files, {audio_secs:.0f} s of audio", head, rows)
    print(f"\nPeak memory of predict: {peak}")


def peak_memory(of_children: bool = True) -> str:
    """Returns the peak memory of the programs that this one waited for, or its own."""
    if sys.platform == "win32":
        return "not known on Windows"
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    kilobytes = resource.getrusage(who).ru_maxrss
    return f"{kilobytes / 1024 ** (1 + (sys.platform == 'darwin')):.0f} MB"


def _predict(model: str, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = f"--output={folder}/scores.csv"
        arguments = f"--model={model}", "--format=csv", output, "--null", "-"
        _run("predict", *arguments, stdin="\0".join(names))


def _extract(names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder, "table.csv")
        with table.open("w", encoding="utf-8", newline="") as file:
            rows = [[os.path.abspath(x), "ab"[i % 2]] for i, x in enumerate(names)]
            csv.writer(file).writerows([["path", "label"], *rows])
        _run("extract_features", f"--table={table}", f"--features_dir={folder}/store")


def _run(tool: str, *arguments: str, stdin: str = "") -> None:
    module = f"{__package__.rpartition('.')[0]}.{tool}"
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, input=stdin.encode(), capture_output=True)
    if done.returncode not in (0, 1):  # 1: some files are broken
        raise ValueError(f"{tool} failed: {done.stderr.decode()[-500:]}")


def _loop_share(names: Sequence[str]) -> float:
    # The time of a plain program per second of audio, without making the filters.
    secs, audio_secs = [], 0.0
    for name in [names[0], *names]:  # the first one twice, as a warm-up
        rate_hz = soundfile.info(name).samplerate
        samples, _ = soundfile.read(name, _LOOP_SECS * rate_hz, always_2d=True)
        positions = np.arange(0, len(samples), rate_hz / _RATE_HZ)
        clip = np.interp(positions, np.arange(len(samples)), samples.mean(1))
        batch = tf.constant(clip[np.newaxis], tf.float32)
        kymatio = ScatteringTensorFlow1D(J=13, Q=8, shape=len(clip))
        secs.append(timing.once(functools.partial(kymatio, batch)))
        audio_secs += len(clip) / _RATE_HZ if len(secs) > 1 else 0
    return sum(secs[1:]) / audio_secs
