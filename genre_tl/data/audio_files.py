"""Finds audio files below a folder, by name."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

AUDIO_SUFFIXES = frozenset(
    ".aac .aif .aifc .aiff .ape .au .caf .flac .m4a .mka .mp2 .mp3 .mp4 .mpga .oga "
    ".ogg .ogx .opus .rf64 .snd .spx .w64 .wav .wave .webm .wma .wv".split()
)
"""Lower-case suffixes of the formats that `genre_tl.audio` decodes."""

OTHER_AUDIO = frozenset(".aax .dff .dsf .m4p .mid .midi .mpc .ra".split())
"""Lower-case suffixes of audio formats that it does not decode."""


def subfolders(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the visible folders directly in a folder, sorted by name."""
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != ".")


def walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the files below a folder that are not hidden, and unreadable folders.

    Linked folders are read last, and no folder is read twice.
    """
    tops, visited = [root], set()
    for top in tops:  # `tops` grows: links are appended.
        errors: list[OSError] = []
        for folder, below, names in os.walk(top, onerror=errors.append):
            below[:] = sorted(name for name in below if name[0] != ".")
            if (real := os.path.realpath(folder)) in visited:
                below.clear()
                continue
            visited.add(real)
            tops += filter(os.path.islink, (pathlib.Path(folder, x) for x in below))
            yield from (pathlib.Path(folder, x) for x in sorted(names) if x[0] != ".")
        yield from (pathlib.Path(error.filename) for error in errors)


def may_hold_audio(path: pathlib.Path) -> bool:
    """Whether a path of `walk` is an audio file, or a folder that cannot be read."""
    return path.suffix.lower() in AUDIO_SUFFIXES or path.is_dir()


def scan(root: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Returns the audio files in the sub-folders of a folder, and why others are not.

    Paths are relative to `root`, with `/`, and sorted.
    """
    paths: list[str] = []
    skipped: dict[str, str] = {}
    for file in walk(root):
        path, problem = file.relative_to(root).as_posix(), _problem(file)
        if file.parent == root and not file.is_dir():
            if not problem:
                skipped[path] = "not in a folder"
        elif problem:
            skipped[path] = problem
        else:
            paths.append(path)
    return sorted(paths), skipped


def _problem(file: pathlib.Path) -> str:
    """Returns why a path cannot be a clip, or an empty string."""
    if file.is_dir():
        return "folder cannot be read; check its permissions"
    suffix = file.suffix.lower()
    if suffix in OTHER_AUDIO:
        return f"unsupported format {suffix}; convert it to FLAC, WAV or MP3"
    if suffix not in AUDIO_SUFFIXES:
        return f"unsupported format {suffix}" if suffix else "no file name suffix"
    try:
        return "" if file.stat().st_size else "empty file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
