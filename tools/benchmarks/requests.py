"""Time and memory of the requests that cost a server most, by their size."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from genre_tl.audio import streaming, wav_graph
from genre_tl.serving import versions, warmup

from . import files, timing

_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_MOST = wav_graph.MAX_CLIPS
_SLOW_HZ = 767_957  # a prime

Request = tuple[str, object]
"""Name of a signature, and its input."""


def worst(model: str) -> None:
    """Prints time and peak memory of a process that answers each request."""
    folder, rows = str(versions.newest(model) or model), []
    for kind in _KINDS:
        for num_bytes in _SIZES:
            program = "import sys; from tools.benchmarks import requests as r; "
            program += "r.answer(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
            command = [sys.executable, "-c", program, folder, kind, str(num_bytes)]
            done = subprocess.run(command, capture_output=True, check=True)
            secs, peak, refusal = json.loads(done.stdout)
            cells = kind, f"{num_bytes / 1e3:g} kB", f"{secs:.2f} s", peak, refusal
            rows.append(cells)
            print(*cells, file=sys.stderr, flush=True)
    head = ["request", "size", "time", "peak memory", "refused"]
    timing.table("The requests that cost most", head, rows)


def answer(folder: str, kind: str, num_bytes: int) -> None:
    """Answers one request in this process; prints time, memory and refusal as JSON."""
    signatures = tf.saved_model.load(folder).signatures
    for name, (argument, value) in warmup.requests().items():
        signatures[name](**{argument: tf.constant(value)})
    name, given = _KINDS[kind](num_bytes)
    (argument,) = signatures[name].structured_input_signature[1]
    refusal = ""

    def call() -> None:
        nonlocal refusal
        try:
            signatures[name](**{argument: tf.constant(given)})
        except tf.errors.InvalidArgumentError as error:
            text = error.message.partition("assertion failed: [")[2] or error.message
            refusal = text.splitlines()[0].strip("'[] ")

    secs = timing.once(call)
    print(json.dumps([secs, files.peak_memory(), refusal]))


def _wav(num_bytes: int, rate_hz: int = streaming.MIN_RATE_HZ) -> bytes:
    """Returns an 8-bit WAV file of noise, of one sample at least."""
    size = max(num_bytes - 44, 1)
    noise = np.random.default_rng(0).bytes(size)
    fields = 16, 1, 1, rate_hz, rate_hz, 1, 8
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", *fields) + b"data"
    return (
        b"RIFF" + struct.pack("<I", 36 + size) + head + struct.pack("<I", size) + noise
    )


def _beside_a_long_one(count: int, num_bytes: int) -> Request:
    room = wav_graph.MAX_BATCH_SAMPLES // _MOST // 16 if count < _MOST else num_bytes
    long = _wav(min(num_bytes - 45 * count, room))
    return "audio_bytes", [_wav(0)] * count + [long]


def _of_two_segments(num_bytes: int) -> Request:
    count = min(max(num_bytes // 31_000, 1), _MOST)
    return "audio_bytes", [_wav(min(num_bytes // count, 31_000))] * count


def _of_empty_chunks(num_bytes: int) -> Request:
    body = b"WAVE" + b"JUNK\0\0\0\0" * (num_bytes // _MOST // 8)
    return "audio_bytes", [b"RIFF" + struct.pack("<I", len(body)) + body] * _MOST


def _samples(name: str) -> Callable[[int], Request]:
    return lambda num_bytes: (name, np.full([1, num_bytes // 4], 0.5, np.float32))


def _clips(name: str, *shape: int) -> Callable[[int], Request]:
    return lambda _: (name, np.full(shape, 0.5, np.float32))


_KINDS: dict[str, Callable[[int], Request]] = {
    "a million clips without samples": _clips("serving_default", 10**6, 0),
    "the most clips, of one sample": _clips("serving_default", _MOST, 1),
    "their taggram": _clips("taggram", _MOST, 1),
    "one waveform": _samples("serving_default"),
    "its taggram": _samples("taggram"),
    "a WAV at 1 kHz": lambda size: ("audio_bytes", [_wav(size)]),
    "WAVs of two segments at 1 kHz": _of_two_segments,
    "335 short WAVs beside a long one": lambda size: _beside_a_long_one(335, size),
    "the most WAVs beside a long one": lambda size: _beside_a_long_one(_MOST - 1, size),
    "two WAVs at 767,957 Hz": lambda x: ("audio_bytes", [_wav(x // 2, _SLOW_HZ)] * 2),
    "the most WAVs, of empty chunks": _of_empty_chunks,
}
