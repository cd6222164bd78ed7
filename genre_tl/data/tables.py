"""A CSV of paths and labels as a table of clips.

The first line names the columns, in any order: `path`; `label` (one genre) or `labels`
(tags separated by `;`), or else a column for each soft tag; optionally `group`. See
`docs/own_music.md` and `docs/soft_tags.md`.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from genre_tl.data import datasets


def load(
    table: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Loads the clips that a comma- or tab-separated table lists, in its order.

    Relative paths start from `root`, by default the table's folder. Without a column
    `label` or `labels`, each column other than `path` and `group` is a soft tag: values
    from 0 to 1, empty where unknown.

    Raises:
      ValueError: if the table is malformed or has fewer than two labels; says where.
      OSError: if the table cannot be read, or files that it lists are missing.
    """
    table = pathlib.Path(table)
    root = pathlib.Path(os.path.abspath(root or table.parent))
    columns, lines = read_columns(table, "path")
    paths = columns.pop("path")
    files = [os.path.abspath(root / path) for path in paths]
    groups = [group.strip() for group in columns.pop("group", [""] * len(files))]
    kind = next((x for x in ("label", "labels") if x in columns), "")
    if (kind and len(columns) > 1) or not columns or "" in columns:
        raise ValueError(
            f"{table}, line 1: columns {', '.join(map(repr, columns))} beside path and "
            "group; there must be one, label or labels, or one for each soft tag"
        )
    parse = _names if kind else _soft_tags
    vocabulary, labels = parse(table, lines, columns)
    _check_files(table, lines, files)
    datasets.check_labels(table, vocabulary, "label")
    return datasets.Dataset(
        name="table",
        root=root,
        paths=tuple(file.removeprefix(os.path.join(root, "")) for file in files),
        labels=labels,
        vocabulary=tuple(vocabulary),
        # A slash behind it, so that a group never equals a file.
        groups=tuple(f"{g}/" if g else x for g, x in zip(groups, files, strict=True)),
        multi_label=kind != "label",
    )


def load_vectors(
    path: str | os.PathLike[str], dataset: datasets.Dataset
) -> datasets.Dataset:
    """Returns a table with the target vectors of an NPZ file.

    The file holds `paths` (absolute, or relative to its folder) and one or more arrays
    of floats `[paths, dims]`, which are joined in the order of their names. Clips that
    it does not list get NaN.

    Raises:
      ValueError: if the file is malformed, or lists no clip of the table.
      OSError: if it cannot be read.
    """
    path = pathlib.Path(path)
    names, found = _read_vectors(path)
    folder = os.path.abspath(path.parent)
    files = [os.path.normpath(os.path.join(folder, name)) for name in names]
    datasets.refuse_duplicates(path, files)
    row = {file: row for row, file in enumerate(files)}
    rows = np.array([row.get(os.path.abspath(x), -1) for x in dataset.files])
    if not np.any(rows >= 0):
        raise ValueError(
            f"{path}: lists none of the {len(dataset)} clips; its paths must be "
            f"absolute or start from its folder, such as {files[0] if files else '-'}"
        )
    vectors = np.where(rows[:, np.newaxis] >= 0, found[rows], np.float32(np.nan))
    return dataclasses.replace(dataset, vectors=vectors)


def _read_vectors(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Returns the paths of an NPZ file and their vectors, float32 `[paths, dims]`."""
    try:
        with open(path, "rb") as raw, np.load(raw) as file:
            arrays = {name: file[name] for name in sorted(file.files)}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not an NPZ file of plain arrays: {error}") from error
    names = arrays.pop("paths", np.array(0))
    if names.ndim != 1 or names.dtype.kind not in "US" or not arrays:
        raise ValueError(f"{path}: needs paths (text) and an array of vectors")
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != len(names) or array.dtype.kind != "f":
            raise ValueError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}; it must be "
                f"floats [{len(names)}, dims], one row for each of its paths"
            )
    vectors = np.concatenate([*arrays.values()], axis=1).astype(np.float32)
    if np.isinf(vectors).any():
        raise ValueError(f"{path}: has infinite values; save it as float32")
    return names.astype(str).tolist(), vectors


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


def _names(
    table: pathlib.Path,
    lines: Sequence[int],
    columns: Mapping[str, tuple[str, ...]],
) -> tuple[list[str], np.ndarray]:
    """Returns vocabulary and labels of a column of genres, or of tags."""
    [(kind, cells)] = columns.items()
    split = [x.split(";") if kind == "labels" else [x] for x in cells]
    labels = [{name.strip() for name in names} for names in split]
    for line, names in zip(lines, labels, strict=True):
        if "" in names:
            where = f"{table}, line {line}"
            raise ValueError(f"{where}: empty label; add one or remove the line")
    vocabulary = sorted(set().union(*labels))
    place = {name: column for column, name in enumerate(vocabulary)}
    matrix = np.zeros([len(labels), len(vocabulary)], np.uint8)
    for row, names in enumerate(labels):
        matrix[row, [place[name] for name in names]] = 1
    return vocabulary, matrix


def _soft_tags(
    table: pathlib.Path,
    lines: Sequence[int],
    columns: Mapping[str, tuple[str, ...]],
) -> tuple[list[str], np.ndarray]:
    """Returns vocabulary and labels of a column for each soft tag."""
    labels = np.empty([len(lines), len(columns)], np.float32)
    for column, (tag, cells) in enumerate(columns.items()):
        try:
            labels[:, column] = np.array([x.strip() or "nan" for x in cells], float)
            wrong = (labels[:, column] < 0) | (labels[:, column] > 1)
        except ValueError:
            wrong = np.array([not _is_number(cell) for cell in cells])
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{table}, line {lines[row]}: {tag} is {cells[row]!r}; a soft tag has "
                "values from 0 to 1, empty where unknown. Name a column of genres "
                "label, one of tags labels"
            )
    return list(columns), labels


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def _check_files(table: pathlib.Path, lines: Sequence[int], files: list[str]) -> None:
    first: dict[str, int] = {}
    for line, file in zip(lines, files, strict=True):
        if first.setdefault(file, line) != line:
            where = f"{table}, line {line}"
            raise ValueError(f"{where}: {file} is a duplicate of line {first[file]}")
    missing = [f"line {n}: {x}" for x, n in first.items() if not os.path.isfile(x)]
    if missing:
        raise FileNotFoundError(
            f"{table}: {datasets.counted(missing, 'missing file')}; relative paths "
            "start from the table's folder unless another is given"
        )
