"""What runs an export: TensorFlow, ONNX Runtime or LiteRT, each in a fresh process."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from genre_tl import params
from genre_tl.serving import runtimes, versions

from . import files, timing

_CLIP_SECS = 30
_NUM_ANSWERS = 60
_BATCHES = (1, 4, 16)
_TFLITE = "model_float32.tflite"

_Score = Callable[[np.ndarray], Any]


def compare(exports: Sequence[str], repeats: int) -> None:
    """Prints start, latency, throughput, memory and size of exports, in turns."""
    folders = [pathlib.Path(versions.newest(path) or path) for path in exports]
    found: dict[pathlib.Path, list[tuple[dict[str, float], str]]]
    found = {folder: [] for folder in folders}
    for _ in range(repeats):
        for folder in folders:
            command = [sys.executable, "-m", __name__, str(folder), str(time.time())]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found[folder].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for folder, results in found.items():
        numbers, peaks = zip(*results, strict=True)
        names = [*numbers[0]]
        middle = [timing.median([each[name] for each in numbers]) for name in names]
        cells = [f"{value:.3g}" for value in middle]
        rows.append([str(folder), *cells, peaks[0], f"{_num_bytes(folder) / 1e6:.1f}"])
    head = ["export", *names, "peak memory", "size, MB"]
    timing.table(f"Fresh processes, clips of {_CLIP_SECS} s", head, rows)


def _num_bytes(folder: pathlib.Path) -> int:
    """Returns the size of what a runtime loads."""
    names = _TFLITE, versions.ONNX, versions.SAVED_MODEL
    program = next(x for x in (folder / name for name in names) if x.is_file())
    # A SavedModel's weights, which an ONNX file beside it shares.
    paths = program, *folder.glob("variables/*")
    return sum(path.stat().st_size for path in paths)


def measure(folder: pathlib.Path, started: float) -> dict[str, float]:
    """Measures an export in this process, which began at the time `started`."""
    generator = np.random.default_rng(0)
    shape = max(_BATCHES), _CLIP_SECS * params.SAMPLE_RATE_HZ
    clips = generator.uniform(-0.1, 0.1, shape).astype(np.float32)
    score, num_parallel = _loaded(folder)
    score(clips[:1])
    start_secs, cpu_secs = time.time() - started, time.process_time()
    rates = [_rate(score, clips[:size], num_parallel) for size in _BATCHES]
    answers = [timing.once(lambda: score(clips[:1])) for _ in range(_NUM_ANSWERS)]
    return {
        "first answer, s": start_secs,
        "processor, s": cpu_secs,
        "a clip, ms": 1e3 * timing.median(answers),
        "99th percentile": 1e3 * float(np.percentile(answers, 99)),
        "clips a second": max(rate for rate, _ in rates),
        "processor, ms a clip": min(1e3 * secs for _, secs in rates),
    }


def _loaded(folder: pathlib.Path) -> tuple[_Score, int]:
    """Returns what scores a batch, and how many batches to compute at a time."""
    if not (folder / _TFLITE).is_file():
        runtime = runtimes.load(folder)
        zeros = np.zeros(max(_BATCHES), np.float32)
        return lambda x: runtime.score(x, zeros[: len(x)]), runtime.num_parallel
    from genre_tl.serving import tflite_and_keras

    interpreter = tflite_and_keras.litert.Interpreter(str(folder / _TFLITE))
    run = interpreter.get_signature_runner()
    return lambda batch: [run(waveform=row[np.newaxis]) for row in batch], 1


def _rate(score: _Score, batch: np.ndarray, num_parallel: int) -> tuple[float, float]:
    """Returns clips per second, several batches at a time, and processor time each."""
    count = num_parallel * len(batch)
    with futures.ThreadPoolExecutor(num_parallel) as pool:

        def together() -> None:
            list(pool.map(score, [batch] * num_parallel))

        together()
        before = time.process_time()
        secs = timing.once(together)
        return count / secs, (time.process_time() - before) / count


if __name__ == "__main__":
    found = measure(pathlib.Path(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps([found, files.peak_memory()]))
