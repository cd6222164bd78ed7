"""Speed and memory of the programs that read audio files."""

from __future__ import annotations

import csv
import functools
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile
import tensorflow as tf
from kymatio.scattering1d.frontend.tensorflow_frontend import ScatteringTensorFlow1D

from genre_tl import params
from genre_tl.audio import decoding

from . import timing

_RATE_HZ = params.SAMPLE_RATE_HZ
_LOOP_FILES = 3


def speed(model: str, folders: Sequence[str], max_files: int | None) -> None:
    """Prints the time of `predict` and `extract_features` for the files of folders.

    The peer is a loop over soundfile and kymatio, timed for a few files and scaled.

    Raises:
      ValueError: if there is no audio file, or a program fails.
    """
    paths = sorted(x for each in folders for x in pathlib.Path(each).rglob("*"))
    names = [str(x) for x in paths if x.suffix.lower() in (".mp3", ".wav", ".flac")]
    names = names[:max_files]
    if not names:
        raise ValueError(f"no audio files in {', '.join(folders) or 'no folder'}")
    secs = {"predict": timing.once(lambda: _predict(model, names))}
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    sizes: list[int] = []
    secs |= {
        "predict, one file": timing.once(lambda: _predict(model, names[:1])),
        "extract_features": timing.once(lambda: _extract(names)),
        "decoding and resampling": timing.once(lambda: sizes.extend(_read(names))),
    }
    audio_secs = sum(sizes) / _RATE_HZ
    few = names[:_LOOP_FILES]
    name = f"loop over soundfile and kymatio ({len(few)} files, scaled)"
    secs[name] = _loop_secs(few) * sum(sizes) / sum(sizes[: len(few)])
    rows = [
        [name, f"{x:.1f} s", f"{audio_secs / x:.0f}", f"{x / secs['predict']:.2f}"]
        for name, x in secs.items()
    ]
    head = ["", "time", "times real time", "relative to predict"]
    timing.table(f"{len(names)} files, {audio_secs:.0f} s of audio", head, rows)
    print(f"\nPeak memory of predict: {peak_mb:.0f} MB")


def _read(names: Sequence[str]) -> Iterator[int]:
    # The samples of each file.
    for clip in decoding.read(names):
        yield 0 if clip.waveform is None else len(clip.waveform)


def _predict(model: str, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = f"--output={folder}/scores.csv"
        command = _command("predict", f"--model={model}", "--format=csv", output)
        _run([*command, "--null", "-"], "\0".join(names))


def _extract(names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder, "table.csv")
        with table.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label"])
            paths = [str(pathlib.Path(name).absolute()) for name in names]
            rows.writerows([path, "ab"[i % 2]] for i, path in enumerate(paths))
        store = f"--features_dir={folder}/store"
        _run(_command("extract_features", f"--table={table}", store))


def _command(tool: str, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"{__package__.rpartition('.')[0]}.{tool}",
        *arguments,
    ]


def _run(command: Sequence[str], stdin: str = "") -> None:
    done = subprocess.run(
        command, input=stdin.encode(), capture_output=True, check=False
    )
    if done.returncode not in (0, 1):  # 1: some files are broken
        raise ValueError(f"{command[2]} failed: {done.stderr.decode()[-500:]}")


def _loop_secs(names: Sequence[str]) -> float:
    # The time of a plain program, without that of making kymatio's filters.
    secs = []
    for name in [names[0], *names]:  # the first one twice, as a warm-up
        samples, rate_hz = soundfile.read(name, always_2d=True, dtype="float32")
        positions = np.arange(0, len(samples), rate_hz / _RATE_HZ)
        clip = np.interp(positions, np.arange(len(samples)), samples.mean(1))
        batch = tf.constant(clip[np.newaxis], tf.float32)
        kymatio = ScatteringTensorFlow1D(J=13, Q=8, shape=len(clip))
        secs.append(timing.once(functools.partial(kymatio, batch)))
    return sum(secs[1:])
