"""Features of clips as `tf.data` batches for training and evaluation.

Index -> exact global shuffle from seed and epoch -> read, from memory or disk -> crop
-> pad -> batch -> augment -> prefetch. Batches are a function of their arguments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import columns, feature_store, framing

_AUTOTUNE = tf.data.AUTOTUNE
_READING_THREADS, _CLIPS_AHEAD = 8, 64
_NOT_EXTRACTED = "its features were not extracted yet"
_CHANGED = "it changed after its features were extracted"

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Function of frames, targets and a seed, such as `augmentation.Augmentation`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The valid frames of clips, in memory or on disk."""

    num_paths: int  # coefficients of a frame
    segments: np.ndarray  # frames of all segments of all clips: int64 `[segments]`
    num_segments: np.ndarray  # of each clip: int64 `[clips]`
    digests: tuple[str, ...]  # SHA-256 of each audio file; empty if unknown
    max_secs: float | None  # how much of each file was used at most; None for all
    read: Callable[[int, int, int], np.ndarray]
    """Function of `(clip, start, count)`: frames `[count, paths]`, float32."""

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Frames of each clip: int64 `[clips]`."""
        return np.add.reduceat(self.segments, self._first)

    @functools.cached_property
    def _first(self) -> np.ndarray:
        return np.cumsum(self.num_segments) - self.num_segments

    def segments_of(self, clip: int) -> np.ndarray:
        """Returns the frames of each segment of a clip."""
        first = self._first[clip]
        return self.segments[first : first + self.num_segments[clip]]


class Segments(NamedTuple):
    """The scored segments."""

    clips: np.ndarray  # position of the clip among the requested rows
    frames: np.ndarray  # valid frames of the segment

    @property
    def shares(self) -> np.ndarray:
        """The weight of each segment in its clip: they sum to 1 in each."""
        return self.frames / np.bincount(self.clips, self.frames)[self.clips]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How training batches are made.

    Attributes:
      batch_size: clips.
      crop_frames: lengths of the random excerpts, at least one. Each batch has one of
        them, every entry with the same probability; shorter clips are padded.
      seed: decides order, lengths, excerpts and augmentation.
    """

    batch_size: int
    crop_frames: tuple[int, ...]
    seed: int


def load(
    store_dir: str | os.PathLike[str],
    dataset: datasets.Dataset,
    frontend: params.Frontend,
    *,
    in_memory: bool | None = None,
) -> tuple[Features, datasets.Dataset]:
    """Loads the features of a table's clips from a store that `extract` has filled.

    Reads all frames at once if `in_memory`, else batch by batch; by default, if they
    take at most half of the free memory.

    Returns:
      The features, and the table of the clips that have some, in the same order. The
      others are in its `skipped` with the reason, and counted in a log message.

    Raises:
      ValueError: if the store was made with another front end, is damaged, or has
        none of the clips.
      OSError: if the store is missing or cannot be read.
    """
    store = feature_store.Store(pathlib.Path(store_dir), frontend)
    kept = _with_features(dataset, store)
    digests = store.known(kept.paths)["sha256"]
    rows = store.audio_of(digests)
    segments, num_segments = columns.numbers(store.audio["segments"][rows])
    features = Features(
        store.params["num_paths"],
        segments,
        num_segments,
        tuple(digest.decode() for digest in digests.tolist()),
        store.params["max_secs"],
        _OnDisk(store, rows),
    )
    if in_memory is None:
        _, first = np.unique(rows, return_index=True)
        size = 4 * int(features.counts[first].sum()) * features.num_paths
        in_memory = size <= _free_bytes() / 2
    return (_in_memory(features) if in_memory else features), kept


