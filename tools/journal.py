"""Files that grow together, can be gone on with after a kill, and appear whole.

What is written goes to `<file>.partial`. After each piece of work, once that is on
the disk, `<first file>.progress` notes how far all of them are; whatever came after
is cut off when the same work is begun again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from genre_tl import files


class Journal:
    """An unfinished set of files, locked by this process.

    Attributes:
      done: how many items of the work are in the files.
      notes: whatever else was noted with them.
    """

    def __init__(
        self, paths: Sequence[str], key: Mapping[str, Any], handles: Sequence[BinaryIO]
    ) -> None:
        self._paths, self._key, self._handles = paths, dict(key), handles
        self._progress = f"{paths[0]}.progress"
        state = self._state()
        sizes = [os.fstat(file.fileno()).st_size for file in handles]
        if any(size < kept for size, kept in zip(sizes, state["sizes"], strict=True)):
            state = self._nothing()
        self.done: int = state["done"]
        self.notes: dict[str, Any] = state["notes"]
        for file, kept in zip(handles, state["sizes"], strict=True):
            file.truncate(kept)
            file.seek(kept)

    def write(self, index: int, data: bytes) -> None:
        """Appends to the file of this index."""
        with self._told(index):
            self._handles[index].write(data)

    def commit(self, done: int, notes: Mapping[str, Any]) -> None:
        """Makes what was written, up to `done` items, last.

        Raises:
          OSError: if it cannot be written.
        """
        for index, file in enumerate(self._handles):
            with self._told(index):
                file.flush()
                os.fsync(file.fileno())
        self.done, self.notes = done, dict(notes)
        state = {
            "key": self._key,
            "done": done,
            "sizes": [file.tell() for file in self._handles],
            "notes": self.notes,
        }
        files.write_text(self._progress, json.dumps(state, indent=1) + "\n")

    def publish(self, index: int) -> None:
        """Gives a file its name."""
        os.replace(f"{self._paths[index]}.partial", self._paths[index])

    def close(self) -> None:
        """Removes what is left: the work is done."""
        for path in (self._progress, *(f"{path}.partial" for path in self._paths)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def _nothing(self) -> dict[str, Any]:
        return {
            "key": self._key,
            "done": 0,
            "sizes": [0] * len(self._paths),
            "notes": {},
        }

    def _state(self) -> dict[str, Any]:
        try:
            with open(self._progress, encoding="utf-8") as file:
                state: dict[str, Any] = json.load(file)
        except (FileNotFoundError, ValueError):
            return self._nothing()
        other = [
            name for name in self._key if self._key[name] != state["key"].get(name)
        ]
        if other or len(state["sizes"]) != len(self._paths):
            raise ValueError(
                f"{self._paths[0]}.partial: is of a call that was not finished, with "
                f"other {', '.join(other) or 'files to write'}; repeat that call, or "
                f"delete {self._progress} to begin anew"
            )
        return state

    def _told(self, index: int) -> contextlib.AbstractContextManager[None]:
        return files.named(f"{self._paths[index]}.partial")


@contextlib.contextmanager
def opened(paths: Sequence[str], key: Mapping[str, Any]) -> Iterator[Journal]:
    """Begins a set of files, or goes on with it.

    Args:
      paths: the files, at least one.
      key: what the content depends on, by names that people know, fit for JSON.

    Raises:
      ValueError: if other work was begun there, or another process is at it.
      OSError: if the files cannot be made.
    """
    with contextlib.ExitStack() as stack:
        handles = []
        for path in paths:
            # Opened as it is: only the owner of the lock may change it.
            descriptor = os.open(f"{path}.partial", os.O_RDWR | os.O_CREAT, 0o666)
            file = os.fdopen(descriptor, "r+b")
            stack.callback(_close, file, path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path}: another process is writing it") from None
            handles.append(file)
        yield Journal(paths, key, handles)


def _close(file: BinaryIO, path: str) -> None:
    # What a full disk did not take is tried once more, and fails without a name.
    with files.named(f"{path}.partial"):
        file.close()
