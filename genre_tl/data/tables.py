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

    Args:
      table: the file, in UTF-8. No split divides the clips of one `group`.
      root: the folder that relative paths start from; by default the table's.

    Raises:
      ValueError: if the table is malformed or has fewer than two labels; says where.
      FileNotFoundError: if files of the table are missing.
      OSError: if the table cannot be read.
    """
    table = pathlib.Path(table)
    root = pathlib.Path(os.path.abspath(root or table.parent))
    columns, lines = read_columns(table, "path")
    kinds = set(columns) - {"path", "group"}
    if kinds not in ({"label"}, {"labels"}):
        raise ValueError(
            f"{table}, line 1: columns {', '.join(columns)}; they must be path, label "
            "or labels, and optionally group"
        )
    (kind,) = kinds
    cells = [x.split(";") if kind == "labels" else [x] for x in columns[kind]]
    labels = [[name.strip() for name in names] for names in cells]
    files = [os.path.abspath(root / path) for path in columns["path"]]
    _check_rows(table, lines, files, labels)
    vocabulary = sorted(set().union(*labels))
    if len(vocabulary) < 2:
        raise ValueError(
            f"{table}: {datasets.counted(vocabulary, 'label')}; at least 2 are needed"
        )
    datasets.warn_about_similar_labels(table, vocabulary)
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
    """Reads a comma- or tab-separated table in UTF-8, gzipped if its name says so.

    Args:
      path: the table. The first line names the columns.
      *required: columns that it must have.

    Returns:
      The cells of each column, and the line number of each row.

    Raises:
      ValueError: if the table is malformed or has no rows.
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
    table: pathlib.Path,
    lines: Sequence[int],
    files: Sequence[str],
    labels: Sequence[Sequence[str]],
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
