"""Audio files to frames, for one shard of a feature store: a unit of work."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import operator
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import params, workers
from genre_tl.audio import decoding, sound
from genre_tl.features import feature_store, framing, log_scattering

# A long file is computed in pieces of so many segments, two pieces at a time.
_PIECE_SEGMENTS, _NUM_THREADS = 8, 2

# Without a further piece or file for so long, something is in a loop without end.
_STALL_SECS = 600

# Computes the frames of the segments of a piece, and how many of them are valid.
_Task = futures.Future[tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it was when the work was planned."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Job:
    """What all units of an extraction share. A unit is the files of one shard."""

    root: pathlib.Path
    shards: feature_store.Shards
    frontend: params.Frontend
    max_secs: float | None

    def run(
        self, unit: Sequence[File], on_file: Callable[[], None] = lambda: None
    ) -> dict[str, str] | None:
        """Computes a shard, unless it exists; calls `on_file` after each file.

        Returns reasons by SHA-256 for files that could not be read this time, or None
        if another process is computing the shard.
        """
        name = feature_store.shard_name(file.sha256 for file in unit)
        with self.shards.leased(name) as is_mine:
            if not is_mine:
                return None
            if self.shards.is_finished(name):
                return {}
            found = dict(self._compute(unit, on_file))
            results = [x for x in found.values() if not isinstance(x, str)]
            if results:
                self._write(name, results)
            return {digest: x for digest, x in found.items() if isinstance(x, str)}

    def _write(self, leased: str, results: Sequence[feature_store.Result]) -> None:
        """Writes a shard; without files that could not be read it has another name."""
        name = feature_store.shard_name(audio.sha256 for audio, _ in results)
        is_same = name == leased
        with contextlib.nullcontext() if is_same else self.shards.leased(name):
            self.shards.write(name, results)

    def _compute(
        self, unit: Sequence[File], on_file: Callable[[], None]
    ) -> Iterator[tuple[str, feature_store.Result | str]]:
        """Yields SHA-256 and result of each file, or why it could not be read."""
        pieces = decoding.read(
            [str(self.root / file.path) for file in unit],
            piece_samples=_PIECE_SEGMENTS * self.frontend.segment_samples,
            max_secs=self.max_secs,
        )
        decoded = itertools.groupby(pieces, key=operator.attrgetter("index"))
        opened = (_Waveforms(self.root, file, next(decoded)[1]) for file in unit)
        started = []
        for outcome, tasks in _started(opened, self.frontend):
            started.append((outcome, tasks))
            on_file()
        for file, (outcome, tasks) in zip(unit, started, strict=True):
            if isinstance(outcome, str):
                yield file.sha256, outcome
            else:
                frames = [] if outcome.error else _valid_frames(tasks)
                yield file.sha256, (outcome, frames)


def _started(
    opened: Iterable[_Waveforms], frontend: params.Frontend
) -> Iterator[tuple[feature_store.Audio | str, list[_Task]]]:
    """Yields each file's outcome and the tasks for its pieces."""
    transform = _transform(frontend)
    tasks: list[_Task] = []
    piece_samples = _PIECE_SEGMENTS * frontend.segment_samples
    with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        for file in opened:
            first = len(tasks)
            for piece in sound.pieces(file, piece_samples):
                waveform, padding = piece.waveform[np.newaxis], [piece.padding]
                tasks.append(pool.submit(transform, waveform, padding))
                futures.wait(tasks[-2 * _NUM_THREADS : 1 - 2 * _NUM_THREADS])
            yield file.finish(), tasks[first:]


def _valid_frames(tasks: Iterable[_Task]) -> list[np.ndarray]:
    """Returns the valid frames of each segment; one frame if there is no sound."""
    outputs = [(x.numpy() for x in task.result()) for task in tasks]
    segments = [segment for output in outputs for segment in zip(*output, strict=True)]
    sound = [frames[:count] for frames, count in segments if count]
    return sound or [frames[:1] for frames, _ in segments[:1]]


class _Waveforms:
    """The waveforms of a file; then what the store says of it."""

    def __init__(
        self, root: pathlib.Path, file: File, pieces: Iterator[decoding.Clip]
    ) -> None:
        self._root, self._file, self._pieces = root, file, pieces
        self._num_samples, self._is_too_loud = 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        workers.expect_progress(_STALL_SECS)
        for piece in self._pieces:
            workers.expect_progress(_STALL_SECS)
            self._last = piece
            if piece.waveform is not None:
                self._num_samples += len(piece.waveform)
                peak = np.abs(piece.waveform).max(initial=0)
                self._is_too_loud |= bool(peak > sound.LOUDEST)
                yield piece.waveform

    def finish(self) -> feature_store.Audio | str:
        """Reads the rest; returns a row, or why the file could not be read."""
        collections.deque(self, maxlen=0)
        file, last = self._file, self._last
        # Checked last, so that the row describes what was decoded.
        if feature_store.stat(self._root, file.path) != (file.bytes, file.mtime_ns):
            return "it changed while it was read; extract again"
        if last.is_system_error:
            return last.error
        error = last.error
        if self._is_too_loud:
            error = error or "its samples are too large to compute with"
        secs = 0.0 if error else round(self._num_samples / params.SAMPLE_RATE_HZ, 3)
        return feature_store.Audio(file.sha256, secs, last.note, error)


@functools.cache
def _transform(frontend: params.Frontend) -> Any:
    """Returns a traced function of a piece: frames and valid frames of its segments."""
    layer = log_scattering.LogScattering.from_params(frontend)
    layer.build((None, frontend.segment_samples))
    piece = tf.TensorSpec([1, None], tf.float32), tf.TensorSpec([1], tf.float32)

    @tf.function(input_signature=piece, autograph=False)
    def transform(waveform: tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, ...]:
        starts = tf.zeros([1], tf.int32)
        segments = framing.segments(waveform, frontend, starts, padding)
        rows = framing.cut(waveform, segments, frontend)
        counts = tf.where(segments.lengths > 0, segments.weights, 0.0)
        return layer.of_mirrored(rows, segments.lengths), tf.cast(counts, tf.int32)

    return transform
