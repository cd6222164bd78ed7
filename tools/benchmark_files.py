"""Speed and memory of prediction and extraction from files, for `benchmark`."""

from __future__ import annotations

import csv
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import timing

_RATE_HZ = 16_000
_SUFFIXES = (".mp3", ".wav", ".flac")
# So many files stand for all where parts of the work are looked at one by one.
_SAMPLE_FILES = 64
_BATCH_SEGMENTS = 8


def names_in(folders: Sequence[str], most: int | None) -> list[str]:
    """Returns the audio files in folders, sorted."""
    names = sorted(
        str(path)
        for folder in folders
        for path in pathlib.Path(folder).rglob("*")
        if path.suffix in _SUFFIXES
    )
    if not names:
        raise ValueError(f"no audio files in {', '.join(folders) or 'no folder'}")
    return names[:most]


def speed(model: str, names: Sequence[str]) -> None:
    """Measures the programs as a person calls them, then the parts of the work."""
    from genre_tl.audio import decoding

    start = time.perf_counter()
    lengths = [len(c.waveform) for c in decoding.read(names) if c.waveform is not None]
    decoding_secs = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        predicting = _predict_secs(model, names, folder)
        starting = _predict_secs(model, names[:1], folder)
        extracting = _extract_secs(names, folder)
    loop_secs, loop_audio_secs = _loop_secs(names[:3])
    audio_secs = sum(lengths) / _RATE_HZ
    loop = loop_secs * audio_secs / loop_audio_secs
    rows = [
        ("predict, whole program", predicting),
        ("of that, the start: the same of one file", starting),
        ("extract_features, whole program", extracting),
        ("decoding and resampling alone", decoding_secs),
        (f"a loop over soundfile and kymatio, {len(names[:3])} files, scaled", loop),
    ]
    timing.table(
        f"{len(lengths)} files, {audio_secs:.0f} s of audio",
        ["", "time", "times real time", "times `predict`"],
        [
            [
                name,
                f"{secs:.1f} s",
                f"{audio_secs / secs:.0f}",
                f"{secs / predicting:.2f}",
            ]
            for name, secs in rows
        ],
    )
    _parts(model, names[:: max(1, len(names) // _SAMPLE_FILES)])


def _predict_secs(model: str, names: Sequence[str], folder: str) -> float:
    listed = os.path.join(folder, "list")
    with open(listed, "w", encoding="utf-8") as file:
        file.write("\n".join(names))
    output = f"--output={folder}/scores.csv"
    arguments = (f"--model={model}", "--format=csv", output, "-")
    start = time.perf_counter()
    with open(listed, "rb") as stdin:
        _run(["predict", *arguments], stdin=stdin)
    return time.perf_counter() - start


def _extract_secs(names: Sequence[str], folder: str) -> float:
    table = os.path.join(folder, "table.csv")
    with open(table, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        paths = map(os.path.abspath, names)
        rows.writerows([path, "ab"[index % 2]] for index, path in enumerate(paths))
    start = time.perf_counter()
    _run(["extract_features", f"--table={table}", f"--features_dir={folder}/store"])
    return time.perf_counter() - start


def _run(arguments: Sequence[str], **kwargs: Any) -> None:
    """Runs a tool to its end, quietly."""
    program = [sys.executable, "-m", f"{__package__}.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(program, capture_output=True, check=False, **kwargs)
    if done.returncode not in (0, 1):  # 1: there were broken files.
        raise ValueError(f"{arguments[0]} failed: {done.stderr.decode()[-500:]}")


def _parts(model: str, names: Sequence[str]) -> None:
    """Prints where the processors' time goes, of a part of the files."""
    import tensorflow as tf

    from genre_tl import features, params, serving
    from genre_tl.audio import decoding, resampling

    clips, reading = _cpu(lambda: [c for c in decoding.read(names) if not c.error])
    lengths = [len(clip.waveform) / _RATE_HZ for clip in clips]
    raw = [
        (np.zeros(round(secs * clip.rate_hz), np.float32), clip.rate_hz)
        for clip, secs in zip(clips, lengths, strict=True)
    ]
    _, resample = _cpu(lambda: [resampling.resample(*x, _RATE_HZ) for x in raw])
    predictor = serving.Predictor(model)
    waveforms = [clip.waveform for clip in clips]
    predictor.scores(waveforms[:1])
    _, scoring = _cpu(lambda: predictor.scores(waveforms))
    size = params.Frontend().segment_samples
    layer = features.LogScattering.from_params(params.Frontend())
    layer.build((None, size))
    # Mirrored already, as an export and the extraction cut segments.
    batch = tf.random.normal([_BATCH_SEGMENTS, size]), tf.fill([_BATCH_SEGMENTS], size)
    graph = tf.function(layer.of_mirrored, autograph=False)
    graph(*batch)
    num_segments = sum(math.ceil(len(each) / size) for each in waveforms)
    count = -(-num_segments // _BATCH_SEGMENTS)
    _, scatter = _cpu(lambda: [graph(*batch).numpy() for _ in range(count)])
    scatter *= num_segments / (count * _BATCH_SEGMENTS)
    parts = {
        "decoding": reading - resample,
        "resampling": resample,
        "scattering transform": scatter,
        "recurrent network and the rest": scoring - scatter,
    }
    total = sum(parts.values())
    timing.table(
        f"Where the processors' time goes once all is loaded, of {len(clips)} files",
        ["", "a file", "share"],
        [
            [name, f"{1e3 * secs / len(clips):.1f} ms", f"{100 * secs / total:.0f} %"]
            for name, secs in parts.items()
        ],
    )


def _cpu(call: timing.Call) -> tuple[Any, float]:
    """Returns what a call gives and the processor time it takes, the second time."""
    call()
    start = time.process_time()
    return call(), time.process_time() - start


def _loop_secs(names: Sequence[str]) -> tuple[float, float]:
    """Returns the seconds that a plain program takes, and those of the audio."""
    import soundfile
    import tensorflow as tf
    from kymatio.tensorflow import Scattering1D

    layers: dict[int, Any] = {}
    taken = audio_secs = 0.0
    for name in [names[0], *names]:  # The first one twice: filters are made.
        start = time.perf_counter()
        samples, rate_hz = soundfile.read(name, always_2d=True, dtype="float32")
        positions = np.arange(0, len(samples), rate_hz / _RATE_HZ)
        clip = np.interp(positions, np.arange(len(samples)), samples.mean(1))
        size = len(clip)
        if size not in layers:
            layers = {size: Scattering1D(J=13, Q=8, shape=size)}
            layers[size](tf.zeros([1, size]))
            start = time.perf_counter()
        layers[size](tf.constant(clip[None], tf.float32)).numpy()
        taken += time.perf_counter() - start
        audio_secs += size / _RATE_HZ
    return taken, audio_secs


def memory(model: str, num_files: int, hours: float, picture: str) -> None:
    """Measures prediction's memory over many files and over long ones; draws it."""
    from . import drawings

    curves = {}
    for name, source in _sources(num_files, hours):
        curves[name] = _memory_of(model, source)
    timing.table(
        "Resident memory of `predict`, TensorFlow and the export included",
        ["", "time", "after a tenth", "after a half", "at the end", "peak"],
        [[name, *_summary(*curve)] for name, curve in curves.items()],
    )
    drawings.memory(curves, picture)


def _sources(num_files: int, hours: float) -> Iterator[tuple[str, str]]:
    """Yields what to predict: its name, and a file or folder that lasts till next."""
    import soundfile

    chance = np.random.default_rng(0)
    minute = chance.uniform(-0.3, 0.3, 60 * _RATE_HZ)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(num_files):
            clip = chance.uniform(-0.3, 0.3, chance.integers(1, 3 * _RATE_HZ))
            soundfile.write(f"{folder}/{index:05d}.wav", clip, _RATE_HZ)
        yield f"{num_files} files of up to 3 s", folder
    with tempfile.TemporaryDirectory() as folder:
        path, rate_hz = f"{folder}/long.wav", 22_050
        with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
            for _ in range(round(60 * hours)):
                file.write(np.resize(minute, 60 * rate_hz))
        yield f"a WAV of {hours:g} hours", path
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/long.mp3"
        soundfile.write(path, minute, _RATE_HZ)
        joined = pathlib.Path(path).read_bytes()
        with open(path, "ab") as appended:
            for _ in range(round(60 * hours) - 1):
                appended.write(joined)
        yield f"an MP3 of {hours:g} hours", path


def _memory_of(model: str, source: str) -> tuple[list[float], list[float]]:
    """Returns the times, in seconds, and the resident memory then, in MB."""
    program = [sys.executable, "-m", f"{__package__}.predict", f"--model={model}"]
    with tempfile.TemporaryDirectory() as folder:
        output = f"--output={folder}/scores.csv"
        process = subprocess.Popen([*program, output, "--format=csv", source])
        secs, megabytes = timing.resident(process)
    if process.returncode:
        raise ValueError(f"predict failed with exit code {process.returncode}")
    return secs, megabytes


def _summary(secs: Sequence[float], megabytes: Sequence[float]) -> list[str]:
    count = len(megabytes)
    shown = [megabytes[count // 10], megabytes[count // 2], megabytes[count - 2]]
    texts = [f"{each:.0f} MB" for each in (*shown, max(megabytes))]
    return [f"{secs[-1]:.0f} s", *texts]
