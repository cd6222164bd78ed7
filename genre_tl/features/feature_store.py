"""On-disk feature store: TFRecord shards and an index.

A store has one set of parameters, kept in `params.json`. Each row of `index.csv`
describes a file and says where its frames are. A shard counts once the index names
it, and every file is written atomically: a store whose writer is killed is as it was
after its last shard. `docs/features.md` describes the format.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import files, params

# Raise it when the same parameters give other features or the files change.
_FORMAT = 2

_PARAMS, _INDEX, _SHARDS = "params.json", "index.csv", "shards"

# Around the data of each TFRecord: its length and two checksums.
_BEFORE, _AROUND = 12, 16


def _join(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _split(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the index: a file, and its features or the reason for having none.

    Attributes:
      path: the file, relative to the folder of the collection.
      bytes: its size; -1 if it does not exist.
      mtime_ns: its modification time.
      sha256: checksum of its content; empty if it could not be read.
      shard: name of the shard with its frames; empty if it has none.
      offset: position of its frames in the shard, in bytes.
      segments: number of valid frames of each segment.
      crc32: checksum of the frames of each segment.
      secs: length of the audio that was used.
      note: warning about a file that was used, or "".
      error: why the file could not be used, or "".
    """

    path: str
    bytes: int = -1
    mtime_ns: int = 0
    sha256: str = ""
    shard: str = ""
    offset: int = 0
    segments: tuple[int, ...] = ()
    crc32: tuple[int, ...] = ()
    secs: float = 0.0
    note: str = ""
    error: str = ""

    @classmethod
    def of(cls, root: pathlib.Path, path: str) -> Row:
        """Returns the row of a file that was not opened yet."""
        try:
            stat = os.stat(root / path)
        except OSError:
            return cls(path)
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def same_audio_as(self, other: Row) -> Row:
        """Returns the row of this file, with the features of an identical one."""
        return dataclasses.replace(
            other, path=self.path, bytes=self.bytes, mtime_ns=self.mtime_ns
        )

    def to_cells(self) -> list[Any]:
        """Returns the values of a line of the index."""
        values = dataclasses.astuple(self)
        return [_join(x) if isinstance(x, tuple) else x for x in values]

    @classmethod
    def from_cells(cls, cells: Sequence[str]) -> Row:
        """Restores a row from a line of the index."""
        kinds: dict[str, Callable[[str], Any]]
        kinds = {"str": str, "int": int, "float": float, "tuple[int, ...]": _split}
        fields = zip(dataclasses.fields(cls), cells, strict=True)
        return cls(*(kinds[str(field.type)](cell) for field, cell in fields))


@dataclasses.dataclass(frozen=True)
class Changes:
    """Differences between a store and the files of a table.

    Attributes:
      pending: rows of the files to compute: new, changed, or not readable before.
      touched: rows of files with a new modification time and the same content.
      gone: paths in the store that are not in the table, or whose file is missing.
    """

    pending: list[Row]
    touched: list[Row]
    gone: list[str]


