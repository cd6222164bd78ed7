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

# Segments in one call of the scattering transform, and in a piece of a long file.
_BATCH_SEGMENTS = _PIECE_SEGMENTS = 8

_CHANGED = "it changed while it was read; extract again"
_NOT_READ = "it could not be read to its end; extract again"
_TOO_LOUD = "its samples are too large to compute with"

_Results = Iterator[tuple[feature_store.Row, list[np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Result of one extraction.

    Attributes:
      num_computed: clips whose features were computed now.
      num_repeated: clips whose audio is identical to that of another clip.
      num_unchanged: clips whose features existed already.
      failures: `(path, reason)` of every clip without features.
      notes: `(path, warning)` of clips that were used in spite of a defect.
      removed: clips in the store that left the table or the disk.
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
        text = (
            f"{self.num_usable} files ready: {self.num_computed} new, "
            f"{self.num_repeated} duplicates, {self.num_unchanged} unchanged, "
            f"{len(self.failures)} failed"
        )
        if self.removed:
            text += f"; {len(self.removed)} in the store are not in the collection"
        return text


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
    be read before. Rerun it to resume after an interruption; the result is identical
    to an uninterrupted run. A store that is up to date is not written to.

    Args:
      dataset: the clips.
      store_dir: folder of the store; created if necessary.
      frontend: how features are computed. A store has one front end.
      max_secs: use at most this much of each file, from its beginning.
      on_progress: called with the numbers of files done and to do, first and after
        each file, if there is anything to do.

    Raises:
      ValueError: if `max_secs` is out of range, the folder is not a store, was made
        with other parameters, or is being written by another process.
      OSError: if the store cannot be read or written.
    """
    _prepare(folder := pathlib.Path(store_dir), frontend, max_secs)
    store = feature_store.Store(folder)
    pending, touched, gone = store.changes(dataset.root, dataset.paths)
    known = set(store.by_sha256)
    if pending:
        with files.lock(folder):
            store = feature_store.Store(folder)  # another process may have filled it
            pending, touched, gone = store.changes(dataset.root, dataset.paths)
            known = set(store.by_sha256)
            _compute(dataset.root, pending, store, frontend, max_secs, on_progress)
            if touched:
                store.update(touched)
            store.remove_unused()
    elif touched:
        # It saves time later; a store that cannot be written to is usable.
        with contextlib.suppress(OSError, ValueError), files.lock(folder):
            store.update(touched)
    return _summary([store.index[path] for path in dataset.paths], pending, known, gone)


def _prepare(
    folder: pathlib.Path, frontend: params.Frontend, max_secs: float | None
) -> None:
    """Makes a folder a store, or raises if it is one with other parameters."""
    if max_secs is not None and not 0 < max_secs < math.inf:
        raise ValueError(f"max_secs is {max_secs}; give seconds above 0, or None")
    if not feature_store.exists(folder):
        layer = log_scattering.LogScattering.from_params(frontend)
        *_, num_paths = layer.compute_output_shape((None, frontend.segment_samples))
        feature_store.create(folder, frontend, max_secs=max_secs, num_paths=num_paths)
    feature_store.check(folder, frontend, max_secs=max_secs)


def _compute(
    root: pathlib.Path,
    pending: Sequence[feature_store.Row],
    store: feature_store.Store,
    frontend: params.Frontend,
    max_secs: float | None,
    on_progress: Callable[[int, int], None],
) -> None:
    """Computes the pending files, a shard at a time."""
    names = [str(root / row.path) for row in pending]
    samples = _PIECE_SEGMENTS * frontend.segment_samples
    clips = decoding.read(names, piece_samples=samples, max_secs=max_secs)
    decoded = itertools.groupby(clips, key=operator.attrgetter("index"))
    rows, num_done = iter(pending), 0
    opened = (_File(next(rows), root, clips) for _, clips in decoded)
    on_progress(0, len(pending))
    for size in _shard_sizes(pending):
        results = []
        group = itertools.islice(opened, size)
        for result in _results(group, set(store.by_sha256), frontend):
            results.append(result)
            num_done += 1
            on_progress(num_done, len(pending))
        store.write_shard(results)


def _shard_sizes(rows: Sequence[feature_store.Row]) -> Iterator[int]:
    """Yields the number of files of each shard."""
    count = num_bytes = 0
    for row in rows:
        count, num_bytes = count + 1, num_bytes + row.bytes
        if count == _SHARD_FILES or num_bytes >= _SHARD_BYTES:
            yield count
            count = num_bytes = 0
    if count:
        yield count


def _results(
    files: Iterable[_File], seen: set[str], frontend: params.Frontend
) -> _Results:
    """Yields the row of each file and the frames of its segments.

    Files without frames of their own come last: failed ones and those whose audio
    was `seen` before.
    """
    finished: dict[str, feature_store.Row] = {}

    def segments() -> Iterator[tuple[str, np.ndarray, int]]:
        for file in files:
            if file.sha256 not in seen:
                for samples, length in _segments(file, frontend):
                    yield file.path, samples, length
            row = finished[file.path] = file.finish()
            if not row.error:
                seen.add(row.sha256)

    scattered = _scatter(segments(), frontend)
    for path, of_file in itertools.groupby(scattered, key=operator.itemgetter(0)):
        frames = [frames for _, frames in of_file]
        if not finished[path].error:
            yield finished.pop(path), frames
    yield from ((row, []) for row in finished.values())


class _File:
    """The waveforms of a file; then its row in the index.

    Attributes:
      path: the file, relative to the collection.
      sha256: checksum of its content.
    """

    def __init__(
        self,
        row: feature_store.Row,
        root: pathlib.Path,
        pieces: Iterable[decoding.Clip],
    ) -> None:
        self._row, self._root, self._pieces = row, root, pieces
        self._num_samples, self._is_too_loud = 0, False
        self.path = row.path
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
        # Checked last, so that the row describes what was decoded and hashed.
        if feature_store.Row.of(self._root, self.path) != self._row:
            return dataclasses.replace(self._row, error=_CHANGED)
        if self._last.is_system_error or not self.sha256:
            # Without a checksum it is tried again, and is no duplicate.
            error = self._last.error or _NOT_READ
            return dataclasses.replace(self._row, error=error)
        return dataclasses.replace(
            self._row,
            sha256=self.sha256,
            secs=round(self._num_samples / params.SAMPLE_RATE_HZ, 3),
            note=self._last.note,
            error=self._last.error or (_TOO_LOUD if self._is_too_loud else ""),
        )


def _segments(
    waveforms: Iterable[np.ndarray], frontend: params.Frontend
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the segments of a recording, extended, and their valid samples."""
    is_silent = None
    piece_samples = _PIECE_SEGMENTS * frontend.segment_samples
    for piece in framing.pieces(waveforms, piece_samples):
        rows, lengths = _cut(frontend)(piece.waveform[np.newaxis], [piece.padding])
        for row, length in zip(rows.numpy(), lengths.numpy(), strict=True):
            if length:
                is_silent = False
                yield row, length
            elif is_silent is None:
                is_silent = True
    if is_silent:
        yield np.zeros(frontend.segment_samples, np.float32), 0


@functools.cache
def _cut(frontend: params.Frontend) -> Any:
    """Returns the function from a piece of a recording to its segments, traced."""
    piece = tf.TensorSpec([1, None], tf.float32), tf.TensorSpec([1], tf.float32)

    @tf.function(input_signature=piece, autograph=False)
    def cut(waveform: tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        starts = tf.zeros([1], tf.int32)
        segments = framing.segments(waveform, frontend, starts, padding)
        return framing.cut(waveform, segments, frontend), segments.lengths

    return cut


@functools.cache
def _transform(frontend: params.Frontend) -> Any:
    """Returns `LogScattering.of_mirrored`, traced."""
    layer = log_scattering.LogScattering.from_params(frontend)
    layer.build((None, frontend.segment_samples))
    rows = tf.TensorSpec([None, frontend.segment_samples], tf.float32)
    lengths = tf.TensorSpec([None], tf.int32)
    return tf.function(
        layer.of_mirrored, input_signature=[rows, lengths], autograph=False
    )


def _scatter(
    segments: Iterator[tuple[str, np.ndarray, int]], frontend: params.Frontend
) -> Iterator[tuple[str, np.ndarray]]:
    """Turns segments into `[frames, paths]`, valid frames only."""
    transform = _transform(frontend)

    def compute(batch: Sequence[tuple[str, np.ndarray, int]]) -> list[Any]:
        paths, rows, lengths = zip(*batch, strict=True)
        frames = transform(np.stack(rows), np.array(lengths, np.int32)).numpy()
        counts = [frontend.num_frames(max(length, 1)) for length in lengths]
        outputs = zip(paths, frames, counts, strict=True)
        return [(path, frames[:count]) for path, frames, count in outputs]

    # One batch is computed while the next one is read and the last one used.
    with futures.ThreadPoolExecutor(1) as pool:
        running: futures.Future[list[Any]] | None = None
        while batch := list(itertools.islice(segments, _BATCH_SEGMENTS)):
            before, running = running, pool.submit(compute, batch)
            yield from before.result() if before else ()
        yield from running.result() if running else ()


def _summary(
    rows: Sequence[feature_store.Row],
    pending: Sequence[feature_store.Row],
    known: set[str],
    gone: Sequence[str],
) -> Summary:
    paths = {row.path for row in pending}
    finished = [row for row in rows if row.path in paths and not row.error]
    num_computed = len({row.sha256 for row in finished} - known)
    return Summary(
        num_computed=num_computed,
        num_repeated=len(finished) - num_computed,
        num_unchanged=sum(not row.error for row in rows) - len(finished),
        failures=tuple((row.path, row.error) for row in rows if row.error),
        notes=tuple((row.path, row.note) for row in rows if row.note),
        removed=tuple(gone),
    )
