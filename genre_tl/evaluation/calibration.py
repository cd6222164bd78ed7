"""Calibrates scores of genres, and measures what a score is worth.

A calibrated score is a probability: of the clips whose best genre scores 0.7, seven of
ten are of that genre. `fit` finds a scale and a bias for each genre on scores of clips
that the classifier was not trained on ("vector scaling", Guo, Pleiss, Sun and
Weinberger, "On Calibration of Modern Neural Networks", 2017).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize, special

PRECISIONS = (0.9, 0.95)
"""Precisions that thresholds are given for."""

NUM_BINS = 10  # of equal width, from 0 to 1

# Clips that the prior counts for: of no bias, and of the precision of all genres.
_BIAS_CLIPS, _PRECISION_CLIPS = 1.0, 10.0
_NUM_DRAWS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class OutOfFold:
    """Scores of segments of clips that the classifier was not trained on.

    Attributes:
      log_scores: logarithms of the scores, `[segments, genres]`.
      clips: the clip of each segment, 0 to the number of clips, `[segments]`, sorted.
      frames: the weight of each segment in its clip's score, `[segments]`.
      classes: the genre of each clip, integers `[clips]`.
    """

    log_scores: np.ndarray
    clips: np.ndarray
    frames: np.ndarray
    classes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The share of each segment in its clip, `[segments]`."""
        return self.frames / np.bincount(self.clips, self.frames)[self.clips]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Calibrates by `softmax(scale * log_scores + bias)`; the bias is `[genres]`."""

    scale: float
    bias: np.ndarray

    def scores(self, found: OutOfFold) -> np.ndarray:
        """Returns calibrated scores of clips, `[clips, genres]`."""
        segments = special.softmax(self.scale * found.log_scores + self.bias, axis=1)
        return _clip_means(segments, found)


def identity(num_genres: int) -> Calibration:
    """Returns the calibration that changes nothing."""
    return Calibration(1.0, np.zeros(num_genres))


def fit(found: OutOfFold) -> Calibration:
    """Returns the calibration of the highest likelihood.

    A prior that counts as much as one clip draws the biases to 0.
    """
    rows, weights = found.classes[found.clips], found.weights
    num_segments, num_genres = found.log_scores.shape
    one_hot, num_clips = np.eye(num_genres)[rows], len(found.classes)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = np.exp(values[0]), values[1:]
        log_shares = special.log_softmax(scale * found.log_scores + bias, axis=1)
        # The score of a clip is the mean of those of its segments.
        terms = weights * np.exp(log_shares[np.arange(num_segments), rows])
        of_clip = np.maximum(np.bincount(found.clips, terms), 1e-30)
        responsible = (terms / of_clip[found.clips])[:, np.newaxis]
        slope = responsible * (np.exp(log_shares) - one_hot) / num_clips
        prior = _BIAS_CLIPS / num_clips
        slopes = slope.sum(axis=0) + prior * bias
        first = scale * np.sum(slope * found.log_scores)
        value = -np.mean(np.log(of_clip)) + prior * np.sum(bias**2) / 2
        return float(value), np.array([first, *slopes])

    bounds = [(np.log(0.05), np.log(20)), *[(-10.0, 10.0)] * num_genres]
    best = optimize.minimize(loss, np.zeros(1 + num_genres), jac=True, bounds=bounds)
    return Calibration(float(np.exp(best.x[0])), best.x[1:])


def _clip_means(segments: np.ndarray, found: OutOfFold) -> np.ndarray:
    sums = np.zeros((len(found.classes), segments.shape[1]))
    np.add.at(sums, found.clips, segments * found.weights[:, np.newaxis])
    return sums


def reliability(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns clips, mean score and accuracy of each bin of the highest score.

    `classes` are `[clips]`, `scores` `[clips, genres]`. The result is float64
    `[bins, 3]`, NaN where a bin has no clips.
    """
    best, is_right = scores.max(axis=1), scores.argmax(axis=1) == classes
    bins = np.minimum((best * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    sums = (np.bincount(bins, x, NUM_BINS) for x in (best, is_right))
    with np.errstate(invalid="ignore"):
        return np.stack([count, *(total / count for total in sums)], axis=1)


def expected_error(classes: np.ndarray, scores: np.ndarray) -> float:
    """Returns the expected calibration error, 0 to 1.

    It is the mean distance of score and accuracy over the bins of `reliability`,
    weighted by their clips. With few clips it is above 0 even for perfect scores.
    """
    count, mean_score, accuracy = reliability(classes, scores).T
    gaps = np.nan_to_num(np.abs(mean_score - accuracy))
    return float(np.sum(count * gaps) / np.sum(count))


def expected_error_by_chance(scores: np.ndarray, clips: np.ndarray) -> float:
    """Returns the mean expected error if these scores were perfectly calibrated.

    `scores` are `[rows, genres]`; rows of one clip, in `clips`, are all right or all
    wrong if they are equally sure, as in repeats of a cross-validation.
    """
    chance, best = np.random.default_rng(0), scores.max(axis=1)
    two = np.stack([best, np.zeros_like(best)], axis=1)
    errors = []
    for _ in range(_NUM_DRAWS):
        wrong = chance.random(clips.max() + 1)[clips] >= best
        errors.append(expected_error(wrong.astype(int), two))
    return float(np.mean(errors))


def coverage(classes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns coverage and precision for every threshold of the best score.

    Both are float64 `[clips]`: of the clips with the highest scores, their share of all
    and the share that is right.
    """
    order = np.argsort(-scores.max(axis=1), kind="stable")
    is_right = (scores.argmax(axis=1) == classes)[order]
    ranks = np.arange(1, len(order) + 1)
    return ranks / len(order), np.cumsum(is_right) / ranks


def thresholds(classes: np.ndarray, scores: np.ndarray, precision: float) -> np.ndarray:
    """Returns the lowest score of each genre above which `precision` is reached.

    Of the clips that get a genre, with at least its threshold as score, a share of
    `precision` is right. A genre has few clips: the precision of all genres above the
    same score counts as ten more. Infinite where the precision is not reached.
    `classes` are `[clips]`, `scores` `[clips, genres]`; the result is `[genres]`.
    """
    order = np.argsort(-scores.max(axis=1), kind="stable")
    best, predicted = scores.max(axis=1)[order], scores.argmax(axis=1)[order]
    is_right = predicted == classes[order]
    of_all = np.cumsum(is_right) / np.arange(1, len(order) + 1)
    # Clips of equal scores stay on one side of a threshold.
    is_last = np.append(np.diff(best) != 0, True)
    found = np.full(scores.shape[1], np.inf)
    for genre in range(scores.shape[1]):
        is_mine = predicted == genre
        right = np.cumsum(is_mine & is_right) + _PRECISION_CLIPS * of_all
        estimate = right / (np.cumsum(is_mine) + _PRECISION_CLIPS)
        reached = np.flatnonzero((estimate >= precision) & is_last)
        if len(reached):
            found[genre] = 0.0 if reached[-1] == len(order) - 1 else best[reached[-1]]
    return found


def at_thresholds(
    classes: np.ndarray, scores: np.ndarray, lowest: np.ndarray
) -> tuple[int, int]:
    """Returns how many clips reach their genre's threshold, and how many are right."""
    predicted = scores.argmax(axis=1)
    is_sure = scores.max(axis=1) >= lowest[predicted]
    return int(is_sure.sum()), int((is_sure & (predicted == classes)).sum())


def suspects(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the clips that look mislabelled, the most suspicious first.

    These are clips whose best genre is another than their own; they are ordered by how
    much higher it scores. `classes` are `[clips]`, `scores` `[clips, genres]`, of
    classifiers that were not trained on the clip.
    """
    own = scores[np.arange(len(classes)), classes]
    margin = scores.max(axis=1) - own
    order = np.argsort(-margin, kind="stable")
    return order[margin[order] > 0]

