"""How sure the figures of a cross-validation are: means with intervals.

Folds share training clips and repeats share all clips, so neither are independent;
each interval says what it allows for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from genre_tl.evaluation import metrics

_NUM_DRAWS, _DRAWS_AT_ONCE = 10_000, 500


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over the folds of repeated cross-validation, and how sure it is.

    Attributes:
      value: mean over all folds.
      interval: 95 %, by the corrected resampled t-test of Nadeau and Bengio
        (2003), as Bouckaert and Frank (2004) use it for repeated folds. Training
        parts overlap, so folds are not independent: their variance is taken
        (1 / folds + test clips / all others) times, not 1 / folds times.
      repeat_stddev: standard deviation of the repeats' means; NaN of one repeat.
      repeat_interval: 95 %, by Student's t of the repeats' means. It says what
        another division of the same clips would change, not what other clips
        would: it is too narrow for that.
      num_folds: folds measured.
    """

    value: float
    interval: tuple[float, float]
    repeat_stddev: float
    repeat_interval: tuple[float, float]
    num_folds: int

    def to_dict(self) -> dict[str, Any]:
        """Returns every figure, fit for JSON; None stands for undefined."""
        return {
            "value": self.value,
            "interval": [metrics.or_none(bound) for bound in self.interval],
            "repeat_stddev": metrics.or_none(self.repeat_stddev),
            "repeat_interval": [
                metrics.or_none(bound) for bound in self.repeat_interval
            ],
            "num_folds": self.num_folds,
        }


def resampled_mean(
    values: Sequence[float] | np.ndarray,
    repeats: Sequence[int] | np.ndarray,
    test_share: float,
) -> Mean:
    """Averages a figure of folds, such as accuracy or a difference of accuracies.

    Args:
      values: of each fold.
      repeats: which repeat each fold is of.
      test_share: clips of the test part for each that is not, such as 1 / 9 of ten
        folds.

    Raises:
      ValueError: if there is no value.
    """
    values, repeats = np.asarray(values, np.float64), np.asarray(repeats)
    if not values.size:
        raise ValueError("values is empty: there is not one fold to average")
    mean = float(values.mean())
    means = np.array([values[repeats == each].mean() for each in np.unique(repeats)])
    half = _half_width(values, 1 / len(values) + test_share)
    spread = _half_width(means, 1 / len(means))
    return Mean(
        value=mean,
        interval=(mean - half, mean + half),
        repeat_stddev=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        repeat_interval=(mean - spread, mean + spread),
        num_folds=len(values),
    )


def _half_width(values: np.ndarray, share: float) -> float:
    """Half of Student's 95 % interval; `share` of the variance is the mean's."""
    if len(values) < 2:
        return math.nan
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * math.sqrt(values.var(ddof=1) * share))


def crossed_interval(
    values: np.ndarray, groups: Sequence[str] | np.ndarray
) -> tuple[float, float]:
    """Returns the 95 % interval of a mean over clips and repeats, by the bootstrap.

    Repeats and groups of clips are both drawn anew, with replacement (the pigeonhole
    bootstrap of Owen, 2007, whose variance is never too small in the mean). It says
    what other test clips and other divisions would change; a clip's result is that of
    models trained on the others.

    Args:
      values: `[repeats, clips]`, such as 1 where a prediction is right, or differences
        of two models.
      groups: what each clip belongs to; clips of a group are drawn together.

    Raises:
      ValueError: if there is no value, or not one group a clip.
    """
    values = np.asarray(values, np.float64)
    if not values.size or values.shape[1:] != np.shape(groups):
        raise ValueError(
            f"values {values.shape} must be [repeats, clips], with as many groups, "
            f"not {np.shape(groups)}"
        )
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(places, row) for row in values])
    generator = np.random.default_rng(0)
    means = []
    for _ in range(0, _NUM_DRAWS, _DRAWS_AT_ONCE):
        repeats, drawn = (
            generator.multinomial(num, np.full(num, 1 / num), _DRAWS_AT_ONCE)
            for num in sums.shape
        )
        totals = (repeats @ sums * drawn).sum(axis=1)
        means.append(totals / (len(values) * drawn @ sizes))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
