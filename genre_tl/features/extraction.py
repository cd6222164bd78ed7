"""Audio files to frames in a feature store; the unit of work is one shard.

`extract` compares a table with a store, computes what is missing and returns a
summary. `docs/features.md` shows how to use it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import operator
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import files, params
from genre_tl.audio import decoding
from genre_tl.data import datasets
from genre_tl.features import feature_store, framing, log_scattering

# A kill costs at most the work of one shard: so many files, or bytes of audio.
_SHARD_FILES, _SHARD_BYTES = 64, 2**28

# A long file is computed in pieces of so many segments, two pieces at a time.
_PIECE_SEGMENTS, _NUM_THREADS = 8, 2

# Computes the frames of the segments of a piece, and how many of them are valid.
_Task = futures.Future[tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Result of one extraction.

    Clips are computed, repeated (identical audio) or unchanged. `failures` has the
    path and reason of every clip without features, `notes` those of clips used in
    spite of a defect, `removed` the clips of the store not in the table or on disk.
    """

    num_computed: int
    num_repeated: int
    num_unchanged: int
    failures: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]

    @property
    def num_usable(self) -> int:
        """Clips of the table that have features."""
        return self.num_computed + self.num_repeated + self.num_unchanged

    def __str__(self) -> str:
        extra = f"; {len(self.removed)} in the store are not in the collection"
        return (
            f"{self.num_usable} files ready: {self.num_computed} new, "
            f"{self.num_repeated} duplicates, {self.num_unchanged} unchanged, "
            f"{len(self.failures)} failed{extra if self.removed else ''}"
        )


