"""Prediction of a long list of files, divided over processes or a Ray cluster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from genre_tl import workers
from genre_tl.serving import predictor

_STALL_SECS = 600  # for one file; then its process is ended

_loaded = functools.lru_cache(1)(predictor.Predictor)  # once in each process


@dataclasses.dataclass(frozen=True)
class Job:
    """What all units of a prediction share; a unit is a list of files.

    Attributes:
      model: folder of a version.
      max_secs: how much of each file is used; None for all.
      taggrams: whether scores over time are wanted.
    """

    model: str
    max_secs: float | None = None
    taggrams: bool = False

    def run(self, unit: Sequence[str]) -> list[predictor.Result]:
        """Returns the result of each file."""
        results = []
        model = _loaded(self.model)
        workers.expect_progress(_STALL_SECS)
        for result in predictor.predict(
            model, unit, max_secs=self.max_secs, taggrams=self.taggrams
        ):
            workers.expect_progress(_STALL_SECS)
            results.append(result)
        return results


def predict(
    job: Job, paths: Sequence[str], executor: workers.Executor
) -> Iterator[predictor.Result]:
    """Yields what `predictor.predict` does, in the same order.

    A file that ends its process each time has that as its error. It is found by
    dividing its group, which may change the last bit of the scores of the group.
    """
    size = predictor.GROUP_FILES
    units = np.split(np.arange(len(paths)), range(size, len(paths), size))
    waiting: dict[int, predictor.Result] = {}
    due = 0
    while units:
        parts: list[np.ndarray] = []
        named = [[paths[row] for row in rows] for rows in units]
        for place, found in executor.run(job.run, named):
            rows = units[place]
            if isinstance(found, workers.Died):
                if len(rows) > 1:
                    parts += np.array_split(rows, 2)
                    continue
                found = [predictor.Result(paths[rows[0]], None, error=found.reason)]
            waiting |= zip(rows.tolist(), found, strict=True)
            while due in waiting:
                yield waiting.pop(due)
                due += 1
        units = parts
