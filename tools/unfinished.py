"""Chunks of an unfinished output, kept on disk so that a long run can resume."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genre_tl import files


class Chunks:
    """The finished chunks of an output, in order; each is a dictionary of arrays.

    Attributes:
      count: number of chunks on disk.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.count = len(list(folder.glob("*.npz")))

    def add(self, **arrays: np.ndarray) -> None:
        """Writes the next chunk atomically."""
        content = io.BytesIO()
        np.savez(content, **arrays)
        with files.whole(self._path(self.count)) as path:
            path.write_bytes(content.getvalue())
        self.count += 1

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        for number in range(self.count):
            with np.load(self._path(number)) as chunk:
                yield dict(chunk)

    def remove(self) -> None:
        """Removes all chunks, once the output is written."""
        shutil.rmtree(self._folder)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:08d}.npz"


@contextlib.contextmanager
def opened(output: str, key: Mapping[str, Any]) -> Iterator[Chunks]:
    """Opens `<output>.partial`, the folder of chunks, and locks it.

    Args:
      output: the file that will be written in the end.
      key: what the content depends on, fit for JSON; names are shown to the user.

    Raises:
      ValueError: if the folder has chunks of another key, or is in use.
      OSError: if the folder cannot be made.
    """
    folder = pathlib.Path(f"{output}.partial")
    folder.mkdir(exist_ok=True)
    with files.lock(folder):
        key_file = folder / "call.json"
        if key_file.is_file():
            before = json.loads(key_file.read_text("utf-8"))
            changed = [name for name in key if key[name] != before.get(name)]
            if changed:
                raise ValueError(
                    f"{folder}: left by an unfinished call with another "
                    f"{', '.join(changed)}; repeat that call, or delete the folder to "
                    "start again"
                )
        files.write_json(key_file, key)
        yield Chunks(folder)
