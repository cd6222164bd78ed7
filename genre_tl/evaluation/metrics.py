"""Scores to metrics: how well tags are ranked and genres are named.

Nothing here trains or reads files; NumPy and scikit-learn only.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics


@dataclasses.dataclass(frozen=True, eq=False)
class TaggingMetrics:
    """How well the scores of a tagger rank the clips.

    All averages are over the counted tags alone. AUC-ROC is the area under
    the receiver operating characteristic (chance: 0.5); PR-AUC is average
    precision, the stepwise area under precision against recall (chance: the
    share of positives).

    Attributes:
      macro_auc_roc: mean of the counted tags' AUC-ROC.
      micro_auc_roc: AUC-ROC of all pairs of clip and counted tag, pooled.
      macro_pr_auc: mean of the counted tags' PR-AUC.
      micro_pr_auc: PR-AUC of the same pool.
      num_tags: tags counted.
      min_positives: fewest positive clips of a counted tag.
      tag_auc_roc: float64 `[tags]`, NaN where a tag was not counted.
      tag_pr_auc: float64 `[tags]`, NaN where a tag was not counted.
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
        """Returns every figure but the per-tag ones, fit for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}


def tagging_metrics(
    labels: np.ndarray, scores: np.ndarray, *, min_positives: int = 1
) -> TaggingMetrics:
    """Measures a tagger.

    Args:
      labels: 0 or 1, `[clips, tags]`.
      scores: finite, larger is likelier, `[clips, tags]`; only order matters.
      min_positives: a tag counts if it has at least this many positive clips
        (never fewer than one) and a negative one; the others have no area.

    Raises:
      ValueError: if shapes differ, a label is not 0 or 1, a score is not
        finite, or no tag counts.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 2:
        raise ValueError(f"labels must be [clips, tags], not shape {labels.shape}")
    if labels.shape != scores.shape:
        raise ValueError(
            f"labels {labels.shape} and scores {scores.shape} must have one shape, "
            "[clips, tags]"
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1: give tags, not scores or classes")
    _require_finite(scores)
    counted = _counted_tags(labels, min_positives)
    by_tag = np.full((len(counted), 2), np.nan)
    for tag in np.flatnonzero(counted):
        by_tag[tag] = _areas(labels[:, tag], scores[:, tag])
    macro = by_tag[counted].mean(axis=0)
    micro = _areas(labels[:, counted].ravel(), scores[:, counted].ravel())
    return TaggingMetrics(
        macro_auc_roc=float(macro[0]),
        micro_auc_roc=float(micro[0]),
        macro_pr_auc=float(macro[1]),
        micro_pr_auc=float(micro[1]),
        num_tags=int(counted.sum()),
        min_positives=max(min_positives, 1),
        tag_auc_roc=by_tag[:, 0],
        tag_pr_auc=by_tag[:, 1],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class GenreMetrics:
    """How often a classifier names the right genre.

    Attributes:
      vocabulary: the genres, in the order of every array.
      confusion: int64 `[genres, genres]` clips; rows are the truth, columns
        the prediction.
    """

    vocabulary: tuple[str, ...]
    confusion: np.ndarray

    @property
    def num_clips(self) -> int:
        """Clips judged."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the clips named rightly, 0 to 1."""
        return float(self.confusion.trace() / self.num_clips)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the accuracy (Wilson, 1927).

        It takes the clips as independent and the model as given, so it does
        not cover what another training run or another split would change.
        """
        z = statistics.NormalDist().inv_cdf(0.975)
        n, p = self.num_clips, self.accuracy
        shrink = 1 + z**2 / n
        centre = (p + z**2 / (2 * n)) / shrink
        half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / shrink
        return max(centre - half, 0.0), min(centre + half, 1.0)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the genres that occur, 0 to 1."""
        return float(np.nanmean(self.recall))

    @property
    def support(self) -> np.ndarray:
        """Clips of each genre, int64 `[genres]`."""
        return self.confusion.sum(axis=1)

    @property
    def precision(self) -> np.ndarray:
        """`[genres]`, 0 to 1; NaN for a genre that was never predicted."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """`[genres]`, 0 to 1; NaN for a genre that has no clip."""
        return _ratio(self.confusion.diagonal(), self.support)

    @property
    def f1(self) -> np.ndarray:
        """`[genres]`, 0 to 1; NaN for a genre neither present nor predicted."""
        predicted = self.confusion.sum(axis=0)
        return _ratio(2 * self.confusion.diagonal(), self.support + predicted)

    def to_dict(self) -> dict[str, Any]:
        """Returns every figure, fit for JSON; None stands for undefined."""
        columns = zip(
            self.vocabulary,
            self.precision,
            self.recall,
            self.f1,
            self.support,
            strict=True,
        )
        return {
            "num_clips": self.num_clips,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "balanced_accuracy": self.balanced_accuracy,
            "genres": {
                genre: {
                    "precision": or_none(precision),
                    "recall": or_none(recall),
                    "f1": or_none(f1),
                    "support": int(support),
                }
                for genre, precision, recall, f1, support in columns
            },
            "vocabulary": list(self.vocabulary),
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> str:
        """Returns the figures by genre, and the whole, as aligned text."""
        width = max(len("genre"), *map(len, self.vocabulary))
        head = f"{'genre':<{width}}  {'precision':>9}  {'recall':>7}  {'F1':>7}"
        lines = [f"{head}  {'clips':>5}  mostly mistaken for"]
        for row, genre in enumerate(self.vocabulary):
            figures = (
                f"{_percent(self.precision[row]):>9}",
                f"{_percent(self.recall[row]):>7}",
                f"{_percent(self.f1[row]):>7}",
                f"{self.support[row]:>5}",
                self._mistaken_for(row),
            )
            lines.append("  ".join((f"{genre:<{width}}", *figures)).rstrip())
        low, high = self.accuracy_interval
        return "\n".join(
            [
                *lines,
                "",
                f"accuracy           {_percent(self.accuracy)} of {self.num_clips} "
                f"clips (95 % interval {100 * low:.1f} to {_percent(high)})",
                f"balanced accuracy  {_percent(self.balanced_accuracy)}",
            ]
        )

    def _mistaken_for(self, row: int) -> str:
        wrong = self.confusion[row].copy()
        wrong[row] = 0
        worst = int(wrong.argmax())
        return f"{self.vocabulary[worst]} ({wrong[worst]})" if wrong[worst] else ""


def genre_metrics(
    classes: np.ndarray, scores: np.ndarray, vocabulary: Sequence[str]
) -> GenreMetrics:
    """Measures a classifier; the highest score is its answer.

    Args:
      classes: the truth, integers below the number of genres, `[clips]`.
      scores: finite, larger is likelier, `[clips, genres]`.
      vocabulary: the genres' names, in the order of the scores.

    Raises:
      ValueError: if the shapes do not fit, there is no clip, a class is not
        in the vocabulary, or a score is not finite.
    """
    classes, scores = np.asarray(classes), np.asarray(scores)
    num_genres = len(vocabulary)
    if classes.ndim != 1 or scores.shape != (len(classes), num_genres):
        raise ValueError(
            f"classes {classes.shape} and scores {scores.shape} must be [clips] and "
            f"[clips, genres], with the {num_genres} genres of the vocabulary"
        )
    if not len(classes):
        raise ValueError("classes and scores hold no clip: nothing to measure")
    if not np.isin(classes, np.arange(num_genres)).all():
        raise ValueError(
            f"classes must be integers from 0 to {num_genres - 1}, the places in "
            f"the vocabulary, not {classes.min()} to {classes.max()}"
        )
    _require_finite(scores)
    confusion = metrics.confusion_matrix(
        classes, scores.argmax(axis=1), labels=np.arange(num_genres)
    )
    return GenreMetrics(tuple(vocabulary), confusion)


def or_none(value: float) -> float | None:
    """Returns a figure, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _require_finite(scores: np.ndarray) -> None:
    bad = ~np.isfinite(scores)
    if bad.any():
        clip, label = np.argwhere(bad)[0]
        raise ValueError(
            f"scores hold {int(bad.sum())} values that are not finite, first "
            f"{scores[clip, label]} at clip {clip}, label {label}: the model has "
            "probably diverged; lower its learning rate"
        )


def _counted_tags(labels: np.ndarray, min_positives: int) -> np.ndarray:
    positives = np.count_nonzero(labels, axis=0)
    least = max(min_positives, 1)
    counted = (positives >= least) & (positives < len(labels))
    if not counted.any():
        raise ValueError(
            f"no tag counts: none of {labels.shape[1]} tags has at least {least} "
            f"positives and a negative among {len(labels)} clips (most positives: "
            f"{positives.max(initial=0)}); give more clips or a smaller min_positives"
        )
    return counted


def _areas(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """AUC-ROC and average precision of one column.

    Both come from one curve, which takes about half the time of
    `roc_auc_score` and `average_precision_score`: this runs after each epoch.
    """
    false_rate, true_rate, _ = metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    positives = np.count_nonzero(labels)
    found = true_rate[1:] * positives
    false_alarms = false_rate[1:] * (len(labels) - positives)
    precision = found / (found + false_alarms)
    return metrics.auc(false_rate, true_rate), float(np.diff(true_rate) @ precision)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    undefined = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=undefined, where=whole > 0)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"
