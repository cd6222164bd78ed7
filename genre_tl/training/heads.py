"""Heads fitted to the features of a frozen backbone, in closed form.

Ridge regression on one-hot genres, linear or with a Gaussian kernel. Each group of
clips is scored by the regression on the others, for which there is a formula; these
scores choose the penalty and the scale of the softmax, so that its probabilities are
calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from scipy import special
from sklearn import kernel_approximation

from genre_tl.model import transfer

_MOST_CENTRES = 1000
_PENALTIES = 0.03, 0.1, 0.3, 1.0, 3.0
_SOFTMAX_SCALES = np.geomspace(1, 100, 41)

# Features that hardly vary within their block must not be amplified.
_MIN_RELATIVE_STDDEV = 0.05
_BLOCK = 4096  # clips that are in memory at a time


_Function = Callable[[np.ndarray], np.ndarray]


class Vectors(Protocol):
    """Vectors of clips that are read by their rows, such as an array or a file."""

    def __len__(self) -> int:
        """Returns the number of clips."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Returns the vectors of some clips, `[rows, values]`."""


class Derived:
    """Vectors that are computed from others, or selected, when they are read."""

    def __init__(
        self,
        vectors: Vectors,
        rows: np.ndarray,
        function: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> None:
        self._vectors, self._rows, self._function = vectors, rows, function

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self._function(self._vectors[self._rows[rows]])


def fit(
    features: Vectors,
    classes: np.ndarray,
    groups: Sequence[str],
    *,
    num_genres: int,
    block_sizes: Sequence[int],
    kernel: bool,
) -> transfer.Head:
    """Returns the head for the features of clips, `[clips, features]`.

    Reads a block of clips at a time, so that few of the features are in memory.

    Args:
      features: of the clips to train on.
      classes: their genres, integers `[clips]`.
      groups: their recordings or artists; a group is held out as one.
      num_genres: number of genres.
      block_sizes: numbers of features of each block. The first block has the weight of
        all others together.
      kernel: whether to use a Gaussian kernel, with at most 1,000 clips as centres.
    """
    mean, stddev = _statistics(features)
    stddev = _scales(stddev, block_sizes)

    def points(features: np.ndarray) -> np.ndarray:
        return (features - mean) / stddev

    one_hot = np.eye(num_genres)[classes]
    if not kernel:
        inputs = Derived(features, np.arange(len(features)), _with_constant(points))
        weights, scale = _ridge(inputs, one_hot, groups)
        weights *= scale
        return transfer.Head(mean, stddev, weights[:-1], weights[-1])
    nystroem = _nystroem(features, points)
    inputs = Derived(
        features, np.arange(len(features)), lambda x: nystroem.transform(points(x))
    )
    weights, scale = _ridge(inputs, one_hot, groups)
    weights = nystroem.normalization_.T @ (scale * weights)
    centres, bias = nystroem.components_, np.zeros(num_genres)
    return transfer.Head(mean, stddev, weights, bias, centres)


def _with_constant(points: _Function) -> _Function:
    """Returns a function that gives a further feature, 1, to what another returns."""
    return lambda x: np.hstack([points(x), np.ones((len(x), 1))])


def _nystroem(features: Vectors, points: _Function) -> kernel_approximation.Nystroem:
    """Returns the Gaussian kernel's map; random clips are the centres."""
    chosen = np.random.RandomState(0).permutation(len(features))[:_MOST_CENTRES]
    nystroem = kernel_approximation.Nystroem(
        gamma=1, n_components=len(chosen), random_state=0
    )
    return nystroem.fit(points(features[np.sort(chosen)]))


def _blocks(num_clips: int) -> Iterator[np.ndarray]:
    """Yields the rows of all clips, some at a time."""
    for begin in range(0, num_clips, _BLOCK):
        yield np.arange(begin, min(begin + _BLOCK, num_clips))


def _statistics(features: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of features: float64 `[features]`."""
    size = len(features)

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        parts = (features[rows].astype(np.float64) for rows in _blocks(size))
        return np.sum([function(part).sum(axis=0) for part in parts], axis=0) / size

    mean = mean_of(np.asarray)
    return mean, np.sqrt(mean_of(lambda part: (part - mean) ** 2))


def _scales(stddev: np.ndarray, block_sizes: Sequence[int]) -> np.ndarray:
    """Returns what to divide features by, so that distances weigh the blocks."""
    share = 1 / max(len(block_sizes) - 1, 1)
    weights = np.array([1.0, *[share] * (len(block_sizes) - 1)])
    weights /= weights.sum()
    blocks = np.split(stddev, np.cumsum(block_sizes)[:-1])
    return np.concatenate(
        [
            np.maximum(stddev, _MIN_RELATIVE_STDDEV * stddev.mean() + 1e-9)
            * np.sqrt(len(stddev) / weight)
            for stddev, weight in zip(blocks, weights, strict=True)
        ]
    )


def _ridge(
    inputs: Vectors, one_hot: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, float]:
    """Returns the weights `[inputs, genres]`, and the scale of the softmax."""
    targets = one_hot - 1 / one_hot.shape[1]
    ridge = _Ridge(inputs, targets)
    found = ridge.held_out(_PENALTIES, groups)
    errors = [np.mean((predictions - targets) ** 2) for predictions in found]
    best = int(np.argmin(errors))
    likelihoods = [
        np.sum(one_hot * special.log_softmax(scale * found[best], axis=1))
        for scale in _SOFTMAX_SCALES
    ]
    scale = float(_SOFTMAX_SCALES[int(np.argmax(likelihoods))])
    return ridge.weights(_PENALTIES[best]), scale


class _Ridge:
    """Ridge regression of `[clips, genres]` on `[clips, inputs]`, of any penalty."""

    def __init__(self, inputs: Vectors, targets: np.ndarray) -> None:
        self._inputs, self._targets = inputs, targets
        squares, products = 0.0, 0.0
        for rows in _blocks(len(targets)):
            part = inputs[rows]
            squares = squares + part.T @ part
            products = products + part.T @ targets[rows]
        values, self._axes = np.linalg.eigh(squares)
        self._values = np.maximum(values, 0)
        self._products = self._axes.T @ products

    def weights(self, penalty: float) -> np.ndarray:
        """Returns the weights, `[inputs, genres]`."""
        return self._axes / (self._values + penalty) @ self._products

    def held_out(
        self, penalties: Sequence[float], groups: Sequence[str]
    ) -> list[np.ndarray]:
        """Returns predictions for each group by the regression on the others.

        One array `[clips, genres]` for each penalty.
        """
        found = [np.empty_like(self._targets) for _ in penalties]
        _, group = np.unique(groups, return_inverse=True)
        order = np.argsort(group, kind="stable")
        ends = np.flatnonzero(np.diff(group[order], append=-1)) + 1
        begin = 0
        while begin < len(order):
            # Whole groups, at least a block of clips.
            end = ends[np.searchsorted(ends, min(begin + _BLOCK, len(order)))]
            rows = order[begin:end]
            starts = np.flatnonzero(np.diff(group[rows])) + 1
            rotated = self._inputs[rows] @ self._axes
            for penalty, predictions in zip(penalties, found, strict=True):
                predictions[rows] = self._without(penalty, rows, rotated, starts)
            begin = end
        return found

    def _without(
        self, penalty: float, rows: np.ndarray, rotated: np.ndarray, starts: np.ndarray
    ) -> np.ndarray:
        """Returns the predictions for `rows`; `starts` divide them into groups."""
        shrunk = rotated / (self._values + penalty)
        targets = self._targets[rows]
        residual = targets - shrunk @ self._products
        for part in np.split(np.arange(len(rows)), starts):
            leverage = shrunk[part] @ rotated[part].T
            rest = np.eye(len(part)) - leverage
            residual[part] = np.linalg.solve(rest, residual[part])
        return targets - residual
