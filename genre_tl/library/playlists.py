"""Playlists of files: M3U8, in UTF-8, with paths relative to the playlist."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable


def text(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> str:
    """Returns the text of a playlist that is to lie in a folder.

    Raises:
      ValueError: if a name cannot be written in a playlist.
    """
    lines = ["#EXTM3U"]
    for path in paths:
        try:
            line = os.path.relpath(path, folder)
        except ValueError:  # another drive of Windows
            line = str(path)
        line = line.replace(os.sep, "/")
        check(path)
        lines.append(f"./{line}" if line.startswith("#") else line)
    return "\n".join(lines) + "\n"


def check(path: pathlib.Path) -> None:
    """Raises a `ValueError` if a path cannot be written in a playlist."""
    name = str(path)
    is_text = name.encode("utf-8", "replace").decode() == name
    if not is_text or "\n" in name or "\r" in name:
        raise ValueError("a playlist cannot hold its name; rename it")
