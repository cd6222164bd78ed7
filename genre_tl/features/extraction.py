"""Audio files to frames in a feature store: each file once, whatever happens.

`extract` compares a table with a store, computes what is missing and says what it
did. `docs/features.md` tells how it is used.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import operator
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.audio import decoding
from genre_tl.data import datasets
from genre_tl.features import feature_store, framing, log_scattering

# A kill costs at most the work of one shard: so many files, or bytes of audio.
_SHARD_FILES, _SHARD_BYTES = 64, 2**28

# Segments in one call of the scattering transform, and in a piece of a long file.
_BATCH_SEGMENTS = _PIECE_SEGMENTS = 8

_CHANGED = "it changed while it was read; extract again"
_NOT_READ = "it could not be read to its end; extract again"
_NOT_FINITE = "its samples are too large to compute with"

_Transform = Callable[[np.ndarray, np.ndarray], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one extraction did.

    Attributes:
      num_computed: clips whose features were computed now.
      num_repeated: clips whose audio is byte for byte that of another clip.
      num_unchanged: clips whose features were there already.
      failures: `(path, reason)` of every clip without features, now or earlier.
      notes: `(path, note)` of clips that were used though something was odd.
      removed: clips in the store that have left the table or the disk.
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
            f"{self.num_usable} clips have features: {self.num_computed} computed now, "
            f"{self.num_repeated} with the audio of another clip, "
            f"{self.num_unchanged} as before; {len(self.failures)} failed"
        )
        if self.removed:
            text += f"; {len(self.removed)} in the store are gone from the collection"
        return text


def extract(
    dataset: datasets.Dataset,
    store_dir: str | os.PathLike[str],
    frontend: params.Frontend,
    *,
    max_secs: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Brings a feature store up to date with the files of a table.

    Work that was done stays done: files already in the store are only looked at
    (size and time of change), and an interrupted extraction continues where it
    was, to the same bytes as one that was not. A file that fails is listed with
    the reason in the store's `index.csv`, and tried again once it has changed; one
    that could not be read, each time.

    Args:
      dataset: the clips whose features are wanted.
      store_dir: folder of the store; made if it is not there.
      frontend: how features are computed. A store holds those of one frontend.
      max_secs: use no more than this of each file, from its beginning.
      on_progress: called with the numbers of files done and to be done: before
        the first and after each. Not called if there is nothing to do.

    Raises:
      ValueError: if `max_secs` is out of range, the folder is no store, was made
        with other parameters, or is being written by another process.
      OSError: if the store cannot be read or written.
    """
    if max_secs is not None and not 0 < max_secs < math.inf:
        raise ValueError(f"max_secs is {max_secs}; give seconds above 0, or None")
    folder, report = pathlib.Path(store_dir), on_progress or (lambda done, total: None)
    with feature_store.locked(folder):
        layer = log_scattering.LogScattering.from_params(frontend)
        *_, num_paths = layer.compute_output_shape((None, frontend.segment_samples))
        feature_store.create(folder, frontend, max_secs, num_paths)
        store = feature_store.Store(folder)
        pending, gone = store.changes(dataset.root, dataset.paths)
        known, finished = set(store.by_sha256), []
        if pending:
            report(0, len(pending))
            for row in _compute(
                dataset.root, pending, store, layer, frontend, max_secs
            ):
                finished.append(row)
                report(len(finished), len(pending))
        store.remove_unused()
    return _summary(dataset, store, known, finished, gone)


def cut(
    waveforms: Iterable[np.ndarray], frontend: params.Frontend
) -> Iterator[np.ndarray]:
    """Yields a clip in segments, the model's inputs, as an export does.

    Segments tile the clip; each ends with its last sample that is not zero. Those
    without any sound are left out, unless there is none with sound: then a single
    zero stands.

    Args:
      waveforms: the clip in pieces, float32 `[samples]` at `params.SAMPLE_RATE_HZ`;
        all but the last of whole segments.
      frontend: has the length of a segment.

    Yields:
      float32 `[samples]`, `frontend.segment_samples` at most; at least once if there
      is a piece.
    """
    length, is_silent = frontend.segment_samples, None
    for waveform in waveforms:
        is_silent = is_silent is not False
        for start in range(0, len(waveform), length):
            segment = waveform[start : start + length]
            if segment.any():
                is_silent = False
                yield segment[: len(segment) - int((segment[::-1] != 0).argmax())]
    if is_silent:
        yield np.zeros(1, np.float32)


def _compute(
    root: pathlib.Path,
    pending: Sequence[feature_store.Row],
    store: feature_store.Store,
    layer: log_scattering.LogScattering,
    frontend: params.Frontend,
    max_secs: float | None,
) -> Iterator[feature_store.Row]:
    """Computes the pending files, a shard at a time, and yields their rows."""
    transform = _traced(layer, frontend)
    names = [str(root / row.path) for row in pending]
    samples = _PIECE_SEGMENTS * frontend.segment_samples
    clips = decoding.read_pieces(names, samples, max_secs=max_secs)
    decoded = itertools.groupby(clips, key=operator.attrgetter("index"))
    for group in _groups(pending):
        pieces = map(operator.itemgetter(1), decoded)
        files = zip(group, pieces, strict=False)  # takes no more of them than files
        computed = _results(files, root, store, frontend, transform)
        yield from store.write_shard(computed)


