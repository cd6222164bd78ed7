"""What is new in a collection since the last version of a model was trained on it.

`tools.train` keeps the list of clips in the folder of the run. A run whose list differs
is set aside, as `runs/mine.1`, `runs/mine.2`, ..., and nothing of it is lost.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from genre_tl import files

if TYPE_CHECKING:
    from genre_tl.data import datasets

LIST = "clips.csv"
"""Name of the list in the folder of a run."""

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Changes:
    """Paths of clips, and genres, that two lists do not share.

    `relabelled` has `path: old genre → new genre`.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    genres_added: tuple[str, ...]
    genres_removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        parts = (
            ("genres added", self.genres_added),
            ("genres removed", self.genres_removed),
            ("files added", self.added),
            ("files removed", self.removed),
            ("files of another genre", self.relabelled),
        )
        return "\n".join(_line(name, found) for name, found in parts if found)


def _line(name: str, found: tuple[str, ...]) -> str:
    more = f" and {len(found) - _SHOWN} more" * (len(found) > _SHOWN)
    return f"  {name}: {len(found)} ({', '.join(found[:_SHOWN])}{more})"


def of_table(table: datasets.Dataset) -> dict[str, str]:
    """Returns the genre of each clip by its path."""
    genres = (table.vocabulary[x] for x in table.classes)
    return dict(zip(table.paths, genres, strict=True))


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """Compares lists of clips.

    A file that moved from the folder of one genre to that of another is relabelled.
    """
    gone, new = before.keys() - now.keys(), now.keys() - before.keys()
    moved = {_without_genre(x, before[x]): x for x in gone}
    pairs = {path: path for path in before.keys() & now.keys()}
    for path in sorted(new):
        if old := moved.pop(_without_genre(path, now[path]), None):
            pairs[path] = old
    relabelled = (
        f"{path}: {before[old]} → {now[path]}"
        for path, old in sorted(pairs.items())
        if before[old] != now[path]
    )
    genres, genres_now = set(before.values()), set(now.values())
    return Changes(
        tuple(sorted(new - pairs.keys())),
        tuple(sorted(gone - set(pairs.values()))),
        tuple(relabelled),
        tuple(sorted(genres_now - genres)),
        tuple(sorted(genres - genres_now)),
    )


def _without_genre(path: str, genre: str) -> str:
    return path.removeprefix(f"{genre}/")


def read(run_dir: files.PathLike) -> dict[str, str] | None:
    """Returns the list of a run; None if it has none. ValueError if damaged."""
    path = pathlib.Path(run_dir, LIST)
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {row["path"]: row["label"] for row in csv.DictReader(file)}
    except (csv.Error, KeyError, UnicodeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); remove it") from error


def write(run_dir: files.PathLike, clips: Mapping[str, str]) -> None:
    """Writes the list of a run, atomically; makes its folder."""
    os.makedirs(run_dir, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("path", "label"), *clips.items()])
    with files.whole(pathlib.Path(run_dir, LIST)) as path:
        path.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


def set_aside(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Renames the folders that exist to `<name>.<n>`, with the same new number n."""
    there = [folder for folder in folders if folder.is_dir()]
    pattern = re.compile(
        "(?:" + "|".join(re.escape(x.name) for x in there) + r")\.(\d+)"
    )
    names = [path.name for folder in there for path in folder.parent.iterdir()]
    numbers = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    number = max(numbers, default=0) + 1
    return [x.rename(x.with_name(f"{x.name}.{number}")) for x in there]
