"""Which files below a folder are audio, and why the others are left out."""

from __future__ import annotations

import os
import pathlib

AUDIO_SUFFIXES = frozenset(
    [".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".au", ".snd", ".aif", ".aiff"]
    + [".aifc", ".caf", ".w64", ".rf64"]
)
"""File name endings, in lower case, of the formats that `audio` reads."""

_OTHER_AUDIO = frozenset([".m4a", ".aac", ".mp4", ".wma", ".webm", ".ape", ".wv"])


def visible(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns what lies in a folder, by name, but what is hidden."""
    return sorted(p for p in root.iterdir() if not p.name.startswith("."))


def scan(root: pathlib.Path, skipped: dict[str, str]) -> list[str]:
    """Returns the audio files in the folders of a folder.

    Args:
      root: the folder.
      skipped: takes what is left out, and why; hidden files are ignored.

    Returns:
      Paths relative to `root`, with `/`, by name.
    """
    paths = []
    # One by one, as `rglob` enters a linked folder only where it starts.
    for top in visible(root):
        for file in _below(top, root, skipped) if top.is_dir() else [top]:
            path = file.relative_to(root).as_posix()
            reason = _unusable(file)
            if "/." in path:
                continue
            if "/" not in path:
                skipped |= {path: "not in a folder"} if not reason else {}
            elif reason:
                skipped[path] = reason
            else:
                paths.append(path)
    return sorted(paths)


def _below(
    top: pathlib.Path, root: pathlib.Path, skipped: dict[str, str]
) -> list[pathlib.Path]:
    """Returns all files, and linked folders; adds closed folders to `skipped`."""

    def closed(error: OSError) -> None:
        folder = pathlib.Path(error.filename).relative_to(root).as_posix()
        skipped[folder] = f"folder cannot be read: {error.strerror}"

    return sorted(
        pathlib.Path(folder, name)
        for folder, folders, names in os.walk(top, onerror=closed)
        for name in names + [n for n in folders if os.path.islink(f"{folder}/{n}")]
    )


def _unusable(file: pathlib.Path) -> str:
    """Returns why a file cannot be a clip, or nothing."""
    if file.is_dir():
        return "linked folder, not followed"
    if file.suffix.lower() in _OTHER_AUDIO:
        return f"format {file.suffix} is not read; convert it to FLAC, WAV or MP3"
    if file.suffix.lower() not in AUDIO_SUFFIXES:
        return f"format {file.suffix or 'without a suffix'} is not read"
    try:
        return "" if file.stat().st_size else "empty file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
