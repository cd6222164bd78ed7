"""Collections, feature stores and runs in object stores, such as `s3://bucket/music`.

A URL has a place in a cache on this machine, a folder like any other. `pull` gives it
the names, sizes and times of the objects, and the content of tables and models; audio
and shards are empty until `content` or `read_at` fetches them. What `files.whole`
writes there is put into the object store first. Object stores show only complete
objects, so no temporary names are needed there.

The path in the cache tells the URL, so that other processes of the machine know it too.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import pathlib
import random
import re
import shutil
import stat as modes
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

PathLike = str | os.PathLike[str]
_T = TypeVar("_T")

CACHE = "GENRE_TL_CACHE"
"""Environment variable with the folder of the cache, else `~/.cache/genre_tl`."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_FETCHED = frozenset(
    ".csv .gz .index .json .keras .md .npz .onnx .pb .tflite .tsv .txt".split()
)
"""Suffixes of files that `pull` fetches; and those without one, and weights."""
_WEIGHTS = ".data-"  # in the names of a SavedModel's

_NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{32}\.\w+")  # shards: they never change
_NO_NAMES = frozenset(["", ".", ".."])  # of files
_FREE_SHARE = 0.1  # of the disk, which shards in the cache leave free
_NUM_THREADS = 16
_ATTEMPTS, _WAIT_SECS = 5, 0.5  # the wait doubles each time
_LOCKS = [threading.Lock() for _ in range(64)]


class Stat(NamedTuple):
    """Size in bytes and time of modification of a file or object."""

    size: int
    mtime_ns: int


def is_url(path: PathLike) -> bool:
    """Whether a path is a URL, such as `s3://bucket/music`."""
    return bool(_URL.match(os.fspath(path)))


def local(path: PathLike) -> pathlib.Path:
    """Returns the place of a URL in the cache; another path as it is.

    Raises a ValueError if the URL names no folder or file in a bucket.
    """
    found = _URL.match(os.fspath(path))
    if not found:
        return pathlib.Path(path)
    protocol, rest = found.groups()
    if protocol == "file":
        return pathlib.Path(rest)
    parts = rest.strip("/").split("/")
    if len(parts) < 2 or not _NO_NAMES.isdisjoint(parts):
        raise ValueError(f"{path}: name a bucket, and a folder or file in it")
    return pathlib.Path(_root(), protocol, *parts)


def url(path: PathLike) -> str | None:
    """Returns the URL of a path in the cache, None for other paths."""
    root, text = _root() + os.sep, os.fspath(path)
    if not text.startswith(root):
        return None
    protocol, _, rest = pathlib.PurePath(text[len(root) :]).as_posix().partition("/")
    return f"{protocol}://{rest}"


def shown(text: str) -> str:
    """Returns a text with URLs in place of paths in the cache."""
    return re.sub(re.escape(_root()) + r"[/\\](\w+)[/\\]", r"\1://", text)


def pulled(path: PathLike) -> pathlib.Path:
    """Returns `local(path)`, brought up to date with the object store."""
    place = local(path)
    pull(place)
    return place


def pull(place: pathlib.Path) -> None:
    """Brings a folder or file in the cache up to date; does nothing elsewhere.

    Raises OSError if the object store does not answer.
    """
    if not (source := url(place)):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    # Listed first: what is put while this runs stays.
    before = {path for path in place.rglob("*") if not path.is_dir()} | {place}
    found = {place / name: x for name, x in _listed(source).items()}
    for path in before.difference(found):
        if path.is_file() and path.suffix not in (".part", ".lock"):
            _forget(path, place)
    for folder in {path.parent for path in found}:
        folder.mkdir(parents=True, exist_ok=True)
    with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(_update, found, found.values()))


def push(written: pathlib.Path, path: pathlib.Path) -> None:
    """Puts a file into the object store if `path` is a place in the cache.

    Raises OSError if the object store does not take it.
    """
    if not (target := url(path)):
        return
    _tried(target, lambda fs: fs.put_file(str(written), target))
    known = _tried(target, lambda fs: _object(fs.info(target)))
    if known.size != written.stat().st_size:
        raise OSError(f"{target}: another process is writing this object; rerun")
    if _NAMED_BY_CONTENT.fullmatch(path.name) and not _has_room(0):
        os.truncate(written, 0)
        _make_empty(written, known)
    os.utime(written, ns=(known.mtime_ns, known.mtime_ns))


def remove(path: pathlib.Path) -> None:
    """Deletes an object, or all below a folder, if `path` is a place in the cache."""
    if target := url(path):
        with contextlib.suppress(FileNotFoundError):
            _tried(target, lambda fs: fs.rm(target, recursive=True))


def exists(path: pathlib.Path) -> bool:
    """Whether a file exists, here or in the object store."""
    if path.exists():
        return True
    target = url(path)
    return bool(target and _tried(target, lambda fs: fs.exists(target)))


def stat(path: PathLike) -> Stat:
    """Returns what is known of a file; raises OSError if there is none."""
    try:
        return _here(path)
    except FileNotFoundError:  # The cache may be that of another machine.
        if not (target := url(path)):
            raise
        return _tried(target, lambda fs: _object(fs.info(target)))


