"""Audio files to frames in a feature store: each file once, whatever happens.

`extract` compares a table with a store, computes what is missing and says what it
did. `docs/features.md` tells how it is used.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from genre_tl import audio, datasets, feature_store, params, scattering

# A kill costs at most the work of one shard: so many files, or bytes of audio.
_SHARD_FILES, _SHARD_BYTES = 64, 2**28

# Segments in one call of the scattering transform.
_BATCH_SEGMENTS = 8

_CHANGED = "it changed while it was read; extract again"
_NOT_FINITE = "its samples are too large to compute with"

_Transform = Callable[[np.ndarray], tf.Tensor]


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
    the reason in the store's `index.csv`, and tried again once it has changed.

    Args:
      dataset: the clips whose features are wanted.
      store_dir: folder of the store; made if it is not there.
      frontend: how features are computed. A store holds those of one frontend.
      max_secs: use no more than this of each file, from its beginning.
      on_progress: called with the numbers of files done and to be done: before
        the first and after each. Not called if there is nothing to do.

    Raises:
      ValueError: if the folder is no store, was made with other parameters, or is
        being written by another process.
      OSError: if the store cannot be read or written.
    """
    folder, report = pathlib.Path(store_dir), on_progress or (lambda done, total: None)
    with feature_store.locked(folder):
        layer = scattering.LogScattering.from_params(frontend)
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


def cut(waveform: np.ndarray, frontend: params.Frontend) -> Iterator[np.ndarray]:
    """Yields a waveform in segments, the model's inputs, as an export does.

    Segments tile the waveform, the last one padded with zeros. Those without any
    sound are left out, unless there is none with sound: then the first stands.

    Args:
      waveform: float32 `[samples]` at `params.SAMPLE_RATE_HZ`, of any length.
      frontend: has the length of a segment.

    Yields:
      float32 `[frontend.segment_samples]`, at least once.
    """
    length = frontend.segment_samples
    starts = range(0, len(waveform), length)
    for start in [x for x in starts if waveform[x : x + length].any()] or [0]:
        segment = waveform[start : start + length]
        yield np.pad(segment, [0, length - len(segment)])


def _compute(
    root: pathlib.Path,
    pending: Sequence[feature_store.Row],
    store: feature_store.Store,
    layer: scattering.LogScattering,
    frontend: params.Frontend,
    max_secs: float | None,
) -> Iterator[feature_store.Row]:
    """Computes the pending files, a shard at a time, and yields their rows."""
    transform = _traced(layer, frontend)
    clips = audio.read([str(root / row.path) for row in pending], max_secs=max_secs)
    for group in _groups(pending):
        files = zip(group, clips, strict=False)  # takes no more clips than files
        decoded = (_identify(row, clip, root) for row, clip in files)
        yield from store.write_shard(_results(decoded, store, frontend, transform))


def _traced(layer: scattering.LogScattering, frontend: params.Frontend) -> _Transform:
    """Returns `[segments, samples]` to `[segments, frames, paths]`, traced once."""
    signature = tf.TensorSpec([None, frontend.segment_samples], tf.float32)
    function: _Transform = tf.function(layer, input_signature=[signature])
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
    decoded: Iterable[tuple[feature_store.Row, np.ndarray]],
    store: feature_store.Store,
    frontend: params.Frontend,
    transform: _Transform,
) -> Iterator[tuple[feature_store.Row, list[np.ndarray]]]:
    """Yields the row of each file and the frames of its segments.

    Files without frames of their own come last: failed ones and repeated audio.
    """
    others = []

    def segments() -> Iterator[tuple[feature_store.Row, np.ndarray]]:
        seen = set(store.by_sha256)
        for row, waveform in decoded:
            if row.error or row.sha256 in seen:
                others.append(row)
                continue
            seen.add(row.sha256)
            yield from ((row, segment) for segment in cut(waveform, frontend))

    scattered = _scatter(segments(), transform)
    for row, of_file in itertools.groupby(scattered, key=operator.itemgetter(0)):
        frames = [frames for _, frames in of_file]
        if all(np.isfinite(each).all() for each in frames):
            yield row, frames
        else:
            others.append(dataclasses.replace(row, error=_NOT_FINITE))
    yield from ((row, []) for row in others)


def _identify(
    row: feature_store.Row, clip: audio.Clip, root: pathlib.Path
) -> tuple[feature_store.Row, np.ndarray]:
    """Returns the row with what is known once a file is decoded, and its samples."""
    waveform = np.zeros(0, np.float32) if clip.waveform is None else clip.waveform
    sha256 = feature_store.sha256(root / row.path)
    # Looked at last: what was decoded and hashed is what the row says.
    if feature_store.Row.of(root, row.path) != row:
        return dataclasses.replace(row, error=_CHANGED), waveform
    secs = round(len(waveform) / params.SAMPLE_RATE_HZ, 3)
    row = dataclasses.replace(
        row, sha256=sha256, secs=secs, note=clip.note, error=clip.error
    )
    return row, waveform


def _scatter(
    segments: Iterator[tuple[feature_store.Row, np.ndarray]], transform: _Transform
) -> Iterator[tuple[feature_store.Row, np.ndarray]]:
    """Turns `[samples]` into `[frames, paths]`, valid frames only."""
    while batch := list(itertools.islice(segments, _BATCH_SEGMENTS)):
        rows, waveforms = zip(*batch, strict=True)
        outputs = transform(np.stack(waveforms)).numpy()
        for row, frames in zip(rows, outputs, strict=True):
            yield row, frames[frames[:, 0] != scattering.PAD_VALUE]


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
