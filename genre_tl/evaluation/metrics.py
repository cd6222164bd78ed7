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
    PR-AUC is average precision (chance: the share of positives). A soft tag, whose
    labels are probabilities, takes the clips of their upper decile as positive.
    `macro` is the mean of the `num_tags` tags with at least `min_positives` positive
    clips and a negative one; `num_soft_tags` of them are soft. `micro` pools their
    clips. `macro_correlation` is the mean of Pearson's coefficient of the soft tags,
    NaN if there are none.

    `tag_auc_roc`, `tag_pr_auc` and `tag_correlation` are float64 `[tags]`, NaN for the
    tags that do not count, the last also for binary ones.
    """

    macro_auc_roc: float
    micro_auc_roc: float
    macro_pr_auc: float
    micro_pr_auc: float
    macro_correlation: float
    num_tags: int
    num_soft_tags: int
    min_positives: int
    tag_auc_roc: np.ndarray
    tag_pr_auc: np.ndarray
    tag_correlation: np.ndarray

    def to_dict(self) -> dict[str, float]:
        """Returns the metrics without those of single tags, ready for JSON.

        `soft_correlation` is there if there are soft tags. If there are binary tags as
        well, `binary_` and `soft_` precede the macro averages of either kind.
        """
        values = dataclasses.asdict(self)
        values = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
        correlation = values.pop("macro_correlation")
        if self.num_soft_tags:
            values["soft_correlation"] = correlation
        if 0 < self.num_soft_tags < self.num_tags:
            is_soft = ~np.isnan(self.tag_correlation)
            for kind, chosen in (("binary", ~is_soft), ("soft", is_soft)):
                for name in ("auc_roc", "pr_auc"):
                    areas = getattr(self, f"tag_{name}")[chosen]
                    values[f"{kind}_macro_{name}"] = float(np.nanmean(areas))
        return values


def tagging_metrics(
    labels: np.ndarray, scores: np.ndarray, *, min_positives: int = 1
) -> TaggingMetrics:
    """Returns the metrics of a tagger's scores; areas depend only on their order.

    `labels` are from 0 to 1, NaN where unknown, and `scores` finite, both `[clips,
    tags]`. Unknown labels do not count. A tag with a label between 0 and 1 is soft.
    `min_positives` is the number of positive clips that a tag needs to count.

    Raises ValueError if the shapes differ, a score is not finite, or no tag counts.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 2 or labels.shape != scores.shape:
        shapes = f"labels {labels.shape} and scores {scores.shape}"
        raise ValueError(f"{shapes} must both be [clips, tags]")
    _require_finite(scores)
    min_positives = max(min_positives, 1)
    is_soft = np.any((labels > 0) & (labels < 1), axis=0)
    is_known, is_positive = ~np.isnan(labels), _positives(labels, is_soft)
    counted = _counted_tags(is_positive, is_known, min_positives)
    auc_roc, pr_auc, correlation = np.full((3, len(counted)), np.nan)
    for tag in counted.nonzero()[0]:
        known = is_known[:, tag]
        pair = is_positive[known, tag], scores[known, tag]
        auc_roc[tag] = metrics.roc_auc_score(*pair)
        pr_auc[tag] = metrics.average_precision_score(*pair)
    soft = is_soft & counted
    correlation[soft] = correlations(labels[:, soft], scores[:, soft])
    pooled = is_known & counted
    pool = is_positive[pooled], scores[pooled]
    return TaggingMetrics(
        macro_auc_roc=float(np.nanmean(auc_roc)),
        micro_auc_roc=float(metrics.roc_auc_score(*pool)),
        macro_pr_auc=float(np.nanmean(pr_auc)),
        micro_pr_auc=float(metrics.average_precision_score(*pool)),
        macro_correlation=float(correlation[soft].mean()) if soft.any() else math.nan,
        num_tags=int(counted.sum()),
        num_soft_tags=int(soft.sum()),
        min_positives=min_positives,
        tag_auc_roc=auc_roc,
        tag_pr_auc=pr_auc,
        tag_correlation=correlation,
    )


def _positives(labels: np.ndarray, is_soft: np.ndarray) -> np.ndarray:
    """Returns which labels are positive; of soft tags, those of the upper decile."""
    is_positive = labels > 0
    if is_soft.any():
        decile = np.nanpercentile(labels[:, is_soft], 90, axis=0)
        is_positive[:, is_soft] = labels[:, is_soft] >= decile
    return is_positive


def correlations(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Returns Pearson's coefficient of each column of two arrays `[clips, columns]`.

    Unknown targets (NaN) do not count. A column that is constant on either side has 0.
    """
    is_known = ~np.isnan(targets)
    count = np.maximum(is_known.sum(axis=0), 1)

    def normalized(values: np.ndarray) -> np.ndarray:
        values = np.where(is_known, values, 0).astype(np.float64)
        scale = np.abs(values).max(axis=0, initial=0)
        values = np.where(is_known, values - values.sum(axis=0) / count, 0)
        norm = np.sqrt((values**2).sum(axis=0))
        is_constant = norm <= 1e-9 * scale  # Rounding leaves more than 0.
        return np.where(is_constant, 0, values / np.where(is_constant, 1, norm))

    return (normalized(targets) * normalized(outputs)).sum(axis=0)


def _require_finite(scores: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        clip, label = bad[0]
        raise ValueError(
            f"scores hold {len(bad)} values that are not finite, first "
            f"{scores[clip, label]} at clip {clip}, label {label}: the model has "
            "probably diverged; lower its learning rate"
        )


def _counted_tags(
    is_positive: np.ndarray, is_known: np.ndarray, min_positives: int
) -> np.ndarray:
    positives = np.count_nonzero(is_positive, axis=0)
    num_known = np.count_nonzero(is_known, axis=0)
    counted = (positives >= min_positives) & (positives < num_known)
    if not counted.any():
        raise ValueError(
            f"none of {len(counted)} tags has at least {min_positives} positives "
            f"and a negative among {len(is_known)} clips (most positives: "
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
