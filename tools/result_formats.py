"""Output formats of `predict`: text, charts, JSON lines and CSV."""

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
    from genre_tl.serving import predictor

SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
"""Format of an output file by its suffix."""

_TEXT_LABELS = 3


@dataclasses.dataclass(frozen=True)
class Writer:
    """Formats results.

    Attributes:
      kind: `text`, `chart`, `json` or `csv`.
      labels: names of the scores.
      top_k: number of labels to keep; 0 keeps all, None uses the format's default.
      threshold: labels with a lower score are left out.
      ascii_only: whether charts avoid block characters.
    """

    kind: str
    labels: Sequence[str]
    top_k: int | None = None
    threshold: float = 0.0
    ascii_only: bool = False

    def head(self) -> str:
        """Returns the text before the first result."""
        columns = ["path", "best", "note", "error", *self.labels]
        return csv_row(columns) if self.kind == "csv" else ""

    def text(self, result: predictor.Result) -> str:
        """Returns a result as text; "" for a failed file in text and charts."""
        if self.kind == "csv":
            return csv_row(self._cells(result))
        if self.kind == "json":
            return self._json(result)
        if result.scores is None:
            return ""
        draw = self._chart if self.kind == "chart" else self._line
        note = f"  ({result.note})" if result.note else ""
        return draw(printable(result.path), self._kept(result.scores), note)

    def _kept(self, scores: np.ndarray) -> Mapping[str, float]:
        """Returns the labels to show with their scores, highest first."""
        few = _TEXT_LABELS if self.kind in ("text", "chart") else 0
        most = (few if self.top_k is None else self.top_k) or len(scores)
        order = np.argsort(-scores, kind="stable")[:most]
        return {
            self.labels[i]: round(float(scores[i]), 6)
            for i in order
            if scores[i] >= self.threshold
        }

    def _json(self, result: predictor.Result) -> str:
        values: dict[str, Any] = {"path": result.path}
        if result.scores is not None:
            values["scores"] = self._kept(result.scores)
        notes = {"note": result.note, "error": result.error}
        values |= {name: text for name, text in notes.items() if text}
        # Escaped, so file names that are not valid text survive.
        return json.dumps(values) + "\n"

    def _cells(self, result: predictor.Result) -> list[str]:
        kept = {} if result.scores is None else self._kept(result.scores)
        scores = [
            f"{kept[label]:.6f}" if label in kept else "" for label in self.labels
        ]
        # A relative path stays valid when it no longer looks like a formula.
        path = f"./{result.path}" if _is_formula(result.path) else result.path
        return [path, next(iter(kept), ""), result.note, result.error, *scores]

    def _line(self, path: str, kept: Mapping[str, float], note: str) -> str:
        text = ", ".join(
            f"{printable(label)} {100 * score:.0f} %" for label, score in kept.items()
        )
        nothing = f"nothing above {100 * self.threshold:g} %"
        return f"{path}  {text or nothing}{note}\n"

    def _chart(self, path: str, kept: Mapping[str, float], note: str) -> str:
        from genre_tl.evaluation import text_chart

        bars = text_chart.bar_chart(
            [*kept.values()],
            [printable(label) for label in kept],
            max(shutil.get_terminal_size().columns - 1, 40),
            ascii_only=self.ascii_only,
        )
        return f"{path}{note}\n{bars}\n\n"


def csv_row(cells: Sequence[str]) -> str:
    """Returns a line of CSV in which a spreadsheet finds no formula."""
    text = io.StringIO()
    harmless = [f"'{cell}" if _is_formula(cell) else cell for cell in cells]
    # The terminator makes the writer quote carriage returns too.
    csv.writer(text, lineterminator="\r\n").writerow(harmless)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _is_formula(cell: str) -> bool:
    return cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def printable(text: str) -> str:
    """Returns a text with control characters escaped, for terminals."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
