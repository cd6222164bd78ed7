"""95 % intervals of accuracies and of differences between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964  # Standard normal quantile of 97.5 %.
_NUM_DRAWS, _DRAWS_AT_ONCE = 10_000, 500


def wilson(share: float, num: int) -> tuple[float, float]:
    """Returns the Wilson score interval of a share, within 0 and 1 (Wilson, 1927).

    `num` counts independent observations: clips, or groups of related clips.
    """
    shrink = 1 + _Z**2 / num
    centre = (share + _Z**2 / (2 * num)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2)) / shrink
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap(
    values: np.ndarray, groups: Sequence[str] | np.ndarray
) -> tuple[float, float] | None:
    """Returns the bootstrap interval of a mean over repeats and clips.

    Resamples both the repeats and the groups of clips with replacement (the
    pigeonhole bootstrap of Owen, 2007), so it covers other test clips and other
    divisions into folds. It takes the percentiles of 10,000 draws, or returns None if
    all have the same mean: there are too few clips for an interval.

    `values` are `[repeats, clips]`, NaN where a clip was not tested.
    """
    _, places = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(places, row) for row in np.nan_to_num(values)])
    counts = np.stack([np.bincount(places, row) for row in np.isfinite(values)])
    generator = np.random.default_rng(0)
    means = []
    for _ in range(0, _NUM_DRAWS, _DRAWS_AT_ONCE):
        repeats, drawn = (
            generator.multinomial(num, np.full(num, 1 / num), _DRAWS_AT_ONCE)
            for num in sums.shape
        )
        totals, tested = ((repeats @ x * drawn).sum(axis=1) for x in (sums, counts))
        means.append(totals[tested > 0] / tested[tested > 0])
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return (float(low), float(high)) if low < high else None
