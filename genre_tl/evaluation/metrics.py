"""Computes how well a tagger ranks clips and how often a classifier is right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from genre_tl.evaluation import intervals


@dataclasses.dataclass(frozen=True, eq=False)
class TaggingMetrics:
    """Metrics of a tagger.

    AUC-ROC is the area under the receiver operating characteristic (chance: 0.5).
    PR-AUC is average precision (chance: the share of positives). `macro` is the mean
    of the `num_tags` tags with at least `min_positives` positive clips and a negative
    one; `micro` pools their clips. `tag_auc_roc` and `tag_pr_auc` are float64
    `[tags]`, NaN for the other tags.
    """

    macro_auc_roc: float
    micro_auc_roc: float
    macro_pr_auc: float
    micro_pr_auc: float
    num_tags: int
    min_positives: int
    tag_auc_roc: np.ndarray
    tag_pr_auc: np.ndarray

    def to_dict(self) -> dict[str, float]:
        """Returns the metrics without those of single tags, ready for JSON."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}


def tagging_metrics(
    labels: np.ndarray, scores: np.ndarray, *, min_positives: int = 1
) -> TaggingMetrics:
    """Returns the metrics of a tagger's scores, of which only the order matters.

    `labels` are 0 or 1, `scores` finite, both `[clips, tags]`. `min_positives` is the
    number of positive clips that a tag needs to count.

    Raises ValueError if the shapes differ, a score is not finite, or no tag counts.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 2 or labels.shape != scores.shape:
        shapes = f"labels {labels.shape} and scores {scores.shape}"
        raise ValueError(f"{shapes} must both be [clips, tags]")
    _require_finite(scores)
    min_positives = max(min_positives, 1)
    counted = _counted_tags(labels, min_positives)
    labels, scores = labels[:, counted], scores[:, counted]
    pool = labels.ravel(), scores.ravel()
    auc_roc, pr_auc = np.full((2, len(counted)), np.nan)
    auc_roc[counted] = metrics.roc_auc_score(labels, scores, average=None)
    pr_auc[counted] = metrics.average_precision_score(labels, scores, average=None)
    return TaggingMetrics(
        macro_auc_roc=float(np.nanmean(auc_roc)),
        micro_auc_roc=float(metrics.roc_auc_score(*pool)),
        macro_pr_auc=float(np.nanmean(pr_auc)),
        micro_pr_auc=float(metrics.average_precision_score(*pool)),
        num_tags=int(counted.sum()),
        min_positives=min_positives,
        tag_auc_roc=auc_roc,
        tag_pr_auc=pr_auc,
    )


def _require_finite(scores: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        clip, label = bad[0]
        raise ValueError(
            f"scores hold {len(bad)} values that are not finite, first "
            f"{scores[clip, label]} at clip {clip}, label {label}: the model has "
            "probably diverged; lower its learning rate"
        )


def _counted_tags(labels: np.ndarray, min_positives: int) -> np.ndarray:
    positives = np.count_nonzero(labels, axis=0)
    counted = (positives >= min_positives) & (positives < len(labels))
    if not counted.any():
        raise ValueError(
            f"none of {labels.shape[1]} tags has at least {min_positives} positives "
            f"and a negative among {len(labels)} clips (most positives: "
            f"{positives.max(initial=0)}); give more clips or a smaller min_positives"
        )
    return counted


@dataclasses.dataclass(frozen=True, eq=False)
class GenreMetrics:
    """Metrics of a genre classifier, in the order of the vocabulary.

    `confusion` holds clips, int64 `[true genres, predicted genres]`. The others are
    `[genres]`, 0 to 1; precision is NaN for a genre that was never predicted, recall
    for one without clips, F1 for one that is neither.
    """

    vocabulary: tuple[str, ...]
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the clips that are classified correctly, 0 to 1."""
        return float(self.confusion.trace() / self.num_clips)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval for other clips; model and split are taken as given."""
        return intervals.wilson(self.accuracy, self.num_clips)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the genres that have clips, 0 to 1."""
        return float(np.nanmean(self.recall))

    @property
    def support(self) -> np.ndarray:
        """Clips of each genre, int64 `[genres]`."""
        return self.confusion.sum(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Returns all metrics, ready for JSON; None stands for undefined."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            "num_clips": self.num_clips,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "balanced_accuracy": self.balanced_accuracy,
            "genres": {
                genre: {name: or_none(values[row]) for name, values in shares.items()}
                | {"support": int(self.support[row])}
                for row, genre in enumerate(self.vocabulary)
            },
            "vocabulary": list(self.vocabulary),
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> str:
        """Returns the metrics of each genre and the accuracy as aligned text."""
        width = max(len("genre"), *map(len, self.vocabulary))
        form = f"{{:<{width}}}  {{:>9}}  {{:>7}}  {{:>7}}  {{:>5}}  {{}}"
        head = "genre", "precision", "recall", "F1", "clips", "most often mistaken for"
        lines = [form.format(*head)]
        for row, genre in enumerate(self.vocabulary):
            shares = (percent(x[row]) for x in (self.precision, self.recall, self.f1))
            cells = genre, *shares, self.support[row], self._mistaken_for(row)
            lines.append(form.format(*cells).rstrip())
        low, high = self.accuracy_interval
        interval = f"(95 % interval {100 * low:.1f} to {percent(high)})"
        accuracy = f"{percent(self.accuracy)} of {self.num_clips} clips {interval}"
        lines += [
            f"\naccuracy           {accuracy}",
            f"balanced accuracy  {percent(self.balanced_accuracy)}",
            f"in short           {self.in_words()}",
        ]
        return "\n".join(lines)

    def _mistaken_for(self, row: int) -> str:
        wrong = self.confusion[row].copy()
        wrong[row] = 0
        worst = int(wrong.argmax())
        return f"{self.vocabulary[worst]} ({wrong[worst]})" if wrong[worst] else ""

    def in_words(self, num_repeats: int = 1) -> str:
        """Returns accuracy and weakest genre in words, with clips per repeat."""
        worst = int(np.nanargmin(self.recall))
        right, clips = self.confusion[worst, worst], self.support[worst]
        counts = f"{right / num_repeats:.0f} of {clips / num_repeats:.0f}"
        share = f"about {10 * self.accuracy:.0f} of 10 right"
        return f"{share}; weakest: {self.vocabulary[worst]} ({counts})"


def genre_metrics(
    classes: np.ndarray, scores: np.ndarray, vocabulary: Sequence[str]
) -> GenreMetrics:
    """Returns the metrics of a classifier, whose highest score is its prediction.

    `classes` are the true genres as indices into the vocabulary, `[clips]`; `scores`
    are finite, `[clips, genres]`.

    Raises ValueError if shapes do not fit, there is no clip, or a score is not finite.
    """
    classes, scores = np.asarray(classes), np.asarray(scores)
    labels = np.arange(len(vocabulary))
    if not len(classes) or scores.shape != (*classes.shape, len(labels)):
        raise ValueError(
            f"classes {classes.shape} and scores {scores.shape} must be [clips] and "
            f"[clips, {len(labels)}], with one clip or more"
        )
    _require_finite(scores)
    predicted = scores.argmax(axis=1)
    confusion = metrics.confusion_matrix(classes, predicted, labels=labels)
    *by_genre, _ = metrics.precision_recall_fscore_support(
        classes, predicted, labels=labels, zero_division=np.nan
    )
    return GenreMetrics(tuple(vocabulary), confusion, *by_genre)


def or_none(value: float) -> float | None:
    """Returns a number, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def percent(share: float) -> str:
    """Returns a share as text, "-" if it is NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
