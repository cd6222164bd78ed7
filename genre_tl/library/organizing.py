"""What is to be done with each file, and doing it: tags, folders, playlists."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from genre_tl.library import changes, journal, playlists, tags

_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")  # on Windows


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do with files.

    Attributes:
      tag: write the genres into empty genre tags.
      replace: write them into all genre tags.
      keep_times: keep the modification time of files that are tagged.
      sort_into: folder for a folder of each genre, or "".
      how: how files get there, one of `changes.HOW`.
      playlists: folder for a playlist of each genre, or "".
    """

    tag: bool = False
    replace: bool = False
    keep_times: bool = False
    sort_into: str = ""
    how: str = changes.HOW[0]
    playlists: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """A file and its genres, the best first.

    Attributes:
      path: absolute.
      target: its place in a genre folder, absolute, or "".
      error: why it has no genres, or "".
    """

    path: str
    genres: tuple[str, ...] = ()
    target: str = ""
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is done, or would be, with a file or playlist, and what went wrong."""

    path: str
    lines: tuple[str, ...] = ()
    error: str = ""


def items(
    genres: Iterable[tuple[str, tuple[str, ...], str]], options: Options
) -> list[Item]:
    """Returns the items of files, given as path, genres and error; each file once.

    In the genre folders, files keep their place below the folder that all share.
    """
    found = {os.path.abspath(path): (kept, why) for path, kept, why in genres}
    base = os.path.commonpath(map(os.path.dirname, found)) if found else ""
    result, taken = [], {""}
    for path, (kept, error) in found.items():
        target = ""
        if options.sort_into and kept:
            folder = os.path.join(os.path.abspath(options.sort_into), name(kept[0]))
            target = os.path.join(folder, os.path.relpath(path, base))
            if target in taken:
                kept, error = (), f"another file goes to {target}"
        taken.add(target)
        result.append(Item(path, kept, "" if error else target, error))
    return result


def name(genre: str) -> str:
    """Returns the name of a genre's folder or playlist, valid on all systems."""
    text = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "-", genre).strip().rstrip(".")
    text = re.sub(r"^\.", "_", text) or "_"
    return f"_{text}" if _RESERVED.match(text) else text


def to_record(todo: Sequence[Item]) -> list[list[Any]]:
    """Returns items as the journal keeps them; `from_record` reads them."""
    return [[x.path, list(x.genres), x.target, x.error] for x in todo]


def from_record(record: Iterable[Sequence[Any]]) -> list[Item]:
    """Returns the items that `to_record` was given."""
    return [Item(path, tuple(kept), *rest) for path, kept, *rest in record]


def folders(todo: Iterable[Item], options: Options) -> set[pathlib.Path]:
    """Returns the folders in which files change."""
    paths = {x for item in todo for x in (item.path, item.target) if x}
    real = {os.path.dirname(os.path.realpath(path)) for path in paths}
    every = {*map(os.path.dirname, paths), *real, options.playlists}
    return {pathlib.Path(os.path.abspath(folder)) for folder in every if folder}


def organize(
    todo: Sequence[Item], options: Options, log: journal.Journal | None
) -> Iterator[Outcome]:
    """Does what is to be done, or without a journal only says it.

    Yields an outcome for each item, then one for each playlist. An error concerns
    its file alone.
    """
    for item in todo:
        yield _attempt(item.path, *_actions(item, options, log))
    if options.playlists:
        lists: dict[str, list[pathlib.Path]] = {}
        for item in todo:
            try:
                for genre in item.genres:
                    path = _playlist(options, genre)
                    lists.setdefault(str(path), []).append(_listed(item, options, log))
            except ValueError as error:
                yield Outcome(item.path, error=str(error))
        for target, paths in sorted(lists.items()):
            write = functools.partial(_list, pathlib.Path(target), paths, log)
            yield _attempt(target, write)


Action = Callable[[list[str]], None]
"""Does something, or only says it, in the list of lines."""


def _attempt(path: str, *actions: Action) -> Outcome:
    """Does what can be done: a file without tags can still be moved."""
    lines: list[str] = []
    errors = []
    for action in actions:
        try:
            action(lines)
        except (OSError, ValueError) as error:
            errors.append(changes.problem(error))
    return Outcome(path, tuple(lines), "; ".join(errors))


def _actions(
    item: Item, options: Options, log: journal.Journal | None
) -> Iterator[Action]:
    path, target = pathlib.Path(item.path), pathlib.Path(item.target)
    if item.error:
        yield functools.partial(_fail, item.error)
    if not item.genres or (_is_placed(item) and not path.exists()):
        return
    if options.tag:
        real = pathlib.Path(os.path.realpath(path))
        yield functools.partial(_tag, real, item.genres, options, log)
    if item.target:
        yield functools.partial(_place, path, target, options.how, log)


def _fail(reason: str, lines: list[str]) -> None:
    raise ValueError(reason)


def _tag(
    path: pathlib.Path,
    genres: tuple[str, ...],
    options: Options,
    log: journal.Journal | None,
    lines: list[str],
) -> None:
    before = tags.read(path)
    if before == genres or (before and not options.replace):
        return
    changes.require_writable(path)
    note = " (other hard links keep the old tag)" * (path.stat().st_nlink > 1)
    if log:
        write = functools.partial(tags.write, genres=genres)
        changes.replace(log, path, write, keep_times=options.keep_times)
    lines.append(f"genre: {'; '.join(before) or 'none'} -> {'; '.join(genres)}{note}")


def _place(
    path: pathlib.Path,
    target: pathlib.Path,
    how: str,
    log: journal.Journal | None,
    lines: list[str],
) -> None:
    if how != "move" and _has_content(target, path):
        return
    if how == "move" and path.is_symlink():
        raise ValueError("a symbolic link is not moved; use --how=symlink or copy")
    if log:
        changes.place(log, path, target, how)
    else:
        changes.require_free(target)
        path.stat()
    lines.append(f"{how}: {target}")


def _has_content(target: pathlib.Path, source: pathlib.Path) -> bool:
    """Whether a copy or link of a file is in its place already."""
    return target.is_file() and changes.is_same(source, target)


def _is_placed(item: Item) -> bool:
    return bool(item.target) and os.path.lexists(item.target)


def _playlist(options: Options, genre: str) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(options.playlists), f"{name(genre)}.m3u8")


def _listed(item: Item, options: Options, log: journal.Journal | None) -> pathlib.Path:
    """Returns where an item is, or will be; raises `ValueError` if unfit for a list."""
    is_there = _is_placed(item) if log else bool(item.target)
    path = pathlib.Path(item.target if is_there else item.path)
    playlists.check(path)
    return path


def _list(
    target: pathlib.Path,
    paths: Sequence[pathlib.Path],
    log: journal.Journal | None,
    lines: list[str],
) -> None:
    content = playlists.text(target.parent, paths).encode()
    if target.is_file() and target.read_bytes() == content:
        return
    if log:
        changes.write(log, target, content)
    lines.append(f"playlist of {len(paths)} file{'s' * (len(paths) != 1)}")
