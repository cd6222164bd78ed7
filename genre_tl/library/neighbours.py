"""The most similar vectors of a collection, by an exact search in memory.

One product of a matrix and a vector compares all: 100,000 vectors of 256 numbers take
about 10 ms and 100 MB, so that an approximate index would not help.
"""

from __future__ import annotations

import numpy as np


class Vectors:
    """Vectors with a number each, to search by the cosine of their angle."""

    def __init__(self) -> None:
        self.numbers = np.empty(0, np.int64)
        self._units = np.empty((0, 0), np.float32)

    def keep(self, numbers: np.ndarray) -> None:
        """Drops all vectors but those with these numbers."""
        kept = np.isin(self.numbers, numbers, assume_unique=True)
        if not kept.all():
            self.numbers, self._units = self.numbers[kept], self._units[kept]

    def add(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        """Adds float32 `vectors` `[rows, size]`, which it changes to unit length."""
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        self._units = np.concatenate([self._units, vectors]) if len(self) else vectors
        self.numbers = np.concatenate([self.numbers, numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def nearest(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Returns numbers and cosines of the vectors most similar to one, best first.

        Raises:
          ValueError: if the vector has another size.
        """
        if not len(self):
            return []
        if vector.shape != self._units.shape[1:]:
            raise ValueError(
                f"an embedding of {len(vector)} numbers cannot be compared with those "
                f"of {self._units.shape[1]}: use the model that labelled the collection"
            )
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        cosines = self._units @ unit.astype(np.float32)
        count = min(count, len(cosines))
        best = np.argpartition(-cosines, count - 1)[:count]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [(int(self.numbers[row]), float(cosines[row])) for row in best]
