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
from collections.abc import Collection, Sequence

import numpy as np

from genre_tl.data import datasets

SEPARATOR = ";"
"""Separates the tags of a clip in the column `labels`."""

_COLUMNS = "path, label or labels, and optionally group"


def load(
    table: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Loads the clips that a comma- or tab-separated table lists.

    Args:
      table: the file, in UTF-8. Clips with the same `group` (an artist, an album)
        stay on one side of every split.
      root: the folder that relative paths start from; by default the table's.

    Returns:
      The clips in the table's order. The dataset's root is `root`, or the deepest
      folder that contains all files.

    Raises:
      ValueError: if the table is malformed, lists a clip twice or has fewer than two
        labels. The message gives the line.
      FileNotFoundError: if files of the table are missing.
      OSError: if the table cannot be read.
    """
    table, start = (
        pathlib.Path(table),
        os.path.abspath(root or pathlib.Path(table).parent),
    )
    columns, lines = read_columns(table)
    multi_label = _is_multi_label(table, columns)
    labels = [
        [label.strip() for label in cell.split(SEPARATOR if multi_label else "\0")]
        for cell in columns["labels" if multi_label else "label"]
    ]
    files = [os.path.abspath(os.path.join(start, path)) for path in columns["path"]]
    _check_rows(table, lines, columns["path"], files, labels)
    _refuse_missing(table, lines, files)
    vocabulary = sorted(set().union(*labels))
    if len(vocabulary) < 2:
        raise ValueError(
            f"{table}: {datasets.counted(vocabulary, 'label')}; at least 2 are needed"
        )
    datasets.warn_about_similar_labels(str(table), vocabulary)
    base = _base(start, files)
    paths = tuple(
        pathlib.Path(os.path.relpath(file, base)).as_posix() for file in files
    )
    groups = (group.strip() for group in columns.get("group", [""] * len(paths)))
    return datasets.Dataset(
        name="table",
        root=base,
        paths=paths,
        labels=np.array([[x in clip for x in vocabulary] for clip in labels], np.uint8),
        vocabulary=tuple(vocabulary),
        # No path begins with a slash, so no group is taken for a path.
        groups=tuple(f"/{g}" if g else p for g, p in zip(groups, paths, strict=True)),
        multi_label=multi_label,
    )


def read_columns(
    path: pathlib.Path,
) -> tuple[dict[str, tuple[str, ...]], tuple[int, ...]]:
    """Reads a comma- or tab-separated table in UTF-8, gzipped if so named.

    Returns:
      The cells of each column, and the line number of each row.

    Raises:
      ValueError: if the table is malformed or has no rows.
      OSError: if it cannot be read.
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
    names = [name.strip() for name in rows[0][1]] if rows else []
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"{path}: {datasets.counted(duplicates, 'duplicate column')}")
    if len(rows) < 2:
        raise ValueError(f"{path}: no rows below the column names")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells for {len(names)} columns; put "
                "cells with commas in quotation marks"
            )
    lines, cells = zip(*rows[1:], strict=True)
    return dict(zip(names, zip(*cells, strict=True), strict=True)), lines


def _is_multi_label(table: pathlib.Path, columns: Collection[str]) -> bool:
    """Returns whether clips have tags, not genres; raises if columns are wrong."""
    unknown = set(columns) - {"path", "label", "labels", "group"}
    if (
        unknown
        or "path" not in columns
        or ("label" in columns) == ("labels" in columns)
    ):
        raise ValueError(
            f"{table}, line 1: columns {', '.join(columns)}; there must be {_COLUMNS}"
        )
    return "labels" in columns


def _check_rows(
    table: pathlib.Path,
    lines: Sequence[int],
    paths: Sequence[str],
    files: Sequence[str],
    labels: Sequence[Sequence[str]],
) -> None:
    first: dict[str, int] = {}
    for line, path, file, names in zip(lines, paths, files, labels, strict=True):
        if not path:
            raise ValueError(f"{table}, line {line}: empty path")
        if "" in names:
            raise ValueError(
                f"{table}, line {line}: empty label; add one or remove the line"
            )
        if first.setdefault(file, line) != line:
            raise ValueError(
                f"{table}, line {line}: {file} is a duplicate of line {first[file]}"
            )


def _refuse_missing(
    table: pathlib.Path, lines: Sequence[int], files: Sequence[str]
) -> None:
    missing = [
        f"line {line}: {file}"
        for line, file in zip(lines, files, strict=True)
        if not os.path.isfile(file)
    ]
    if missing:
        raise FileNotFoundError(
            f"{table}: {datasets.counted(missing, 'missing file')}; relative paths "
            "start from the table's folder, or from --data_dir"
        )


def _base(start: str, files: Sequence[str]) -> pathlib.Path:
    if all(os.path.commonpath([start, file]) == start for file in files):
        return pathlib.Path(start)
    return pathlib.Path(os.path.commonpath([os.path.dirname(file) for file in files]))
