"""A table's clips to the batches that a model sees.

`extract` computes every clip's log-scattering frames once, into a feature store;
`load` brings them into memory; `training_batches` and `evaluation_batches` hand
them to a model. `docs/features.md` tells how they go together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import extraction, feature_store, framing

# The first step has a module of its own.
extract = extraction.extract


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The valid frames of clips, in memory.

    Attributes:
      frames: float32 `[total_frames, paths]`.
      starts: int64 `[clips]`, the first frame of each clip. Clips of identical
        audio share their frames.
      segments: how many frames each segment of each clip has.
    """

    frames: np.ndarray
    starts: np.ndarray
    segments: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Frames of each clip: int64 `[clips]`."""
        return np.array([sum(clip) for clip in self.segments], np.int64)

    @functools.cached_property
    def longest(self) -> int:
        """Frames of the longest segment."""
        return max(map(max, self.segments))


class Segments(NamedTuple):
    """Which clip each scored segment belongs to.

    Attributes:
      clips: int64 `[segments]`, position of the clip among the rows asked for.
      frames: int64 `[segments]`, valid frames of the segment.
    """

    clips: np.ndarray
    frames: np.ndarray


def load(
    store_dir: str | os.PathLike[str],
    dataset: datasets.Dataset,
    frontend: params.Frontend,
) -> tuple[Features, datasets.Dataset]:
    """Reads the features of a table's clips into memory.

    Args:
      store_dir: a folder that `extract` filled.
      dataset: the clips wanted.
      frontend: what the features must have been computed with.

    Returns:
      The features, and the table of the clips that have any, in the order of
      `dataset`. The others join its `skipped`, with the reason; their number is
      logged.

    Raises:
      ValueError: if the store was made with another frontend, is damaged, or has
        none of the clips.
      OSError: if there is no store or it cannot be read.
    """
    folder = pathlib.Path(store_dir)
    num_paths = feature_store.num_paths(folder, frontend)
    store = feature_store.Store(folder)
    reasons = [_why_left_out(dataset.root, path, store) for path in dataset.paths]
    left_out = [(p, why) for p, why in zip(dataset.paths, reasons, strict=True) if why]
    if left_out:
        few = "; ".join(f"{path}: {why}" for path, why in left_out[:3])
        message = f"{folder}: no features of {len(left_out)} of {len(dataset)} clips"
        if len(left_out) == len(dataset):
            raise ValueError(f"{message}, such as {few}")
        logging.warning("%s, which are left out, such as %s", message, few)
    kept = dataset.select([row for row, reason in enumerate(reasons) if not reason])
    rows = [store.index[path] for path in kept.paths]
    features = _read(store, rows, num_paths)
    return features, dataclasses.replace(kept, skipped=(*kept.skipped, *left_out))


def training_batches(
    features: Features,
    labels: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    segment_frames: int,
    crop_frames: int = 0,
    seed: int,
    epoch: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns the batches of one epoch: all rows in random order.

    A function of its arguments alone: the same seed and epoch give the same
    batches. Every batch is full, for static shapes: the last one is filled up
    from the beginning of the epoch's order, with other excerpts.

    What is asked for lies in memory, so a batch is cut out when its turn comes: that
    takes less than a `tf.data` pipeline takes to be built for each epoch.

    Args:
      features: of all clips.
      labels: `[clips, num_labels]` of all clips.
      rows: the clips to train on.
      batch_size: clips in a batch.
      segment_frames: frames of the model's input. A longer clip gives a random
        excerpt; a shorter one is padded with `framing.PAD_VALUE` at its end.
      crop_frames: if not 0, the length of the excerpts instead.
      seed: of the run.
      epoch: number of the epoch.

    Returns:
      `num_batches` pairs of frames `[batch_size, crop_frames or segment_frames,
      paths]` and labels `[batch_size, num_labels]`, both float32.

    Raises:
      ValueError: if there are no rows.
    """
    length, rows = crop_frames or segment_frames, _some_rows(rows)
    generator = np.random.default_rng([seed, epoch])
    count = num_batches(rows, batch_size)
    order = np.resize(generator.permutation(rows), count * batch_size)
    spare = np.maximum(features.counts[order] - length, 0)
    starts = features.starts[order] + generator.integers(spare + 1)
    counts = np.minimum(features.counts[order], length)
    return (
        (
            _excerpts(features.frames, length, starts[batch], counts[batch]),
            labels[order[batch]].astype(np.float32),
        )
        for batch in np.split(np.arange(len(order)), count)
    )


