"""Changes of files that can be undone: new content, moves, copies, links, folders.

Each is recorded in the journal before it is made, so that it can be undone, also if
the process was killed at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator

from genre_tl import files
from genre_tl.library import delta, journal

HOW = ("copy", "move", "hardlink", "symlink")
"""Ways to bring a file to another place."""


def replace(
    log: journal.Journal,
    path: pathlib.Path,
    fill: Callable[[pathlib.Path], None],
    *,
    keep_times: bool = False,
) -> None:
    """Gives a file new content: `fill` changes a copy of it, which takes its place.

    If there is no file, `fill` makes a new one.

    Raises:
      ValueError: if the file is open or changed in another program.
      OSError: if it cannot be read or written.
    """
    before = path.stat() if path.exists() else None
    if before:
        require_writable(path)
    with _part(log, path) as part:
        if before:
            shutil.copy2(path, part)
        fill(part)
        if before:
            _keep(part, before, keep_times)
        files.sync(part)
        old = files.sha256(path) if before else ""
        description = delta.describe(path, part) if before else []
        if before and files.sha256_of(delta.restored(description, part)) != old:
            raise ValueError("changed while its tags were written; rerun")
        log.add(
            "replace",
            path=str(path),
            before=old,
            after=files.sha256(part),
            mtime_ns=before.st_mtime_ns if before else 0,
            restore=description,
        )
        if before and _changed(path, before):
            raise ValueError("changed while its tags were written; rerun")
        os.replace(part, path)
    files.sync_folder(path.parent)


def write(log: journal.Journal, path: pathlib.Path, content: bytes) -> None:
    """Writes a file, in a folder that is made if need be; as `replace`."""
    _make_folders(log, path.parent)

    def fill(part: pathlib.Path) -> None:
        part.write_bytes(content)

    replace(log, path, fill)


def place(
    log: journal.Journal, source: pathlib.Path, target: pathlib.Path, how: str
) -> None:
    """Copies, moves or links a file to a place that is free; makes its folders.

    Raises:
      FileExistsError: if the place is taken.
      OSError: if it cannot be written.
    """
    if how == "move" and is_same(source, target) and _was_moved(log, source, target):
        source.unlink()  # A killed run had copied it to another file system.
        return
    require_free(target)
    _make_folders(log, target.parent)
    where = {"path": str(source), "to": str(target)}
    if how == "symlink":
        link = os.path.relpath(source.resolve(), target.parent.resolve())
        log.add(how, **where, link=link)
        target.symlink_to(link)
    elif how == "hardlink":
        log.add(how, **where, sha256=files.sha256(source))
        target.hardlink_to(source)
    elif how == "copy":
        log.add(how, **where, sha256=files.sha256(source))
        _copy(log, source, target)
    else:
        log.add(how, **where)
        _move(log, source, target)
    files.sync_folder(target.parent)


def undo(log: journal.Journal) -> Iterator[tuple[str, str]]:
    """Undoes the last run, the latest change first; call it again after a kill.

    Yields the path of each change and why it could not be undone, or "".
    """
    for record in log.records():
        if record["do"] in _UNDO:
            path, reason = str(record.get("to", record["path"])), ""
            try:
                _UNDO[record["do"]](log, record)
            except (OSError, ValueError) as error:
                reason = problem(error)
            if record["do"] != "folder" or reason:
                yield path, reason


def clean(log: journal.Journal, folders: Iterable[pathlib.Path]) -> None:
    """Removes the unfinished files of a run that was killed."""
    for folder in folders:
        for path in folder.glob(f".{log.run['id']}.part*"):
            path.unlink()


def require_writable(path: pathlib.Path) -> None:
    """Raises an error if a file should not or cannot be replaced.

    Root may write everything, so it goes by the file's mode.

    Raises:
      ValueError: if it is open for writing elsewhere, where the system can tell.
      PermissionError: if it is read-only, or its folder is.
    """
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "read-only file", str(path))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "read-only folder", str(path.parent))
    if _is_being_written(path):
        raise ValueError("open for writing in another program; close it and rerun")


def require_free(target: pathlib.Path) -> None:
    """Raises a `FileExistsError` if there is something at a place."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists already", str(target))


