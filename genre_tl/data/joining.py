"""Joins tables of clips by file."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from genre_tl.data import datasets


def join(tables: Sequence[datasets.Dataset]) -> datasets.Dataset:
    """Returns one table of the clips of several; a single table is returned as it is.

    A file that several tables list becomes one clip. The labels are those of all
    tables, in order of first appearance; equal names are one label. A tag is unknown
    (NaN) for a clip if no table says anything of both; if two do, the first counts. A
    clip with a genre in several tables has that of the first.

    Clips that one table puts in a group share a group. Equal names in the `group`
    columns of two CSVs are one group; in other collections they are not.

    Raises:
      ValueError: if there is no table, genres are mixed with tags, or a table has
        target vectors.
    """
    if len(tables) == 1:
        return tables[0]
    _check(tables)
    files = [[os.path.abspath(file) for file in table.files] for table in tables]
    unique = dict.fromkeys(itertools.chain(*files))
    clips = {file: row for row, file in enumerate(unique)}
    rows = [np.array([clips[file] for file in names], int) for names in files]
    root = os.path.commonpath([os.path.abspath(table.root) for table in tables])
    vocabulary = tuple(dict.fromkeys(x for table in tables for x in table.vocabulary))
    paths = tuple(_relative(file, root) for file in clips)
    return datasets.Dataset(
        name="+".join(dict.fromkeys(table.name for table in tables)),
        root=pathlib.Path(root),
        paths=paths,
        labels=_labels(tables, rows, len(clips), vocabulary),
        vocabulary=vocabulary,
        groups=_groups(tables, rows),
        multi_label=tables[0].multi_label,
        skipped=tuple(x for x in _skipped(tables, root) if x[0] not in set(paths)),
    )


def _check(tables: Sequence[datasets.Dataset]) -> None:
    if not tables:
        raise ValueError("there are no tables to join")
    if len({table.multi_label for table in tables}) > 1:
        genres = next(table.root for table in tables if not table.multi_label)
        raise ValueError(f"{genres}: a table of genres cannot be joined with tags")
    if any(table.vectors is not None for table in tables):
        raise ValueError("join the tables first, then load the target vectors")


def _relative(file: str, root: str) -> str:
    return file.removeprefix(os.path.join(root, ""))


def _labels(
    tables: Sequence[datasets.Dataset],
    rows: Sequence[np.ndarray],
    num_clips: int,
    vocabulary: Sequence[str],
) -> np.ndarray:
    column = {label: index for index, label in enumerate(vocabulary)}
    unknown = np.nan if tables[0].multi_label else 0
    labels = np.full([num_clips, len(vocabulary)], unknown, np.float32)
    for table, clips in reversed([*zip(tables, rows, strict=True)]):
        if not table.multi_label:
            labels[clips] = 0
        cells = np.ix_(clips, [column[label] for label in table.vocabulary])
        labels[cells] = np.where(np.isnan(table.labels), labels[cells], table.labels)
    is_binary = all(table.labels.dtype == np.uint8 for table in tables)
    is_known = not np.isnan(labels).any()
    return labels.astype(np.uint8) if is_binary and is_known else labels


def _groups(
    tables: Sequence[datasets.Dataset], rows: Sequence[np.ndarray]
) -> tuple[str, ...]:
    # Without a column, the group of a CSV's clip is its file, alike in all tables.
    names = [
        group if table.name == "table" else f"{table.root}: {group}"
        for table in tables
        for group in table.groups
    ]
    clips = np.concatenate(rows)
    merged = datasets.merged_groups(names, clips.tolist())
    _, first = np.unique(clips, return_index=True)
    return tuple(merged[index] for index in first)


def _skipped(
    tables: Sequence[datasets.Dataset], root: str
) -> Iterator[tuple[str, str]]:
    for table in tables:
        for path, reason in table.skipped:
            yield _relative(os.path.abspath(table.root / path), root), reason
