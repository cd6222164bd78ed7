"""The audio files that the arguments of a command name."""

from __future__ import annotations

import codecs
import collections
import glob
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

from genre_tl import storage
from genre_tl.data import audio_files

from . import terminal


def files(names: Iterable[str], *, null: bool = False) -> list[str]:
    """Returns the files that arguments name, in order; those of a folder are sorted.

    Args:
      names: files, folders, patterns, and `-` for a list on the standard input.
      null: whether that list is separated by NUL characters, not by lines.

    Raises:
      ValueError: if a pattern matches nothing, or a folder has no audio files.
    """
    return list(_files(_listed(names, null)))


def _listed(names: Iterable[str], null: bool) -> Iterator[str]:
    """Yields the names on the command line, with `-` and patterns expanded."""
    for name in map(os.path.expanduser, names):
        if name == "-":
            listed = map(os.fsdecode, _lines(sys.stdin.buffer.read(), null))
            yield from map(_here, listed)
        elif storage.is_url(name):
            yield _here(name)
        elif glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise ValueError(f"{name}: no file matches this pattern")
            yield from found
        else:
            yield name


def _here(name: str) -> str:
    return str(storage.pulled(name)) if storage.is_url(name) else name


def _lines(data: bytes, null: bool) -> list[bytes]:
    """Returns the names of a list, which Windows may have written."""
    if null:
        return [name for name in data.split(b"\0") if name]
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [name for line in lines if (name := line.removesuffix(b"\r"))]


def _files(names: Iterable[str]) -> Iterator[str]:
    """Yields files in the order given, and those in folders, sorted."""
    skipped: collections.Counter[str] = collections.Counter()
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = []
        for path in audio_files.walk(pathlib.Path(name)):
            if audio_files.may_hold_audio(path):
                found.append(str(path))
            elif (suffix := path.suffix.lower()) in audio_files.OTHER_AUDIO:
                skipped[suffix] += 1
        if not found and not skipped:
            raise ValueError(f"{name}: no audio files in this folder")
        yield from sorted(found)
    if skipped:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in skipped.items())
        text = f"skipped: {counts} (unsupported; convert them to FLAC or MP3)"
        terminal.say(text, sys.stderr)
