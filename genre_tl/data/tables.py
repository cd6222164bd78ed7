"""A CSV of paths and labels as a table of clips.

The first line names the columns, in any order: `path`; `label` (one genre a clip)
or `labels` (tags, separated by `;`); and, if wanted, `group`: clips of one group (an
artist, an album, a recording) stay on one side of every split. `docs/own_music.md`
has examples.
"""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genre_tl.data import datasets

SEPARATOR = ";"
"""What stands between the tags of a clip in the column `labels`."""

_NUM_SHOWN = 5


class _Clip(NamedTuple):
    line: int
    file: str
    labels: tuple[str, ...]
    group: str


def read(
    table: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Reads a CSV, or a tab-separated table, in UTF-8.

    Args:
      table: the file.
      root: the folder that relative paths start from; that of the table if None.

    Returns:
      The clips in the table's order. A clip without a group is one of its own. The
      dataset's root is `root`, or the folder that all files have in common.

    Raises:
      ValueError: if a column is unknown or missing, a line has another number of
        cells, a path or label is empty, a clip is there twice, or there are fewer
        than two labels; with the line's number.
      FileNotFoundError: if files of the table are not there.
      OSError: if the table cannot be read.
    """
    table = pathlib.Path(table)
    clips, multi_label = _clips(table, pathlib.Path(root or table.parent))
    _refuse_twice(table, clips)
    _refuse_missing(table, clips)
    base = _base(os.path.abspath(root or table.parent), [clip.file for clip in clips])
    vocabulary = sorted({label for clip in clips for label in clip.labels})
    if len(vocabulary) < 2:
        raise ValueError(
            f"{table}: {datasets.counted(vocabulary, 'label')}; at least 2 are needed"
        )
    column = {label: index for index, label in enumerate(vocabulary)}
    labels = np.zeros([len(clips), len(vocabulary)], np.uint8)
    for row, clip in enumerate(clips):
        labels[row, [column[label] for label in clip.labels]] = 1
    paths = tuple(pathlib.Path(os.path.relpath(c.file, base)).as_posix() for c in clips)
    return datasets.Dataset(
        name="table",
        root=base,
        paths=paths,
        labels=labels,
        vocabulary=tuple(vocabulary),
        groups=tuple(
            # A path cannot begin with a slash here, so no group has its name.
            f"/{clip.group}" if clip.group else path
            for clip, path in zip(clips, paths, strict=True)
        ),
        multi_label=multi_label,
    )


def _clips(table: pathlib.Path, root: pathlib.Path) -> tuple[list[_Clip], bool]:
    """Returns the clips, and whether they have tags rather than a genre."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(lines, [])]
            multi_label = _check_columns(table, names)
            clips = [
                _clip(table, lines.line_num, names, cells, root)
                for cells in lines
                if cells
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: not a CSV in UTF-8: {error}") from error
    if not clips:
        raise ValueError(f"{table}: no clips below the line with the column names")
    return clips, multi_label


def _check_columns(table: pathlib.Path, names: Sequence[str]) -> bool:
    wanted = "path, label or labels, and perhaps group"
    unknown = sorted(set(names) - {"path", "label", "labels", "group"})
    if unknown:
        raise ValueError(
            f"{table}, line 1: {datasets.counted(unknown, 'unknown column')}; it must "
            f"name {wanted}"
        )
    has_one_kind = ("label" in names) != ("labels" in names)
    if "path" not in names or not has_one_kind or len(set(names)) < len(names):
        raise ValueError(
            f"{table}, line 1: its columns are {', '.join(names) or 'none'}; it must "
            f"name {wanted}, each once"
        )
    return "labels" in names


def _clip(
    table: pathlib.Path,
    line: int,
    names: Sequence[str],
    cells: Sequence[str],
    root: pathlib.Path,
) -> _Clip:
    where = f"{table}, line {line}"
    if len(cells) != len(names):
        raise ValueError(
            f"{where}: {len(cells)} cells for {len(names)} columns; put cells with "
            "commas in quotation marks"
        )
    values = dict(zip(names, cells, strict=True))
    if not values["path"]:
        raise ValueError(f"{where}: the path is empty")
    if "label" in values:
        labels = [values["label"].strip()]
    else:
        labels = [label.strip() for label in values["labels"].split(SEPARATOR)]
    if "" in labels:
        raise ValueError(f"{where}: a label is empty; name one or leave the line out")
    file = os.path.abspath(root / values["path"])
    return _Clip(line, file, tuple(labels), values.get("group", "").strip())


def _refuse_twice(table: pathlib.Path, clips: Sequence[_Clip]) -> None:
    first: dict[str, int] = {}
    for clip in clips:
        if clip.file in first:
            raise ValueError(
                f"{table}, line {clip.line}: {clip.file} is in line "
                f"{first[clip.file]} already; give each clip one line"
            )
        first[clip.file] = clip.line


def _refuse_missing(table: pathlib.Path, clips: Sequence[_Clip]) -> None:
    missing = [clip for clip in clips if not os.path.isfile(clip.file)]
    if missing:
        few = "; ".join(f"line {c.line}: {c.file}" for c in missing[:_NUM_SHOWN])
        raise FileNotFoundError(
            f"{table}: {len(missing)} of {len(clips)} files are not there ({few}"
            f"{'; ...' * (len(missing) > _NUM_SHOWN)}); relative paths start from the "
            "folder of the table unless another is given"
        )


def _base(root: str, files: Sequence[str]) -> pathlib.Path:
    if all(os.path.commonpath([root, file]) == root for file in files):
        return pathlib.Path(root)
    return pathlib.Path(os.path.commonpath([os.path.dirname(file) for file in files]))