@contextlib.contextmanager
def content(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a file with the content of another: itself, unless it is to be fetched.

    Raises OSError if the object store does not give it.
    """
    place = pathlib.Path(path)
    source = url(place)
    if source is None or _is_here(place):
        yield place
    elif _NAMED_BY_CONTENT.fullmatch(place.name):
        _fetch_once(place)
        yield place
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder, place.name)
            _get(source, copy, stat(place).size)
            yield copy


def read_at(path: pathlib.Path, start: int, size: int) -> bytes:
    """Returns bytes of a file from position `start` on, fewer at its end.

    Of a shard in an object store the whole is fetched, while a tenth of the cache's
    disk is free; then only these bytes.
    """
    source = url(path)
    if source and not _is_here(path):
        if not _has_room(stat(path).size):
            end = start + size
            return _tried(source, lambda fs: fs.cat_file(source, start=start, end=end))
        _fetch_once(path)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        return file.read(size) or b""


def _root() -> str:
    return _real(os.environ.get(CACHE) or "~/.cache/genre_tl")


@functools.cache
def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _is_here(path: pathlib.Path) -> bool:
    """Whether a file in the cache has its content; without, nobody may read it."""
    try:
        return bool(path.stat().st_mode & modes.S_IRUSR)
    except FileNotFoundError:
        return False


def _has_room(size: int) -> bool:
    pathlib.Path(_root()).mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(_root())
    return disk.free - size > _FREE_SHARE * disk.total


def _forget(path: pathlib.Path, top: pathlib.Path) -> None:
    """Deletes a file, and the folders up to `top` that are empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        while path != top and path.parent != top:
            path = path.parent
            path.rmdir()


def _update(path: pathlib.Path, known: Stat) -> None:
    by_content = bool(_NAMED_BY_CONTENT.fullmatch(path.name))
    with contextlib.suppress(FileNotFoundError):
        found = _here(path)
        if found == known or (by_content and found.size == known.size):
            return
    is_small = path.suffix in ("", *_FETCHED) or _WEIGHTS in path.name
    if is_small and not by_content:
        _fetch(path, known)
    else:
        unfinished = _unfinished(path)
        unfinished.touch()
        _make_empty(unfinished, known)
        os.replace(unfinished, path)


def _here(path: PathLike) -> Stat:
    found = os.stat(path)
    return Stat(found.st_size, found.st_mtime_ns)


def _make_empty(path: pathlib.Path, known: Stat) -> None:
    os.truncate(path, known.size)  # takes no space
    os.utime(path, ns=(known.mtime_ns, known.mtime_ns))
    path.chmod(0)


def _fetch_once(path: pathlib.Path) -> None:
    with _LOCKS[hash(path) % len(_LOCKS)]:
        if not _is_here(path):
            _fetch(path, stat(path))


def _fetch(path: pathlib.Path, known: Stat) -> None:
    unfinished = _unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _get(url(path) or "", unfinished, known.size)
        os.utime(unfinished, ns=(known.mtime_ns, known.mtime_ns))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _get(source: str, target: pathlib.Path, size: int) -> None:
    """Fetches an object; one of another size is an error, and tried again."""

    def get(fs: Any) -> None:
        fs.get_file(source, str(target))
        if target.stat().st_size != size:
            raise OSError(f"{target.stat().st_size} of {size} bytes came")

    _tried(source, get)


def _unfinished(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")


def _listed(source: str) -> dict[str, Stat]:
    """Returns the objects below a URL by name; "" is the URL itself."""

    def find(fs: Any) -> Mapping[str, Any]:
        fs.invalidate_cache()
        try:
            return fs.find(source, detail=True)
        except FileNotFoundError:
            return {}

    top = _tried(source, lambda fs: fs._strip_protocol(source)).rstrip("/")
    found = {}
    for name, info in _tried(source, find).items():
        below = name.removeprefix(f"{top}/")
        if name == top:
            found[""] = _object(info)
        elif below != name and _NO_NAMES.isdisjoint(below.split("/")):
            found[below] = _object(info)
    return found


def _object(info: Mapping[str, Any]) -> Stat:
    names = ("LastModified", "mtime", "updated", "last_modified", "created")
    time = next((info[name] for name in names if info.get(name)), 0)
    if isinstance(time, str):
        time = datetime.datetime.fromisoformat(time.replace("Z", "+00:00"))
    if isinstance(time, datetime.datetime):
        time = time.timestamp()
    return Stat(int(info["size"] or 0), round(time * 1e6) * 1000)


def _tried(target: str, action: Callable[[Any], _T]) -> _T:
    """Returns `action(file system)`, tried again with pauses after most errors."""
    fs = _filesystem(target.partition(":")[0], os.getpid())
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return action(fs)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{target}: not found ({error})") from error
        except Exception as error:
            has_none = "Credentials" in type(error).__name__
            if has_none or isinstance(error, PermissionError):
                raise OSError(
                    f"{target}: no access ({error}); give credentials as for the "
                    "provider's own tools, such as AWS_ACCESS_KEY_ID"
                ) from error
            if attempt == _ATTEMPTS:
                raise OSError(
                    f"{target}: failed {attempt} times, at last with {error!r}; check "
                    "the network and the service, then rerun"
                ) from error
        time.sleep(_WAIT_SECS * 2**attempt * random.uniform(0.5, 1))
    raise AssertionError


@functools.cache
def _filesystem(protocol: str, process: int) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(
            protocol, use_listings_cache=False, skip_instance_cache=True
        )
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{protocol}:// cannot be used ({error}); pip install 'genre_tl[s3]' for "
            "s3://, gcsfs for gs://"
        ) from error
