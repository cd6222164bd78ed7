"""Calibrates scores of genres, and measures what a score is worth.

A calibrated score is a probability: of the clips whose best genre scores 0.7, seven of
ten are of that genre. Clips that resemble no training clip have logits near 0, and are
right more often than their scores say. So the logits are divided by a power of their
norm; the order of a clip's genres stays.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize, special

from genre_tl import params

PRECISIONS = (0.9, 0.95)
"""Precisions that thresholds are given for."""

NUM_BINS = 10  # of equal width, from 0 to 1

_SCALES = 0.05, 20.0  # range of the fit
_PRIOR_CLIPS = 10.0  # of a genre's precision
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


def plain(found: OutOfFold) -> np.ndarray:
    """Returns the scores of clips as they are, `[clips, genres]`."""
    return _clip_means(np.exp(found.log_scores), found)


def calibrated(found: OutOfFold, scale: float) -> np.ndarray:
    """Returns the calibrated scores of clips, `[clips, genres]`."""
    centred = found.log_scores - found.log_scores.mean(axis=1, keepdims=True)
    norm = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    factor = (params.CALIBRATION_NORM / norm) ** params.CALIBRATION_POWER
    logits = scale * factor * centred
    return _clip_means(special.softmax(logits, axis=1), found)


def fit(found: OutOfFold) -> float:
    """Returns the scale of the logits that gives the labels the highest likelihood."""
    rows = np.arange(len(found.classes))

    def loss(log_scale: float) -> float:
        scores = calibrated(found, np.exp(log_scale))[rows, found.classes]
        return -float(np.mean(np.log(np.maximum(scores, 1e-30))))

    bounds = tuple(np.log(_SCALES))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds).x))


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
        right = np.cumsum(is_mine & is_right) + _PRIOR_CLIPS * of_all
        estimate = right / (np.cumsum(is_mine) + _PRIOR_CLIPS)
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