def training_batches(
    features: Features,
    targets: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    batching: Batching,
    *,
    augmentation: Augment | None = None,
    first_epoch: int = 1,
) -> tf.data.Dataset:
    """Returns training batches of epoch `first_epoch`, the next one, and so on.

    `features` and `targets`, `[clips, outputs]`, are of all clips; `rows` are the clips
    to train on. An epoch has every row once, in random order; the last of its
    `num_batches` batches is filled up from the beginning. It does not depend on the
    epochs before.

    Returns:
      Frames float32 `[batch_size, frames, paths]` and targets float32 `[batch_size,
      outputs]`, augmented if `augmentation` is given, without end. The shapes are
      static if all excerpts have the same length.
    """
    rows, size = _non_empty(rows), batching.batch_size
    lengths = set(batching.crop_frames)

    def batch(*element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *place, length, seed, chosen = element
        length = min(lengths) if len(lengths) == 1 else length[0]
        frames = _frames(features, length, place)
        return augmentation(frames, chosen, seed) if augmentation else (frames, chosen)

    place = tf.TensorSpec([size], tf.int64)
    length, seed = tf.TensorSpec([1], tf.int64), tf.TensorSpec([2], tf.int64)
    target = tf.TensorSpec([size, targets.shape[1]], tf.float32)
    batches = tf.data.Dataset.from_generator(
        lambda: _training_places(features.counts, targets, rows, batching, first_epoch),
        output_signature=(place, place, place, length, seed, target),
    )
    return batches.map(batch, _AUTOTUNE).prefetch(_AUTOTUNE)


def num_batches(rows: Sequence[int] | np.ndarray, batch_size: int) -> int:
    """Returns the number of training batches in an epoch."""
    return -(-len(rows) // batch_size)


def evaluation_batches(
    features: Features,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    segment_frames: int,
) -> tuple[tf.data.Dataset, Segments]:
    """Returns batches of all segments of the rows, in order.

    Segments longer than `segment_frames`, the model's input, are divided, shorter ones
    padded. The last batch may be smaller.

    Returns:
      Batches float32 `[batch, frames, paths]`, where `frames` is `segment_frames` or
      the length of the longest segment if that is less; and the `Segments` that
      `mean_scores` needs.
    """
    positions, *places = _evaluation_places(features, _non_empty(rows), segment_frames)
    length = min(segment_frames, int(features.segments.max()))
    batches = tf.data.Dataset.from_tensor_slices(tuple(places)).batch(batch_size)
    batches = batches.map(lambda *place: _frames(features, length, place), _AUTOTUNE)
    return batches.prefetch(_AUTOTUNE), Segments(positions, places[-1])


def _evaluation_places(
    features: Features, rows: np.ndarray, segment_frames: int
) -> tuple[np.ndarray, ...]:
    """Returns position, clip, first frame and number of frames of each piece."""
    parts = [features.segments_of(row) for row in rows]
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    counts = np.concatenate(parts)
    positions = np.repeat(np.arange(len(rows)), sizes)
    totals = features.counts[rows]
    starts = np.cumsum(counts) - counts - np.repeat(np.cumsum(totals) - totals, sizes)
    # Segments that are longer than the input of the model are cut.
    cuts = -(-counts // segment_frames)
    number = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    offsets = number * segment_frames
    lengths = np.minimum(segment_frames, np.repeat(counts, cuts) - offsets)
    positions = np.repeat(positions, cuts)
    return positions, rows[positions], np.repeat(starts, cuts) + offsets, lengths


def mean_scores(segment_scores: np.ndarray, segments: Segments) -> np.ndarray:
    """Returns means of scores `[segments, labels]` by valid frames, `[clips, labels]`.

    Raises ValueError if the numbers of scores and segments differ.
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
    """Returns mean and variance of each path over all frames: float64 `[paths]`.

    Reads a clip at a time, once (Chan, Golub and LeVeque, 1983).
    """
    total, mean = 0, np.zeros(features.num_paths)
    squares = np.zeros(features.num_paths)  # of the differences from the mean
    for clip in _clips(features, _non_empty(rows)):
        frames = clip.astype(np.float64)
        of_clip = frames.mean(axis=0)
        share = len(frames) / (total + len(frames))
        distance = of_clip - mean
        squares += ((frames - of_clip) ** 2).sum(axis=0) + distance**2 * total * share
        mean += distance * share
        total += len(frames)
    return mean, squares / total


def _clips(features: Features, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields all frames of clips, a few of which are read ahead."""
    with futures.ThreadPoolExecutor(_READING_THREADS) as pool:
        for some in np.array_split(rows, -(-len(rows) // _CLIPS_AHEAD)):
            places = some, np.zeros_like(some), features.counts[some]
            yield from pool.map(features.read, *places)


def _in_memory(features: Features) -> Features:
    # Identical audio shares its frames.
    audio: dict[str, np.ndarray] = {}
    for clip, digest in enumerate(features.digests):
        if digest not in audio:
            audio[digest] = features.read(clip, 0, features.counts[clip])
    clips = [audio[digest] for digest in features.digests]
    return dataclasses.replace(features, read=_InMemory(clips))


# Classes and not closures, so that other processes can be given features.


@dataclasses.dataclass(frozen=True)
class _OnDisk:
    store: feature_store.Store
    rows: np.ndarray

    def __call__(self, clip: int, start: int, count: int) -> np.ndarray:
        return self.store.read(self.rows[clip], start, count)


@dataclasses.dataclass(frozen=True)
class _InMemory:
    clips: Sequence[np.ndarray]

    def __call__(self, clip: int, start: int, count: int) -> np.ndarray:
        return self.clips[clip][start : start + count]


def _free_bytes() -> int:
    """Returns the memory that this process may still use."""
    free = [2**63]
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/meminfo").read_text()
        free += [1024 * int(x) for x in re.findall(r"MemAvailable:\s*(\d+)", text)]
    with contextlib.suppress(OSError, ValueError):  # "max": without limit
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free.append(limit - int((group / "memory.current").read_text()))
    return min(free)


def _non_empty(rows: Sequence[int] | np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    if not rows.size:
        raise ValueError("rows is empty: there are no clips to take")
    return rows


def _training_places(
    counts: np.ndarray,
    targets: np.ndarray,
    rows: np.ndarray,
    batching: Batching,
    first_epoch: int,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields clips, first frames, counts, length, seed and targets of each batch."""
    size = batching.batch_size
    steps = num_batches(rows, size)
    for epoch in itertools.count(first_epoch):
        generator = np.random.default_rng([batching.seed, epoch])
        order = np.resize(generator.permutation(rows), (steps, size))
        length = generator.choice(batching.crop_frames, (steps, 1))
        taken = np.minimum(counts[order], length)
        starts = generator.integers(counts[order] - taken + 1)
        seeds = generator.integers(2**63, size=(steps, 2))
        for clips, *place in zip(order, starts, taken, length, seeds, strict=True):
            yield clips, *place, targets[clips].astype(np.float32)


def _frames(
    features: Features, length: int | tf.Tensor, places: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Reads frames `[batch, length, paths]`, `PAD_VALUE` after the end of each clip.

    `places` are clips, first frames and numbers of frames to read, int64 `[batch]`.
    """

    def read(length: np.ndarray, *places: np.ndarray) -> np.ndarray:
        shape = len(places[0]), length, features.num_paths
        excerpts = np.full(shape, framing.PAD_VALUE, np.float32)
        for excerpt, *place in zip(excerpts, *places, strict=True):
            excerpt[: place[-1]] = features.read(*place)
        return excerpts

    frames = tf.numpy_function(read, [length, *places], tf.float32)
    static = length if isinstance(length, int) else None
    return tf.ensure_shape(frames, [*places[0].shape, static, features.num_paths])


def _with_features(
    dataset: datasets.Dataset, store: feature_store.Store
) -> datasets.Dataset:
    """Returns the clips that have features; the others are in its `skipped`."""
    known = store.known(dataset.paths)
    now = feature_store.describe(dataset.root, dataset.paths)["bytes"]
    audio = store.known_audio(known["sha256"])
    # The audio may be deleted; its modification time changes when it is copied.
    has_changed = (now >= 0) & (now != known["bytes"]) & (known["path"] != "")
    reasons = np.where(known["error"] == "", audio["error"], known["error"])
    reasons[(audio["shard"] == b"") & (reasons == "")] = _NOT_EXTRACTED
    reasons[has_changed] = _CHANGED
    rows = np.flatnonzero(reasons != "")
    skipped = tuple((dataset.paths[row], str(reasons[row])) for row in rows)
    if skipped:
        few = "; ".join(f"{path}: {why}" for path, why in skipped[:3])
        count = f"{len(skipped)} of {len(dataset)}"
        message = f"{store.folder}: no features for {count} clips"
        if len(skipped) == len(dataset):
            raise ValueError(f"{message}, such as {few}")
        logging.warning("%s; they are skipped, such as %s", message, few)
    kept = dataset.select(np.flatnonzero(reasons == "")) if skipped else dataset
    return dataclasses.replace(kept, skipped=(*kept.skipped, *skipped))
