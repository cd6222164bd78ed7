"""A map of a collection: a point in the plane for each recording."""

from __future__ import annotations

import numpy as np
from sklearn import decomposition, manifold

MOST_DETAILED = 3000
"""Recordings up to which the map keeps neighbours together (t-SNE)."""

_DIRECTIONS = 30


def positions(vectors: np.ndarray) -> np.ndarray:
    """Returns a position for each embedding, float32 `[rows, 2]`, each from -1 to 1.

    Up to `MOST_DETAILED` recordings, similar ones lie together: t-SNE of the first 30
    principal components (van der Maaten and Hinton, "Visualizing data using t-SNE",
    2008). Beyond, which would take minutes, the first two principal components. The
    same vectors give the same map.
    """
    if len(vectors) > 2 and not np.ptp(vectors, axis=0).any():
        return np.zeros((len(vectors), 2), np.float32)
    if len(vectors) < 3:
        return np.linspace([-0.5, 0], [0.5, 0], len(vectors), dtype=np.float32)
    is_detailed = 10 <= len(vectors) <= MOST_DETAILED
    count = min(_DIRECTIONS if is_detailed else 2, *vectors.shape)
    pca = decomposition.PCA(count, svd_solver="full" if is_detailed else "auto")
    found = pca.set_params(random_state=0).fit_transform(vectors)
    if is_detailed:
        perplexity = min(30, (len(vectors) - 1) / 3)
        tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0)
        found = tsne.fit_transform(found)
    centred = found - (found.max(axis=0) + found.min(axis=0)) / 2
    return (centred / max(np.abs(centred).max(), 1e-12)).astype(np.float32)