def problem(error: Exception) -> str:
    """Returns an error as text without the path of the file it concerns."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or repr(error)


def is_same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files exist and have the same content."""
    both_exist = one.is_file() and other.is_file()
    return both_exist and filecmp.cmp(one, other, shallow=False)


@contextlib.contextmanager
def _part(log: journal.Journal, path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a hidden name beside a file; what is there in the end is removed."""
    log.start()  # It has the name of the part, for `clean`.
    part = path.with_name(f".{log.run['id']}.part{path.suffix}")
    try:
        with files.named(path):
            yield part
    finally:
        part.unlink(missing_ok=True)


def _keep(part: pathlib.Path, before: os.stat_result, keep_times: bool) -> None:
    if keep_times:
        os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):
            os.chown(part, before.st_uid, before.st_gid)
            os.chmod(part, before.st_mode & 0o7777)  # chown clears bits.


def _changed(path: pathlib.Path, before: os.stat_result) -> bool:
    now = path.stat()
    seen = (before.st_ino, before.st_size, before.st_mtime_ns)
    return (now.st_ino, now.st_size, now.st_mtime_ns) != seen


def _is_being_written(path: pathlib.Path) -> bool:
    """Whether another program has a file open for writing, as far as Linux tells."""
    if sys.platform != "linux":
        return False
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:  # Others: no leases here, or another's file.
            return error.errno == errno.EAGAIN
    return False


def _make_folders(log: journal.Journal, folder: pathlib.Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        log.add("folder", path=str(each))
        each.mkdir()


def _copy(log: journal.Journal, source: pathlib.Path, target: pathlib.Path) -> None:
    with _part(log, target) as part:
        shutil.copy2(source, part)
        files.sync(part)
        if files.sha256(part) != files.sha256(source):
            raise ValueError("changed while it was copied; rerun")
        os.rename(part, target)


def _move(log: journal.Journal, source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(log, source, target)  # to another file system
        source.unlink()


def _was_moved(
    log: journal.Journal, source: pathlib.Path, target: pathlib.Path
) -> bool:
    where = {"do": "move", "path": str(source), "to": str(target)}
    return any(record == where for record in log.records())


def _undo_replace(log: journal.Journal, record: journal.Record) -> None:
    path = pathlib.Path(record["path"])
    now = files.sha256(path) if path.exists() else ""
    if now == record["before"]:
        return
    if now != record["after"]:
        raise ValueError("changed since then; left as it is" if now else "missing")
    if not record["before"]:
        path.unlink()
        return
    with _part(log, path) as part:
        with open(part, "wb") as file:
            file.writelines(delta.restored(record["restore"], path))
        if files.sha256(part) != record["before"]:
            raise ValueError(f"{log.path} is damaged; left as it is")
        shutil.copystat(path, part)
        before = path.stat()
        _keep(part, before, keep_times=False)
        os.utime(part, ns=(before.st_atime_ns, record["mtime_ns"]))
        files.sync(part)
        os.replace(part, path)
    files.sync_folder(path.parent)


def _undo_move(log: journal.Journal, record: journal.Record) -> None:
    source, target = pathlib.Path(record["path"]), pathlib.Path(record["to"])
    if not os.path.lexists(target):
        if not os.path.lexists(source):
            raise ValueError("missing")
    elif is_same(source, target):
        target.unlink()  # A killed run had copied it to another file system.
    else:
        require_free(source)
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(log, target, source)


def _undo_copy(log: journal.Journal, record: journal.Record) -> None:
    target = pathlib.Path(record["to"])
    if target.exists():
        if files.sha256(target) != record["sha256"]:
            raise ValueError("changed since then; left as it is")
        target.unlink()


def _undo_symlink(log: journal.Journal, record: journal.Record) -> None:
    target = pathlib.Path(record["to"])
    if os.path.lexists(target):
        if not target.is_symlink() or os.readlink(target) != record["link"]:
            raise ValueError("changed since then; left as it is")
        target.unlink()


def _undo_folder(log: journal.Journal, record: journal.Record) -> None:
    with contextlib.suppress(OSError):  # Others may have put something there.
        os.rmdir(record["path"])


_UNDO = {
    "replace": _undo_replace,
    "move": _undo_move,
    "copy": _undo_copy,
    "hardlink": _undo_copy,
    "symlink": _undo_symlink,
    "folder": _undo_folder,
}
