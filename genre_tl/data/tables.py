"""A CSV of paths and labels as a table of clips.

The first line names the columns, in any order: `path`; `label` (one genre) or `labels`
(tags separated by `;`); optionally `group`. See `docs/own_music.md`.
"""

from __future__ import annotations

import csv
import gzip
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from genre_tl.data import datasets


def load(
    table: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Loads the clips that a comma- or tab-separated table lists, in its order.

    Relative paths start from `root`, by default the table's folder.

    Raises:
      ValueError: if the table is malformed or has fewer than two labels; says where.
      OSError: if the table cannot be read, or files that it lists are missing.
    """
    table = pathlib.Path(table)
    root = pathlib.Path(os.path.abspath(root or table.parent))
    columns, lines = read_columns(table, "path")
    kind, *others = sorted(set(columns) - {"path", "group"}) or [""]
    if others or kind not in ("label", "labels"):
        raise ValueError(
            f"{table}, line 1: columns {', '.join(columns)}; they must be path, label "
            "or labels, and optionally group"
        )
    cells = [x.split(";") if kind == "labels" else [x] for x in columns[kind]]
    labels = [[name.strip() for name in names] for names in cells]
    files = [os.path.abspath(root / path) for path in columns["path"]]
    _check_rows(table, lines, files, labels)
    vocabulary = sorted(set().union(*labels))
    datasets.check_labels(table, vocabulary, "label")
    groups = (group.strip() for group in columns.get("group", [""] * len(files)))
    return datasets.Dataset(
        name="table",
        root=root,
        paths=tuple(file.removeprefix(os.path.join(root, "")) for file in files),
        labels=np.array([[x in clip for x in vocabulary] for clip in labels], np.uint8),
        vocabulary=tuple(vocabulary),
        # A slash behind it, so that a group never equals a file.
        groups=tuple(f"{g}/" if g else x for g, x in zip(groups, files, strict=True)),
        multi_label=kind == "labels",
    )


def read_columns(
    path: pathlib.Path, *required: str
) -> tuple[dict[str, tuple[str, ...]], tuple[int, ...]]:
    """Returns the cells of each column, and the line number of each row.

    The table may be gzipped (`.gz`). Its first line names the columns.

    Raises:
      ValueError: if the table is malformed, or lacks rows or a required column.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (ValueError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from error
    if len(rows) < 2:
        raise ValueError(f"{path}: no rows below the column names")
    names = [name.strip() for name in rows[0][1]]
    if len(set(names)) < len(names) or not set(required) <= set(names):
        raise ValueError(
            f"{path}, line 1: columns {', '.join(names)}; each must occur once, and "
            f"{', '.join(required)} must be among them"
        )
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells for {len(names)} columns; put "
                "cells with commas in quotation marks"
            )
    lines, cells = zip(*rows[1:], strict=True)
    return dict(zip(names, zip(*cells, strict=True), strict=True)), lines


def _check_rows(
    table: pathlib.Path, lines: Sequence[int], files: list[str], labels: list[list[str]]
) -> None:
    first: dict[str, int] = {}
    for line, file, names in zip(lines, files, labels, strict=True):
        where = f"{table}, line {line}"
        if "" in names:
            raise ValueError(f"{where}: empty label; add one or remove the line")
        if first.setdefault(file, line) != line:
            raise ValueError(f"{where}: {file} is a duplicate of line {first[file]}")
    missing = [f"line {n}: {x}" for x, n in first.items() if not os.path.isfile(x)]
    if missing:
        raise FileNotFoundError(
            f"{table}: {datasets.counted(missing, 'missing file')}; relative paths "
            "start from the table's folder unless another is given"
        )
