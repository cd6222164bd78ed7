"""What `predict` writes of a file: text, a chart, a line of JSON or CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from genre_tl.serving import prediction

_TEXT_LABELS = 3


@dataclasses.dataclass(frozen=True)
class Writer:
    """Makes text of results.

    Attributes:
      kind: `text`, `chart`, `json` or `csv`.
      labels: names of the scores.
      top_k: how many labels to keep; 0 keeps all, None as many as suit the kind.
      threshold: labels with a lower score are left out.
      ascii_only: whether a chart must do without block characters.
    """

    kind: str
    labels: Sequence[str]
    top_k: int | None = None
    threshold: float = 0.0
    ascii_only: bool = False

    def head(self) -> str:
        """Returns what comes before the first result."""
        columns = ["path", "best", "note", "error", *self.labels]
        return csv_row(columns) if self.kind == "csv" else ""

    def text(self, result: prediction.Result) -> str:
        """Returns a result as text; "" of a failed file where only stderr names it."""
        if self.kind == "csv":
            return csv_row(self._cells(result))
        if self.kind == "json":
            return self._json(result)
        if result.scores is None:
            return ""
        draw = self._chart if self.kind == "chart" else self._line
        return draw(result, result.scores)

    def _kept(self, scores: np.ndarray) -> Mapping[str, float]:
        """Returns the labels that are shown and their scores, the best first."""
        few = _TEXT_LABELS if self.kind in ("text", "chart") else 0
        most = (few if self.top_k is None else self.top_k) or len(scores)
        order = np.argsort(-scores, kind="stable")[:most]
        return {
            self.labels[i]: round(float(scores[i]), 6)
            for i in order
            if scores[i] >= self.threshold
        }

    def _json(self, result: prediction.Result) -> str:
        values: dict[str, Any] = {"path": result.path}
        if result.scores is not None:
            values["scores"] = self._kept(result.scores)
        values |= {
            name: getattr(result, name)
            for name in ("note", "error")
            if getattr(result, name)
        }
        # Escaped, so that a name that is no valid text comes through as well.
        return json.dumps(values) + "\n"

    def _cells(self, result: prediction.Result) -> list[str]:
        kept = {} if result.scores is None else self._kept(result.scores)
        scores = [
            f"{kept[label]:.6f}" if label in kept else "" for label in self.labels
        ]
        return [result.path, next(iter(kept), ""), result.note, result.error, *scores]

    def _line(self, result: prediction.Result, scores: np.ndarray) -> str:
        kept = self._kept(scores).items()
        text = ", ".join(f"{label} {100 * score:.0f} %" for label, score in kept)
        note = f"  ({result.note})" if result.note else ""
        nothing = f"nothing above {100 * self.threshold:g} %"
        return f"{shown(result.path)}  {text or nothing}{note}\n"

    def _chart(self, result: prediction.Result, scores: np.ndarray) -> str:
        from genre_tl.evaluation import text_chart

        kept = self._kept(scores)
        bars = text_chart.bar_chart(
            np.array([*kept.values()]),
            [*kept],
            max(shutil.get_terminal_size().columns - 1, 40),
            ascii_only=self.ascii_only,
        )
        note = f"  ({result.note})" if result.note else ""
        return f"{shown(result.path)}{note}\n{bars}\n\n"


def csv_row(cells: Sequence[str]) -> str:
    """Returns a line of CSV."""
    text = io.StringIO()
    # A carriage return in a name is quoted only if it is a part of what ends lines.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def shown(path: str) -> str:
    """Returns a file name without anything that a terminal would act on."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)