def _traced(
    layer: log_scattering.LogScattering, frontend: params.Frontend
) -> _Transform:
    """Returns `LogScattering.of_mirrored`, traced once."""
    layer.build((None, frontend.segment_samples))
    waveform = tf.TensorSpec([None, frontend.segment_samples], tf.float32)
    lengths = tf.TensorSpec([None], tf.int32)
    function: _Transform = tf.function(
        layer.of_mirrored, input_signature=[waveform, lengths], autograph=False
    )
    return function


def _groups(
    rows: Sequence[feature_store.Row],
) -> Iterator[list[feature_store.Row]]:
    """Divides the files into those of one shard each."""
    group: list[feature_store.Row] = []
    for row in rows:
        group.append(row)
        full = len(group) == _SHARD_FILES
        if full or sum(each.bytes for each in group) >= _SHARD_BYTES:
            yield group
            group = []
    if group:
        yield group


def _results(
    files: Iterable[tuple[feature_store.Row, Iterable[decoding.Clip]]],
    root: pathlib.Path,
    store: feature_store.Store,
    frontend: params.Frontend,
    transform: _Transform,
) -> Iterator[tuple[feature_store.Row, list[np.ndarray]]]:
    """Yields the row of each file and the frames of its segments.

    Files without frames of their own come last: failed ones and repeated audio.
    """
    finished: dict[str, feature_store.Row] = {}

    def segments() -> Iterator[tuple[str, np.ndarray]]:
        seen = set(store.by_sha256)
        for row, pieces in files:
            found = _File(row, root, pieces)
            # Of audio that is there already, only the length is wanted.
            new = cut(found, frontend) if found.sha256 not in seen else ()
            yield from ((row.path, segment) for segment in new)
            finished[row.path] = found.finish()
            if not finished[row.path].error:
                seen.add(found.sha256)

    scattered = _scatter(segments(), transform, frontend.segment_samples)
    for path, of_file in itertools.groupby(scattered, key=operator.itemgetter(0)):
        frames = [frames for _, frames in of_file]
        if not all(np.isfinite(each).all() for each in frames):
            finished[path] = dataclasses.replace(finished[path], error=_NOT_FINITE)
        if not finished[path].error:
            yield finished.pop(path), frames
    yield from ((row, []) for row in finished.values())


class _File:
    """The waveforms of a file, and what is known once they were read.

    Attributes:
      sha256: of the file's bytes.
    """

    def __init__(
        self,
        row: feature_store.Row,
        root: pathlib.Path,
        pieces: Iterable[decoding.Clip],
    ) -> None:
        self._row, self._root, self._pieces = row, root, iter(pieces)
        self._samples = 0
        self.sha256 = feature_store.sha256(root / row.path)

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece in self._pieces:
            self._last = piece
            if piece.waveform is not None:
                self._samples += len(piece.waveform)
                yield piece.waveform

    def finish(self) -> feature_store.Row:
        """Reads what was not read yet and returns the row of the whole."""
        collections.deque(self, maxlen=0)
        # Looked at last: what was decoded and hashed is what the row says.
        if feature_store.Row.of(self._root, self._row.path) != self._row:
            return dataclasses.replace(self._row, error=_CHANGED)
        if self._last.was_disturbed or not self.sha256:
            # Without a checksum it is tried again, and stands for no other file.
            error = self._last.error or _NOT_READ
            return dataclasses.replace(self._row, error=error)
        return dataclasses.replace(
            self._row,
            sha256=self.sha256,
            secs=round(self._samples / params.SAMPLE_RATE_HZ, 3),
            note=self._last.note,
            error=self._last.error,
        )


def _scatter(
    segments: Iterator[tuple[str, np.ndarray]], transform: _Transform, length: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Turns `[samples]` into `[frames, paths]`, valid frames only."""

    def prepared(waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.pad(w, [0, length - len(w)], mode="reflect") for w in waveforms]
        return np.stack(rows), np.array([len(w) for w in waveforms], np.int32)

    batches = iter(lambda: list(itertools.islice(segments, _BATCH_SEGMENTS)), [])
    # One batch is computed while the next one is read and the last one written.
    with futures.ThreadPoolExecutor(1) as pool:
        begun: tuple[Sequence[str], futures.Future[tf.Tensor]] | None = None
        for batch in itertools.chain(batches, [[]]):
            before, begun = begun, None
            if batch:
                paths, waveforms = zip(*batch, strict=True)
                begun = paths, pool.submit(transform, *prepared(waveforms))
            if before:
                paths, outputs = before
                for path, frames in zip(paths, outputs.result().numpy(), strict=True):
                    yield path, frames[frames[:, 0] != framing.PAD_VALUE]


def _summary(
    dataset: datasets.Dataset,
    store: feature_store.Store,
    known: set[str],
    finished: Sequence[feature_store.Row],
    gone: Sequence[str],
) -> Summary:
    rows = [store.index[path] for path in dataset.paths]
    succeeded = [row for row in finished if not row.error]
    num_computed = len({row.sha256 for row in succeeded} - known)
    return Summary(
        num_computed=num_computed,
        num_repeated=len(succeeded) - num_computed,
        num_unchanged=sum(not row.error for row in rows) - len(succeeded),
        failures=tuple((row.path, row.error) for row in rows if row.error),
        notes=tuple((row.path, row.note) for row in rows if row.note),
        removed=tuple(gone),
    )
