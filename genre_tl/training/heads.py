"""Heads fitted to the features of a frozen backbone, in closed form.

Ridge regression on one-hot genres, linear or with a Gaussian kernel. Each group of
clips is scored by the regression on the others, for which there is a formula; these
scores choose the penalty and the scale of the softmax, so that its probabilities are
calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special
from sklearn import kernel_approximation

from genre_tl.model import transfer

_MOST_CENTRES = 1000
_PENALTIES = 0.03, 0.1, 0.3, 1.0, 3.0
_SOFTMAX_SCALES = np.geomspace(1, 100, 41)

# Features that hardly vary within their block must not be amplified.
_MIN_RELATIVE_STDDEV = 0.05


def fit(
    features: np.ndarray,
    classes: np.ndarray,
    groups: Sequence[str],
    *,
    num_genres: int,
    block_sizes: Sequence[int],
    kernel: bool,
) -> transfer.Head:
    """Returns the head for the features of clips, `[clips, features]`.

    Args:
      features: of the clips to train on.
      classes: their genres, integers `[clips]`.
      groups: their recordings or artists; a group is held out as one.
      num_genres: number of genres.
      block_sizes: numbers of features of each block. The first block has the weight of
        all others together.
      kernel: whether to use a Gaussian kernel, with at most 1,000 clips as centres.
    """
    mean = features.mean(axis=0)
    stddev = _scales(features, block_sizes)
    points = (features - mean) / stddev
    centres = None
    inputs = np.hstack([points, np.ones((len(points), 1))])
    if kernel:
        most = min(len(points), _MOST_CENTRES)
        nystroem = kernel_approximation.Nystroem(
            gamma=1, n_components=most, random_state=0
        )
        inputs, centres = nystroem.fit_transform(points), nystroem.components_
    one_hot = np.eye(num_genres)[classes]
    weights, scale = _ridge(inputs, one_hot, groups)
    weights *= scale
    bias = np.zeros(num_genres)
    if kernel:
        weights = nystroem.normalization_.T @ weights
    else:
        weights, bias = weights[:-1], weights[-1]
    return transfer.Head(mean, stddev, weights, bias, centres)


def _scales(features: np.ndarray, block_sizes: Sequence[int]) -> np.ndarray:
    """Returns what to divide features by, so that distances weigh the blocks."""
    share = 1 / max(len(block_sizes) - 1, 1)
    weights = np.array([1.0, *[share] * (len(block_sizes) - 1)])
    weights /= weights.sum()
    blocks = np.split(features.std(axis=0), np.cumsum(block_sizes)[:-1])
    return np.concatenate(
        [
            np.maximum(stddev, _MIN_RELATIVE_STDDEV * stddev.mean() + 1e-9)
            * np.sqrt(len(stddev) / weight)
            for stddev, weight in zip(blocks, weights, strict=True)
        ]
    )


def _ridge(
    inputs: np.ndarray, one_hot: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, float]:
    """Returns the weights `[inputs, genres]`, and the scale of the softmax."""
    targets = one_hot - 1 / one_hot.shape[1]
    ridge = _Ridge(inputs, targets)
    found = {penalty: ridge.held_out(penalty, groups) for penalty in _PENALTIES}
    errors = {p: np.mean((found[p] - targets) ** 2) for p in found}
    penalty = min(errors, key=errors.__getitem__)
    likelihoods = [
        np.sum(one_hot * special.log_softmax(scale * found[penalty], axis=1))
        for scale in _SOFTMAX_SCALES
    ]
    return ridge.weights(penalty), float(_SOFTMAX_SCALES[int(np.argmax(likelihoods))])


class _Ridge:
    """Ridge regression of `[clips, genres]` on `[clips, inputs]`, of any penalty."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self._targets = targets
        values, self._axes = np.linalg.eigh(inputs.T @ inputs)
        self._values = np.maximum(values, 0)
        self._rotated = inputs @ self._axes
        self._products = self._rotated.T @ targets

    def weights(self, penalty: float) -> np.ndarray:
        """Returns the weights, `[inputs, genres]`."""
        return self._axes / (self._values + penalty) @ self._products

    def held_out(self, penalty: float, groups: Sequence[str]) -> np.ndarray:
        """Returns the predictions for each group by the regression on the others."""
        shrunk = self._rotated / (self._values + penalty)
        residual = self._targets - shrunk @ self._products
        _, group = np.unique(groups, return_inverse=True)
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order])) + 1
        for rows in np.split(order, starts):
            leverage = shrunk[rows] @ self._rotated[rows].T
            rest = np.eye(len(rows)) - leverage
            residual[rows] = np.linalg.solve(rest, residual[rows])
        return self._targets - residual
