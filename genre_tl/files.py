"""Atomic writes of files and folders, digests, and a lock between processes.

A reader finds the old content or the new, also after a crash or a power cut: content
is written beside its place under a name that ends in `.part`, flushed to the disk and
renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from genre_tl import storage

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PathLike = str | os.PathLike[str]

UNFINISHED = ".part"
"""Suffix of a file or folder that is being written, or whose writer was killed."""
LOCK = ".lock"
"""Name of the lock file in a locked folder; suffix of the one beside a locked file."""

_POLL_SECS = 0.02  # between attempts at a lock that another process holds


@contextlib.contextmanager
def whole(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary file to write, which replaces `path` on success.

    It is also put into the object store if `path` is in the cache of `storage`.

    Raises:
      OSError: if it cannot be written; the temporary file is removed.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with named(path):
            yield unfinished
            sync(unfinished)
            storage.push(unfinished, path)
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a new temporary folder to fill, which becomes `path` on success.

    What a killed writer of `path` left is removed first, so hold a `lock` where
    several processes may write it.

    Raises:
      OSError: if it cannot be written, or `path` exists and is not an empty folder;
        the temporary folder is removed.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with named(path):
            unfinished.mkdir(parents=True)
            yield unfinished
            for folder, _, names in os.walk(unfinished):
                for name in names:
                    sync(pathlib.Path(folder, name))
                sync_folder(pathlib.Path(folder))
            os.rename(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(path.parent)


def remove(path: PathLike) -> None:
    """Deletes a file or folder, if there is one, also from the object store."""
    path = pathlib.Path(path)
    storage.remove(path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically.

    File names may contain bytes that are not valid text. They are written in the
    escaped form of JSON, so that a JSON reader gets the same names back.
    """
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: PathLike, value: Any) -> None:
    """Writes a value as a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def digests(folder: PathLike) -> dict[str, str]:
    """Returns the SHA-256 of every file in a folder by its relative path with `/`."""
    found = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in found}


def write_sums(folder: PathLike, name: PathLike) -> None:
    """Writes the digests of all files as file `name`, for `sha256sum -c` too."""
    path = pathlib.Path(folder, name)
    path.unlink(missing_ok=True)  # It cannot list itself.
    lines = [f"{digest}  {listed}\n" for listed, digest in digests(folder).items()]
    write_text(path, "".join(lines))


def check_sums(folder: PathLike, name: PathLike) -> None:
    """Compares the files of a folder with their digests in its file `name`.

    Raises:
      ValueError: if a file is missing or has another content, or `name` lists none.
    """
    sums = pathlib.Path(folder, name)
    lines = sums.read_bytes().decode("utf-8", "replace") if sums.is_file() else ""
    if not lines:
        raise ValueError(f"{sums}: missing or empty")
    for digest, _, listed in (line.partition("  ") for line in lines.splitlines()):
        path = pathlib.Path(folder, listed)
        if not path.is_file():
            raise ValueError(f"{path}: missing, but listed in {sums.name}")
        if sha256(path) != digest:
            raise ValueError(f"{path}: damaged or changed: not as {sums.name} says")


def sha256(path: PathLike) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return sha256_of(iter(lambda: file.read(2**20), b""))


def sha256_of(blocks: Iterable[bytes]) -> str:
    """Returns the SHA-256 of the bytes of all blocks in hexadecimal digits."""
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(block)
    return sha.hexdigest()


@contextlib.contextmanager
def lock(path: PathLike, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that lock the same path out while it is written.

    The operating system releases the lock when the process ends, also if killed.

    Args:
      path: an existing folder, or a file that need not exist.
      wait: whether to wait while another process holds the lock.

    Raises:
      ValueError: if another process holds the lock.
      OSError: if the lock file cannot be made.
    """
    path = pathlib.Path(path)
    name = path / LOCK if path.is_dir() else path.with_name(path.name + LOCK)
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(name, "ab"))
            while not _try_lock(file):
                if wait:
                    time.sleep(_POLL_SECS)
                    continue
                raise ValueError(
                    f"{path}: another process is writing here; wait for it"
                )
            if _is_at(file, name):
                break  # Else its last holder removed it after we opened it.
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps files that are open.
                name.unlink()


@contextlib.contextmanager
def leased(path: PathLike) -> Iterator[bool]:
    """Reserves a unit of work; yields whether no other process has it.

    `path` is a file that need not exist. The reservation ends with the process.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
            is_mine = True
        except ValueError:
            is_mine = False
        yield is_mine


def _try_lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Adds the path to errors that lack one, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync(path: pathlib.Path) -> None:
    """Flushes a file to the disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: pathlib.Path) -> None:
    """Flushes the names in a folder to the disk, where the system can."""
    # Windows cannot open folders, some network file systems cannot sync them.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
