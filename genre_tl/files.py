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