class Store:
    """An existing feature store.

    Attributes:
      folder: where it is.
      index: row of each known file, by path, except those whose shard is missing.
      by_sha256: one of these rows for each different audio.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        shards = {"", *(path.name for path in (folder / _SHARDS).glob("*.tfrecord"))}
        rows = [row for row in _read_index(folder / _INDEX) if row.shard in shards]
        self.index = {row.path: row for row in rows}
        self.by_sha256 = {row.sha256: row for row in rows if row.sha256}

    def changes(self, root: pathlib.Path, paths: Sequence[str]) -> Changes:
        """Compares the store with the files of a collection in folder `root`."""
        found = Changes([], [], sorted(self.index.keys() - set(paths)))
        for path in paths:
            row, before = Row.of(root, path), self.index.get(path)
            if before and before.shard and row.bytes < 0:
                found.gone.append(path)
            elif not before or not before.sha256:
                found.pending.append(row)
            elif (row.bytes, row.mtime_ns) != (before.bytes, before.mtime_ns):
                if sha256(root / path) == before.sha256:
                    found.touched.append(row.same_audio_as(before))
                else:
                    found.pending.append(row)
        # A resumed extraction fills its shards as if nothing had been tried before.
        found.pending.sort(key=lambda row: row.path in self.index)
        return found

    def write_shard(
        self, results: Iterable[tuple[Row, Sequence[np.ndarray]]]
    ) -> Iterator[Row]:
        """Writes a shard, then the index that names it.

        Args:
          results: for each file its row and the valid frames of its segments,
            float32 `[frames, paths]` each. No segments: the file failed, or has
            the audio of a row that the store or this shard already has.

        Yields:
          Each row as it goes into the index.

        Raises:
          OSError: if the shard cannot be written; the store stays as it was.
        """
        name = f"{self._next_number():06d}.tfrecord"
        path = self.folder / _SHARDS / name
        path.parent.mkdir(exist_ok=True)
        rows, position = [], 0
        with files.whole(path) as unfinished, _record_writer(unfinished) as write:
            for row, segments in results:
                if segments:
                    record, offset = _record(row, segments)
                    write(record)
                    row = _stored(row, name, position + _BEFORE + offset, segments)
                    position += len(record) + _AROUND
                elif not row.error:
                    row = row.same_audio_as(self.by_sha256[row.sha256])
                if row.sha256:
                    self.by_sha256[row.sha256] = row
                rows.append(row)
                yield row
        self.update(rows)

    def update(self, rows: Iterable[Row]) -> None:
        """Puts rows into the index; they replace those of the same path."""
        self.index.update((row.path, row) for row in rows)
        with (
            files.whole(self.folder / _INDEX) as unfinished,
            _open_text(unfinished, "w") as file,
        ):
            # With these line ends, the writer quotes names that contain either.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(field.name for field in dataclasses.fields(Row))
            writer.writerows(self.index[path].to_cells() for path in sorted(self.index))

    def remove_unused(self) -> None:
        """Deletes shards that no row names: outdated, or left by a kill."""
        used = {row.shard for row in self.index.values()}
        for path in (self.folder / _SHARDS).glob("*.tfrecord*"):
            if path.name not in used:
                path.unlink()

    def _next_number(self) -> int:
        shards = [row.shard for row in self.index.values() if row.shard]
        return 1 + max((int(name.split(".")[0]) for name in shards), default=-1)


class Reader:
    """Reads frames of any clip of a store. Threads may share it.

    Args:
      folder: the store.
      num_paths: coefficients of a frame.
    """

    def __init__(self, folder: pathlib.Path, num_paths: int) -> None:
        self._folder, self._num_paths = folder / _SHARDS, num_paths
        self._shard = functools.cache(self._open)

    def read(self, row: Row, start: int, count: int) -> np.ndarray:
        """Returns frames `start` to `start + count` of a clip, float32.

        Raises:
          ValueError: if what is stored does not have its checksum.
          OSError: if the shard cannot be read.
        """
        parts, first, position = [], 0, row.offset
        for number, crc32 in zip(row.segments, row.crc32, strict=True):
            size = 4 * number * self._num_paths
            skipped = max(start - first, 0)
            if skipped < number and first < start + count:
                data = self._shard(row.shard)[position : position + size]
                if zlib.crc32(data) != crc32:
                    raise self._damaged(row.shard, f"frames of {row.path}")
                frames = data.view("<f4").reshape(number, self._num_paths)
                parts.append(frames[skipped : start + count - first])
            first, position = first + number, position + size
        return np.concatenate(parts)

    def _open(self, shard: str) -> np.ndarray:
        try:
            return np.memmap(self._folder / shard, mode="r")
        except ValueError as error:  # an empty file
            raise self._damaged(shard, str(error)) from error

    def _damaged(self, shard: str, what: str) -> ValueError:
        return ValueError(
            f"{self._folder / shard}: damaged ({what}); delete this file and extract "
            "again: only its clips are recomputed"
        )


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes the folder if necessary and keeps other writers out.

    Raises:
      ValueError: if another process writes to it.
      OSError: if the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        yield


def exists(folder: pathlib.Path) -> bool:
    """Returns whether the folder is a feature store."""
    return (folder / _PARAMS).exists()


def create(
    folder: pathlib.Path,
    frontend: params.Frontend,
    max_secs: float | None,
    num_paths: int,
) -> None:
    """Makes an empty or new folder a store, unless it is one.

    Raises:
      ValueError: if it contains something else, or another process writes to it.
      OSError: if it cannot be made.
    """
    with locked(folder):
        own = {files.LOCK, _PARAMS, _PARAMS + files.UNFINISHED}
        foreign = {entry.name for entry in folder.iterdir()} - own
        if foreign and not exists(folder):
            raise ValueError(
                f"{folder}: holds {min(foreign)} but no feature store; give a new or "
                "an empty folder for the features"
            )
        if not exists(folder):
            values = {"max_secs": max_secs, "num_paths": num_paths}
            files.write_json(folder / _PARAMS, _values(frontend) | values)


def check(
    folder: pathlib.Path, frontend: params.Frontend, **values: Any
) -> dict[str, Any]:
    """Returns the parameters of a store.

    Args:
      folder: the store.
      frontend: the front end that it must have been made with.
      **values: further parameters that it must have, such as `max_secs`.

    Raises:
      ValueError: if it has others.
      FileNotFoundError: if the folder is no store.
    """
    path = folder / _PARAMS
    if not exists(folder):
        raise FileNotFoundError(
            f"{folder}: there is no feature store; extract the features first"
        )
    try:
        held = dict(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete {folder} and extract again"
        ) from error
    differences = [
        f"{name} {held.get(name)!r} instead of {value!r}"
        for name, value in (_values(frontend) | values).items()
        if held.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{folder}: its features were made with {', '.join(differences)}; use "
            "the same parameters, or another folder"
        )
    return held


def sha256(file: pathlib.Path) -> str:
    """Returns the checksum of a file in hexadecimal, "" if it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _values(frontend: params.Frontend) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(frontend)}