def extract(
    dataset: datasets.Dataset,
    store_dir: str | os.PathLike[str],
    frontend: params.Frontend,
    *,
    max_secs: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Brings a feature store up to date with the files of a table.

    Reads files that are new or changed, by size and modification time, or could not
    be read before; of each file at most `max_secs`, from its beginning. Rerun it to
    resume after an interruption; the result is identical to an uninterrupted run. A
    store that is up to date is not written to, one that is missing is created.

    `on_progress` is called with the numbers of files done and to do, if any are to do.

    Raises:
      ValueError: if `max_secs` is out of range, or the store has other parameters, is
        damaged or is being written by another process.
      OSError: if the store cannot be read or written.
    """
    if max_secs is not None and not 0 < max_secs < math.inf:
        raise ValueError(f"max_secs is {max_secs}; give seconds above 0, or None")
    folder, num_computed = pathlib.Path(store_dir), 0
    feature_store.create(folder, frontend, max_secs)
    opened = functools.partial(feature_store.Store, folder, frontend, max_secs=max_secs)
    store = opened()
    pending, touched, gone = store.changes(dataset.root, dataset.paths)
    if pending:
        with files.lock(folder):
            store = opened()  # another process may have filled it
            pending, touched, gone = store.changes(dataset.root, dataset.paths)
            num_computed = _compute(dataset.root, pending, store, frontend, on_progress)
            if touched:
                store.update(touched)
            store.remove_unused()
    elif touched:
        # It saves time later; a store that cannot be written to is usable.
        with contextlib.suppress(OSError, ValueError), files.lock(folder):
            store.update(touched)
    return _summary(store, dataset.paths, pending, num_computed, gone)


def _compute(
    root: pathlib.Path,
    pending: Sequence[feature_store.Row],
    store: feature_store.Store,
    frontend: params.Frontend,
    on_progress: Callable[[int, int], None],
) -> int:
    """Computes the pending files, shard by shard; returns how many gave frames."""
    pieces = decoding.read(
        [str(root / row.path) for row in pending],
        piece_samples=_PIECE_SEGMENTS * frontend.segment_samples,
        max_secs=store.params["max_secs"],
    )
    decoded = itertools.groupby(pieces, key=operator.attrgetter("index"))
    num_done = num_computed = 0
    on_progress(num_done, len(pending))
    for shard in _shards(pending):
        opened = (_File(root, row, next(decoded)[1]) for row in shard)
        started = []
        for file in _started(opened, set(store.by_sha256), frontend):
            started.append(file)
            num_done += 1
            on_progress(num_done, len(pending))
        results = [(row, _valid_frames(row, tasks)) for row, tasks in started]
        store.write_shard(results)
        num_computed += sum(bool(frames) for _, frames in results)
    return num_computed


def _shards(rows: Sequence[feature_store.Row]) -> Iterator[list[feature_store.Row]]:
    shard: list[feature_store.Row] = []
    for row in rows:
        shard.append(row)
        num_bytes = sum(row.bytes for row in shard)
        if len(shard) == _SHARD_FILES or num_bytes >= _SHARD_BYTES or row is rows[-1]:
            yield shard
            shard = []


def _started(
    opened: Iterable[_File], seen: set[str], frontend: params.Frontend
) -> Iterator[tuple[feature_store.Row, list[_Task]]]:
    """Yields each file's row and the tasks for its pieces; `seen` audio has none."""
    transform = _transform(frontend)
    tasks: list[_Task] = []
    piece_samples = _PIECE_SEGMENTS * frontend.segment_samples
    with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        for file in opened:
            first = len(tasks)
            if file.sha256 not in seen:
                for piece in framing.pieces(file, piece_samples):
                    waveform, padding = piece.waveform[np.newaxis], [piece.padding]
                    tasks.append(pool.submit(transform, waveform, padding))
                    futures.wait(tasks[-2 * _NUM_THREADS : 1 - 2 * _NUM_THREADS])
            row = file.finish()
            if not row.error:
                seen.add(row.sha256)
            yield row, tasks[first:]


def _valid_frames(row: feature_store.Row, tasks: Iterable[_Task]) -> list[np.ndarray]:
    """Returns the valid frames of each segment; one frame if there is no sound."""
    outputs = [(x.numpy() for x in task.result()) for task in tasks]
    segments = [segment for output in outputs for segment in zip(*output, strict=True)]
    sound = [frames[:count] for frames, count in segments if count]
    return [] if row.error else sound or [frames[:1] for frames, _ in segments[:1]]


class _File:
    """The waveforms of a file; then its row in the index."""

    def __init__(
        self,
        root: pathlib.Path,
        row: feature_store.Row,
        pieces: Iterator[decoding.Clip],
    ) -> None:
        self._root, self._row, self._pieces = root, row, pieces
        self._num_samples, self._is_too_loud = 0, False
        self.sha256 = feature_store.sha256(root / row.path)

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece in self._pieces:
            self._last = piece
            if piece.waveform is not None:
                self._num_samples += len(piece.waveform)
                peak = np.abs(piece.waveform).max(initial=0)
                self._is_too_loud |= bool(peak > framing.LOUDEST)
                yield piece.waveform

    def finish(self) -> feature_store.Row:
        """Reads the rest and returns the row of the whole file."""
        collections.deque(self, maxlen=0)
        error = self._last.error
        values: dict[str, Any] = {}
        # Checked last, so that the row describes what was decoded and hashed.
        if feature_store.Row.of(self._root, self._row.path) != self._row:
            error = "it changed while it was read; extract again"
        elif self._last.is_system_error or not self.sha256:
            # Without a checksum it is tried again, and is no duplicate.
            error = error or "it could not be read to its end; extract again"
        else:
            num_samples = 0 if error else self._num_samples
            secs = round(num_samples / params.SAMPLE_RATE_HZ, 3)
            values = {"sha256": self.sha256, "secs": secs, "note": self._last.note}
            if self._is_too_loud:
                error = error or "its samples are too large to compute with"
        return dataclasses.replace(self._row, error=error, **values)


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


def _summary(
    store: feature_store.Store,
    paths: Sequence[str],
    pending: Sequence[feature_store.Row],
    num_computed: int,
    gone: Sequence[str],
) -> Summary:
    rows = [store.index[path] for path in paths]
    usable = {row.path for row in rows if not row.error}
    num_new = len(usable & {row.path for row in pending})
    return Summary(
        num_computed=num_computed,
        num_repeated=num_new - num_computed,
        num_unchanged=len(usable) - num_new,
        failures=tuple((row.path, row.error) for row in rows if row.error),
        notes=tuple((row.path, row.note) for row in rows if row.note),
        removed=tuple(gone),
    )
