"""The undo file: what was done, each line written before it is done.

A line is a JSON object, and `do` says what. `run` begins a run of `tools.organize`
and has all that it is to do, so that it can be finished; `done` ends it. The lines
between are the changes of `changes`. Runs follow each other; undoing takes the last.
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from genre_tl import files

Record = dict[str, Any]

_BEGIN = b'{"do": "run"'


class Journal:
    """An undo file; it is made when the first change is recorded.

    Attributes:
      path: the file.
      run: the record that began the last run, or {}.
      is_done: whether the last run was finished.

    Raises:
      ValueError: if the file is not an undo file.
      OSError: if it cannot be read.
    """

    def __init__(self, path: files.PathLike) -> None:
        self.path = pathlib.Path(path)
        self._starts: list[int] = []  # of the lines of the last run
        self._end, self._begin = 0, b""
        last = b""
        for line in self._lines():
            if line.startswith(_BEGIN):
                self._starts = []
            elif not self._starts:
                raise ValueError(f"{path}: not an undo file of tools.organize")
            self._starts.append(self._end)
            self._end += len(line)
            last = line
        self.run: Record = self._read(self._starts[0]) if self._starts else {}
        self.is_done = bool(self._starts) and json.loads(last)["do"] == "done"

    def begin(self, **what: Any) -> None:
        """Begins a run; it is written when its first change is prepared."""
        self.run = {"do": "run", "id": secrets.token_hex(4), **what}
        self._begin, self.is_done = _line(self.run), False

    def start(self) -> None:
        """Writes the beginning of a run that was begun, once; raises as `add`."""
        if self._begin:
            start = self._end
            self._append(self._begin)
            files.sync_folder(self.path.parent)
            self._starts, self._begin = [start], b""

    def add(self, do: str, **what: Any) -> None:
        """Appends a record, and returns when it is on the disk.

        Raises:
          OSError: if it cannot be written; the file is then as it was.
        """
        self.start()
        self._starts.append(self._append(_line({"do": do, **what})))

    def _append(self, line: bytes) -> int:
        """Appends a line and returns where it begins."""
        with files.named(self.path), open(self.path, "ab") as file:
            file.truncate(self._end)  # A writer that was killed left half a line.
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                if self._end:
                    os.truncate(self.path, self._end)
                else:
                    self.path.unlink()
                raise
        start, self._end = self._end, self._end + len(line)
        return start

    def finish(self) -> None:
        """Says that all of the last run is done, unless nothing had to be."""
        if not self._begin and not self.is_done:
            self.add("done")
            self.is_done = True

    def records(self) -> Iterator[Record]:
        """Yields the records of the last run, the latest first."""
        for start in reversed(self._starts):
            yield self._read(start)

    def drop(self) -> None:
        """Removes the last run; the file too, if it was the only one."""
        if self._starts[0]:
            os.truncate(self.path, self._starts[0])
        else:
            self.path.unlink()

    def _lines(self) -> Iterator[bytes]:
        if self.path.exists():
            with open(self.path, "rb") as file:
                yield from (line for line in file if line.endswith(b"\n"))

    def _read(self, start: int) -> Record:
        with open(self.path, "rb") as file:
            file.seek(start)
            record: Record = json.loads(file.readline())
            return record


def _line(record: Record) -> bytes:
    # ASCII, so that names that are no valid text survive.
    return json.dumps(record).encode() + b"\n"