def _open_text(path: pathlib.Path, mode: str) -> Any:
    # File names need not be valid UTF-8.
    return open(path, mode, encoding="utf8", errors="surrogateescape", newline="")


def _read_index(path: pathlib.Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        with _open_text(path, "r") as file:
            names, *lines = csv.reader(file)
        if names != [field.name for field in dataclasses.fields(Row)]:
            raise ValueError(f"its columns are {', '.join(names)}")
        return [Row.from_cells(line) for line in lines]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete it and extract everything again"
        ) from error


@contextlib.contextmanager
def _record_writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    def checked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except tf.errors.OpError as error:
            reason = error.message.removeprefix(f"{path}; ")
            raise OSError(errno.EIO, reason, str(path)) from error

    writer = checked(tf.io.TFRecordWriter, str(path))
    try:
        yield lambda record: checked(writer.write, record)
    finally:
        checked(writer.close)


def _record(row: Row, segments: Sequence[np.ndarray]) -> tuple[bytes, int]:
    """Returns a record and the position of the frames in it."""

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    lengths = tf.train.Int64List(value=map(len, segments))
    values = np.concatenate(segments).astype("<f4", copy=False).tobytes()
    feature = {
        "path": of_bytes(os.fsencode(row.path)),
        "sha256": of_bytes(row.sha256.encode()),
        "segments": tf.train.Feature(int64_list=lengths),
        "features": of_bytes(values),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    # The order of the fields may differ between processes otherwise.
    record = bytes(example.SerializeToString(deterministic=True))
    return record, record.index(values)


def _stored(row: Row, shard: str, offset: int, segments: Sequence[np.ndarray]) -> Row:
    return dataclasses.replace(
        row,
        shard=shard,
        offset=offset,
        segments=tuple(map(len, segments)),
        crc32=tuple(
            zlib.crc32(np.ascontiguousarray(each, "<f4").data) for each in segments
        ),
    )
