"""How much a clip resembles the clips of training, by its embedding.

Two distances are multiplied. One is Mahalanobis's, of a Gaussian around the mean
embedding: its covariance has a few principal directions and the same variance in all
others (Tipping and Bishop, "Probabilistic principal component analysis", 1999). The
other is that to the nearest segments of training. Speech, noise and music of another
kind lie farther away than nearly all clips of training.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics, model_selection

from genre_tl import files

_NUM_DIRECTIONS = 12
_CLIPS_PER_DIRECTION = 4
_NUM_FOLDS = 5
_LEAST_VARIANCE = 1e-6
_MOST_SEGMENTS = 1000  # that are kept to be near to

LEAST_SQUARE = 1e-6  # of a distance

NUM_NEAREST = 3
"""Segments of training that a segment is compared with; fewer if there are fewer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """The distribution of embeddings, and how far from it clips of training lie.

    Attributes:
      mean: of the embeddings, `[units]`.
      directions: `[units, directions]`; see `log_distance`.
      variance: of the directions that are left, a scalar `[]`.
      segments: embeddings of training without their mean, `[segments, units]`.
      centre: mean logarithm of the distance of clips that were left out, `[]`.
      spread: its standard deviation, `[]`.
    """

    mean: np.ndarray
    directions: np.ndarray
    variance: np.ndarray
    segments: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    def log_distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the squared distance of `[segments, units]`."""
        fitted = self.mean, self.directions, self.variance, self.segments
        return _log_distance(embeddings, *fitted)

    def of_distance(self, log_distance: np.ndarray) -> np.ndarray:
        """Returns the familiarity, 0 to 1: the share of training music farther away.

        `log_distance` is a clip's mean over its segments, `[clips]`.
        """
        return stats.norm.sf((log_distance - self.centre) / self.spread)


def fit(
    embeddings: np.ndarray, shares: np.ndarray, clips: np.ndarray, groups: Sequence[str]
) -> Familiarity:
    """Fits the familiarity to segments of the training music.

    Args:
      embeddings: float `[segments, units]`.
      shares: weight of each segment in its clip, summing to 1 in each, `[segments]`.
      clips: the clip of each segment, 0 to the number of clips, `[segments]`.
      groups: recording or artist of each clip; a group is left out as one.
    """
    embeddings = np.asarray(embeddings, np.float64)
    parts = min(_NUM_FOLDS, len(set(groups)))
    distances = np.zeros(len(clips))
    if parts < 2:
        distances = _log_distance(embeddings, *_distribution(embeddings))
    else:
        folds = model_selection.GroupKFold(parts)
        of_segment = np.asarray(groups)[clips]
        for train, test in folds.split(embeddings, groups=of_segment):
            fitted = _distribution(embeddings[train])
            distances[test] = _log_distance(embeddings[test], *fitted)
    of_clips = np.bincount(clips, shares * distances)
    spread = max(float(of_clips.std()), 1e-3)
    values = *_distribution(embeddings), of_clips.mean(), spread
    return Familiarity(*(np.asarray(value, np.float32) for value in values))


def _distribution(
    embeddings: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Returns mean, directions, the variance that is left, and some segments."""
    num_segments, num_units = embeddings.shape
    most = min(num_segments // _CLIPS_PER_DIRECTION, num_units // 2, _NUM_DIRECTIONS)
    mean = embeddings.mean(axis=0)
    centred = embeddings - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / max(num_segments - 1, 1))
    variance = max(values[: num_units - most].mean(), _LEAST_VARIANCE)
    # Along a principal direction, the distance is this much smaller.
    largest = np.maximum(values[num_units - most :], variance)
    gain = 1 / variance - 1 / largest
    directions = vectors[:, num_units - most :] * np.sqrt(gain)
    chosen = np.random.default_rng(0).permutation(num_segments)[:_MOST_SEGMENTS]
    return mean, directions, variance, centred[np.sort(chosen)]


def _log_distance(
    embeddings: np.ndarray,
    mean: np.ndarray,
    directions: np.ndarray,
    variance: Any,
    segments: np.ndarray,
) -> np.ndarray:
    centred = embeddings - mean
    squares = np.sum(centred**2, axis=1) / variance
    squares -= np.sum((centred @ directions) ** 2, axis=1)
    found = metrics.pairwise_distances(centred, segments)
    nearest = np.sort(found, axis=1)[:, :NUM_NEAREST].mean(axis=1) ** 2
    return sum(np.log(np.maximum(x, LEAST_SQUARE)) for x in (squares, nearest))


def save(familiarity: Familiarity, path: str | os.PathLike[str]) -> None:
    """Writes an NPZ file, atomically."""
    content = io.BytesIO()
    np.savez(content, **vars(familiarity))
    with files.whole(path) as unfinished:
        unfinished.write_bytes(content.getvalue())


def load(path: str | os.PathLike[str]) -> Familiarity:
    """Reads an NPZ file; raises NumPy's errors if it is damaged."""
    with open(path, "rb") as file, np.load(file) as values:
        return Familiarity(**{name: values[name] for name in values.files})