def num_batches(rows: Sequence[int] | np.ndarray, batch_size: int) -> int:
    """Returns how many batches `training_batches` makes of the rows."""
    return -(-len(rows) // batch_size)


def evaluation_batches(
    features: Features,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    segment_frames: int,
) -> tuple[Iterator[np.ndarray], Segments]:
    """Returns all segments of the rows, in order, and what they are.

    Args:
      features: of all clips.
      rows: the clips to score.
      batch_size: segments in a batch; the last one may have fewer.
      segment_frames: frames of the model's input. A stored segment that is longer
        is cut, a shorter one padded with `framing.PAD_VALUE` at its end.

    Returns:
      Batches `[batch, segment_frames, paths]`, float32, with fewer frames if no
      clip has so many, and `Segments` that say to `mean_scores` which clip each is
      of.

    Raises:
      ValueError: if there are no rows.
    """
    pieces = [
        (position, start + cut, min(segment_frames, count - cut))
        for position, row in enumerate(_some_rows(rows))
        for start, count in _starts_and_counts(features, row)
        for cut in range(0, count, segment_frames)
    ]
    clips, starts, counts = np.array(pieces, np.int64).T
    length = min(segment_frames, features.longest)
    cuts = range(batch_size, len(starts), batch_size)
    batches = (
        _excerpts(features.frames, length, *batch)
        for batch in zip(np.split(starts, cuts), np.split(counts, cuts), strict=True)
    )
    return batches, Segments(clips, counts)


def mean_scores(segment_scores: np.ndarray, segments: Segments) -> np.ndarray:
    """Averages the scores of each clip's segments, weighted by valid frames.

    Args:
      segment_scores: `[segments, labels]`, in the order of `evaluation_batches`.
      segments: as `evaluation_batches` gave them.

    Returns:
      `[clips, labels]`, of the same type.

    Raises:
      ValueError: if there is not one row of scores a segment.
    """
    if len(segment_scores) != len(segments.clips):
        raise ValueError(
            f"scores of {len(segment_scores)} segments, but there are "
            f"{len(segments.clips)}; score every batch of evaluation_batches once"
        )
    first_of_clip = np.flatnonzero(np.diff(segments.clips, prepend=-1))
    weighted = segment_scores * segments.frames[:, np.newaxis].astype(np.float64)
    sums = np.add.reduceat(weighted, first_of_clip)
    weights = np.add.reduceat(segments.frames, first_of_clip)
    return (sums / weights[:, np.newaxis]).astype(segment_scores.dtype)


def frame_statistics(
    features: Features, rows: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance of each path over all frames of the rows.

    Args:
      features: of all clips.
      rows: the clips to take: those of the training part, and no other.

    Returns:
      Two float64 arrays `[paths]`.

    Raises:
      ValueError: if there are no rows.
    """
    rows = _some_rows(rows)
    total = int(features.counts[rows].sum())

    def mean_of(statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # A clip at a time: a double-precision copy of everything would not fit.
        sums = np.zeros(features.frames.shape[1])
        for row in rows:
            start = features.starts[row]
            clip = features.frames[start : start + features.counts[row]]
            sums += statistic(clip.astype(np.float64)).sum(axis=0)
        return sums / total

    mean = mean_of(lambda frames: frames)
    return mean, mean_of(lambda frames: np.square(frames - mean))


def _read(
    store: feature_store.Store, rows: Sequence[feature_store.Row], num_paths: int
) -> Features:
    """Reads every different audio of the rows into one array, made beforehand."""
    starts: dict[str, int] = {}
    total = 0
    for row in rows:
        if row.sha256 not in starts:
            starts[row.sha256] = total
            total += row.frames
    everything, segments = np.empty([total, num_paths], np.float32), {}
    for sha256, frames, of_segments in store.read(rows):
        start, segments[sha256] = starts[sha256], of_segments
        everything[start : start + len(frames)] = frames
    return Features(
        everything,
        np.array([starts[row.sha256] for row in rows], np.int64),
        tuple(segments[row.sha256] for row in rows),
    )


def _some_rows(rows: Sequence[int] | np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    if not rows.size:
        raise ValueError("rows is empty: there is not one clip to take")
    return rows


def _starts_and_counts(features: Features, row: int) -> Iterator[tuple[int, int]]:
    start = int(features.starts[row])
    for count in features.segments[row]:
        yield start, count
        start += count


def _excerpts(
    frames: np.ndarray, length: int, starts: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Returns `[batch, length, paths]`: the frames of each, then padding."""
    shape = len(starts), length, frames.shape[1]
    excerpts = np.full(shape, framing.PAD_VALUE, frames.dtype)
    for excerpt, start, count in zip(excerpts, starts, counts, strict=True):
        excerpt[:count] = frames[start : start + count]
    return excerpts


def _why_left_out(root: pathlib.Path, path: str, store: feature_store.Store) -> str:
    """Returns why a clip has no features to be used, or nothing."""
    row = store.index.get(path)
    if row is None:
        return "its features were not extracted yet"
    # The audio need not be there any more; its time changes when it is copied.
    with contextlib.suppress(OSError):
        if os.stat(root / path).st_size != row.bytes:
            return "it changed after its features were extracted"
    return row.error
