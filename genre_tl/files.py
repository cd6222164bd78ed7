"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

UNFINISHED = ".part"
"""What is put behind the name of a file that is being written."""


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a file to write beside `path`, which it replaces in the end."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            # A full disk does not say where it is.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text in UTF-8, whole or not at all.

    Names of files may hold bytes that are no valid text. They are written as JSON
    escapes them, so that JSON gives the same names when it is read.

    Args:
      path: the file.
      text: its content.

    Raises:
      OSError: if it cannot be written; nothing of it is left.
    """
    with whole(pathlib.Path(path)) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
