"""Output of `predict`: formats, and chunks on disk so that a long run can resume."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np

from genre_tl import files, storage
from genre_tl.data import datasets

from .terminal import printable

if TYPE_CHECKING:
    from genre_tl.serving import predictor

SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
"""Format of an output file by its suffix."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """Formats results as `kind`: `text`, `chart`, `json` or `csv`.

    A `top_k` of 0 keeps all labels. Labels that score less than `threshold` are left
    out. With `ascii_only`, charts have no block characters. With `lowest`, a file whose
    best label scores less than its value there, or has None, is unsure.
    """

    kind: str
    labels: Sequence[str]
    top_k: int = 0
    threshold: float = 0.0
    ascii_only: bool = False
    lowest: Mapping[str, float | None] | None = None

    def head(self) -> str:
        """Returns the text before the first result."""
        columns = ("path", "best", "verdict", "familiarity", "note", "error")
        return csv_head(columns, self.labels) if self.kind == "csv" else ""

    def text(self, result: predictor.Result) -> str:
        """Returns a result as text; "" for a failed file in text and charts."""
        scored = result.scores if result.has_sound else None
        kept = {} if scored is None else self._kept(scored)
        verdict = self._verdict(result)
        if self.kind == "csv":
            return self._row(result, kept, verdict)
        if self.kind == "json":
            scores = None if result.error else kept
            values: dict[str, Any] = {"path": result.path, "scores": scores}
            values |= {"verdict": verdict or None, "familiarity": result.familiarity}
            values |= {"note": result.note or None, "error": result.error or None}
            values = {name: x for name, x in values.items() if x is not None}
            # Escaped, so file names that are not valid text survive.
            return json.dumps(values) + "\n"
        draw = self._chart if self.kind == "chart" else self._line
        path, note = printable(result.path), f"  ({result.note})" if result.note else ""
        if result.error or not result.has_sound:
            return "" if result.error else f"{path}{note}\n"
        return draw(path, kept, f"  ({verdict})" * bool(verdict) + note)

    def _verdict(self, result: predictor.Result) -> str:
        """Returns why the best label is not to be trusted, or ""."""
        if result.scores is None or not result.has_sound:
            return ""
        best = int(result.scores.argmax())
        label = self.labels[best]
        if result.is_unfamiliar or label == datasets.BACKGROUND:
            return "unlike the training music"
        if self.lowest is None:
            return ""
        least = self.lowest[label]
        return "unsure" if least is None or result.scores[best] < least else ""

    def _kept(self, scores: np.ndarray) -> dict[str, float]:
        """Returns the labels to show with their scores, highest first."""
        order = np.argsort(-scores, kind="stable")[: self.top_k or len(scores)]
        best = [i for i in order if scores[i] >= self.threshold]
        return {self.labels[i]: round(float(scores[i]), 6) for i in best}

    def _row(
        self, result: predictor.Result, kept: Mapping[str, float], verdict: str
    ) -> str:
        scores = [f"{kept[x]:.6f}" if x in kept else "" for x in self.labels]
        # A relative path stays valid when it no longer looks like a formula.
        path = f"./{result.path}" if _is_formula(result.path) else result.path
        best = "" if verdict else next(iter(kept), "")
        known = "" if result.familiarity is None else f"{result.familiarity:.4f}"
        texts = path, best, verdict, known, result.note, result.error
        return csv_row([*texts, *scores])

    def _line(self, path: str, kept: Mapping[str, float], note: str) -> str:
        shown = [f"{printable(x)} {100 * kept[x]:.0f} %" for x in kept]
        nothing = f"nothing above {100 * self.threshold:g} %"
        return f"{path}  {', '.join(shown) or nothing}{note}\n"

    def _chart(self, path: str, kept: Mapping[str, float], note: str) -> str:
        from genre_tl.evaluation import text_chart

        scores, labels = [*kept.values()], [printable(label) for label in kept]
        width = max(shutil.get_terminal_size().columns - 1, 40)
        bars = text_chart.bar_chart(scores, labels, width, ascii_only=self.ascii_only)
        return f"{path}{note}\n{bars}\n\n"


class Row(NamedTuple):
    """A file of a table: scores of its labels, why not to trust them, why it failed."""

    path: str
    scores: dict[str, float]
    verdict: str
    error: str


def read(path: str) -> Iterator[Row]:
    """Yields the rows that `Writer` wrote as CSV or JSON.

    Raises:
      ValueError: if the file is not such a table; the message names file and line.
      OSError: if it cannot be read.
    """
    is_csv = SUFFIXES.get(pathlib.PurePath(path).suffix.lower()) == "csv"
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from (_csv_rows if is_csv else _json_rows)(file, path)


def _csv_rows(file: TextIO, path: str) -> Iterator[Row]:
    table = csv.reader(file)
    head = [_unquoted(cell) for cell in next(table, [])]
    if head[:2] != ["path", "best"] or "error" not in head:
        raise ValueError(f"{path}: not a table that tools.predict writes")
    first = head.index("error") + 1  # column of a label
    renamed = {f"label {name}": name for name in head[:first]}
    labels = [renamed.get(label, label) for label in head[first:]]
    for cells in table:
        if len(cells) != len(head):
            raise ValueError(f"{path}: line {table.line_num} has {len(cells)} cells")
        texts = dict(zip(head[:first], map(_unquoted, cells), strict=False))
        try:
            pairs = zip(labels, cells[first:], strict=True)
            found = {label: float(score) for label, score in pairs if score}
        except ValueError as problem:
            raise ValueError(f"{path}: line {table.line_num}: {problem}") from problem
        name, verdict = _unescaped(texts["path"]), texts.get("verdict", "")
        yield Row(name, found, verdict, texts["error"])


def _json_rows(file: TextIO, path: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        try:
            value = json.loads(line)
            scores = {k: float(x) for k, x in (value.get("scores") or {}).items()}
            reasons = value.get("verdict", ""), value.get("error", "")
            yield Row(str(value["path"]), scores, *reasons)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            reason = f"not a row of tools.predict --format=json ({problem!r})"
            raise ValueError(f"{path}: line {number}: {reason}") from problem


def csv_head(columns: Sequence[str], labels: Sequence[str]) -> str:
    """Returns the first line of a CSV; labels named as a column get another name."""
    names = [f"label {label}" if label in columns else label for label in labels]
    return csv_row([*columns, *names])


def csv_row(cells: Sequence[str]) -> str:
    """Returns a line of CSV in which a spreadsheet finds no formula."""
    text = io.StringIO()
    harmless = [f"'{cell}" if _is_formula(cell) else cell for cell in cells]
    # The terminator makes the writer quote carriage returns too.
    csv.writer(text, lineterminator="\r\n").writerow(harmless)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _unescaped(path: str) -> str:
    """Returns a path with the bytes that `Writer` escaped, as they are no text."""
    if os.path.lexists(path):
        return path
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda x: chr(int(x[1], 16)), path)


def _unquoted(cell: str) -> str:
    """Returns a cell without the apostrophe that `csv_row` put in front."""
    return cell[1:] if cell[:1] == "'" and _is_formula(cell[1:]) else cell


def _is_formula(cell: str) -> bool:
    return cell.startswith(("=", "+", "-", "@", "\t", "\r"))


class Chunks:
    """The finished chunks of an output, in order; each is a dictionary of arrays."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._count = len(list(folder.glob("*.npz")))

    def add(self, **arrays: Any) -> None:
        """Writes the next chunk atomically."""
        content = io.BytesIO()
        np.savez(content, **arrays)
        with files.whole(self._path(self._count)) as path:
            path.write_bytes(content.getvalue())
        self._count += 1

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        for number in range(self._count):
            with np.load(self._path(number)) as chunk:
                yield dict(chunk)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:08d}.npz"


@contextlib.contextmanager
def opened(output: str, key: Mapping[str, Any]) -> Iterator[Chunks]:
    """Opens `<output>.partial`, a locked folder of chunks; removes it on success.

    Raises `ValueError` if it is in use, or has chunks of another `key`: what the
    content depends on, JSON-serializable, with names that the user knows.
    """
    folder = storage.pulled(f"{output}.partial")
    folder.mkdir(exist_ok=True)
    with files.lock(folder):
        key_file = folder / "call.json"
        before = json.loads(key_file.read_text("utf-8")) if key_file.is_file() else key
        changed = [name for name in key if key[name] != before.get(name)]
        if changed:
            raise ValueError(
                f"{folder}: left by an unfinished call with another "
                f"{', '.join(changed)}; repeat that call, or delete the folder to "
                "start again"
            )
        files.write_json(key_file, key)
        yield Chunks(folder)
        files.remove(folder)
