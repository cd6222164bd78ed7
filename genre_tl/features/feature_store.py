"""The folder that keeps every clip's frames on disk: shards and their index.

A store is made with one set of parameters, kept in `params.json`. `index.csv` says
of every file what it was and which shard, if any, has its frames; a shard counts
once the index names it. Each file appears whole or not at all, so whatever moment
a process dies at, the store is what it was after its last shard.
`docs/features.md` describes the format.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from genre_tl import files, params

# To be raised when the same parameters no longer give the same features.
_FORMAT = 1

_PARAMS, _INDEX, _SHARDS, _LOCK = "params.json", "index.csv", "shards", "lock"

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the index: a file as it was, and what became of it.

    Attributes:
      path: the file, relative to the collection's root.
      bytes: its size; -1 if it is not there.
      mtime_ns: when it last changed, as the file system says.
      sha256: of its bytes; empty if it could not be read.
      shard: name of the shard with its frames; empty if there are none.
      frames: how many.
      secs: how much of the audio was used.
      note: what was odd about the file though it was used, or "".
      error: why it could not be used, or "".
    """

    path: str
    bytes: int = -1
    mtime_ns: int = 0
    sha256: str = ""
    shard: str = ""
    frames: int = 0
    secs: float = 0.0
    note: str = ""
    error: str = ""

    @classmethod
    def of(cls, root: pathlib.Path, path: str) -> Row:
        """Returns the row of a file not yet opened."""
        try:
            stat = os.stat(root / path)
        except OSError:
            return cls(path)
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def same_audio_as(self, other: Row) -> Row:
        """Returns `other`, found at this path."""
        return dataclasses.replace(
            other, path=self.path, bytes=self.bytes, mtime_ns=self.mtime_ns
        )


class Store:
    """A feature store that exists.

    Attributes:
      folder: where it is.
      index: row by path, of every file that has been looked at and whose shard,
        if it has one, is there.
      by_sha256: one of these rows for each different audio.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        shards = {"", *(path.name for path in (folder / _SHARDS).glob("*.tfrecord"))}
        rows = [row for row in _read_index(folder / _INDEX) if row.shard in shards]
        self.index = {row.path: row for row in rows}
        self.by_sha256 = {row.sha256: row for row in rows if row.sha256}

    def changes(
        self, root: pathlib.Path, paths: Sequence[str]
    ) -> tuple[list[Row], list[str]]:
        """Compares the store with the files as they are.

        Args:
          root: the collection's folder.
          paths: its files.

        Returns:
          Rows of the files to compute: new, changed, or not readable before. Paths
          in the store that are no longer listed, or whose file is not there.
        """
        pending: list[Row] = []
        touched: list[Row] = []
        gone = sorted(self.index.keys() - set(paths))
        for path in paths:
            row, before = Row.of(root, path), self.index.get(path)
            if before and before.shard and row.bytes < 0:
                gone.append(path)
            elif not before or not before.sha256:
                pending.append(row)
            elif (row.bytes, row.mtime_ns) != (before.bytes, before.mtime_ns):
                same = sha256(root / path) == before.sha256
                (touched if same else pending).append(row)
        if touched:
            self.update([row.same_audio_as(self.index[row.path]) for row in touched])
        # A continued run fills its shards as if nothing had been tried before.
        pending.sort(key=lambda row: row.path in self.index)
        return pending, gone

    def write_shard(
        self, results: Iterable[tuple[Row, Sequence[np.ndarray]]]
    ) -> Iterator[Row]:
        """Writes a shard, and after its last row the index that names it.

        Args:
          results: for each file its row and the valid frames of its segments,
            float32 `[frames, paths]` each. No segments: the file failed, or has
            the audio of a row that the store or this shard already has.

        Yields:
          Each row as it goes into the index.

        Raises:
          OSError: if it cannot be written. The store is then as it was before.
        """
        name = f"{self._next_number():06d}.tfrecord"
        path = self.folder / _SHARDS / name
        path.parent.mkdir(exist_ok=True)
        rows = []
        with files.whole(path) as unfinished, _record_writer(unfinished) as write:
            for row, segments in results:
                if segments:
                    frames = sum(map(len, segments))
                    row = dataclasses.replace(row, shard=name, frames=frames)
                    write(_record(row, segments))
                elif not row.error:
                    row = row.same_audio_as(self.by_sha256[row.sha256])
                if row.sha256:
                    self.by_sha256[row.sha256] = row
                rows.append(row)
                yield row
        self.update(rows)

    def update(self, rows: Iterable[Row]) -> None:
        """Puts rows into the index, in place of others of the same path."""
        self.index.update((row.path, row) for row in rows)
        names = [field.name for field in dataclasses.fields(Row)]
        with (
            files.whole(self.folder / _INDEX) as unfinished,
            _open_text(unfinished, "w") as file,
        ):
            # Of the line ends in a name, only those that end lines here are quoted.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(names)
            for path in sorted(self.index):
                writer.writerow(dataclasses.astuple(self.index[path]))

    def remove_unused(self) -> None:
        """Deletes shards that no row names: superseded, or left by a kill."""
        used = {row.shard for row in self.index.values()}
        for path in (self.folder / _SHARDS).glob("*.tfrecord*"):
            if path.name not in used:
                path.unlink()

    def read(
        self, rows: Iterable[Row]
    ) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
        """Reads the shards of the rows.

        Yields:
          The SHA-256 of each different audio of these rows, its frames, float32
          `[frames, paths]`, and how many belong to each of its segments.

        Raises:
          ValueError: if a shard is damaged.
          OSError: if a shard is not there.
        """
        wanted = {row.sha256: row for row in rows}
        for shard in sorted({row.shard for row in wanted.values()}):
            path = self.folder / _SHARDS / shard
            missing = {sha for sha, row in wanted.items() if row.shard == shard}
            for sha256, frames, segments in _read_records(path):
                if sha256 in missing and len(frames) == wanted[sha256].frames:
                    missing.remove(sha256)
                    yield sha256, frames, segments
            if missing:
                raise _damaged(path, f"{len(missing)} clips are missing from it")

    def _next_number(self) -> int:
        shards = [row.shard for row in self.index.values() if row.shard]
        return 1 + max((int(name.split(".")[0]) for name in shards), default=-1)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes the folder, if need be, and keeps other processes from writing to it.

    Raises:
      ValueError: if one does.
      OSError: if the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases the lock when the process ends, however it ends.
    with open(folder / _LOCK, "w", encoding="utf8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is writing features here; wait for it"
            ) from None
        yield


def create(
    folder: pathlib.Path,
    frontend: params.Frontend,
    max_secs: float | None,
    num_paths: int | None,
) -> None:
    """Makes an empty folder a store; leaves a store that fits as it is.

    Args:
      folder: the folder.
      frontend: what all features in it are computed with.
      max_secs: what is used of each file, in seconds; None for all.
      num_paths: coefficients of a frame.

    Raises:
      ValueError: if it is a store with other parameters or has other things in it.
    """
    if (folder / _PARAMS).exists():
        _check(folder, _values(frontend) | {"max_secs": max_secs})
        return
    own = {_LOCK, _PARAMS + files.UNFINISHED}
    foreign = {entry.name for entry in folder.iterdir()} - own
    if foreign:
        raise ValueError(
            f"{folder}: holds {min(foreign)} but no feature store; give a new or an "
            "empty folder for the features"
        )
    values = _values(frontend) | {"max_secs": max_secs, "num_paths": num_paths}
    with files.whole(folder / _PARAMS) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf8")


def num_paths(folder: pathlib.Path, frontend: params.Frontend) -> int:
    """Returns the number of coefficients of a frame in a store.

    Raises:
      ValueError: if its features were made with another frontend.
      FileNotFoundError: if the folder is no store.
    """
    if not (folder / _PARAMS).exists():
        raise FileNotFoundError(
            f"{folder}: there is no feature store; extract the features first"
        )
    return int(_check(folder, _values(frontend))["num_paths"])


def sha256(file: pathlib.Path) -> str:
    """Returns the checksum of a file in hexadecimal, "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()


def _values(frontend: params.Frontend) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(frontend)}


def _check(folder: pathlib.Path, values: dict[str, Any]) -> dict[str, Any]:
    """Returns what a store was made with, which must include `values`."""
    path = folder / _PARAMS
    try:
        held = dict(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete {folder} and extract again"
        ) from error
    differences = [
        f"{name} {held.get(name)!r} instead of {value!r}"
        for name, value in values.items()
        if held.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{folder}: its features were made with {', '.join(differences)}; use "
            "the parameters they were made with, or another folder"
        )
    return held


def _open_text(path: pathlib.Path, mode: str) -> Any:
    # File names need not be valid UTF-8.
    return open(path, mode, encoding="utf8", errors="surrogateescape", newline="")


def _read_index(path: pathlib.Path) -> list[Row]:
    if not path.exists():
        return []
    kinds: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    fields = dataclasses.fields(Row)
    try:
        with _open_text(path, "r") as file:
            names, *lines = csv.reader(file)
        if names != [field.name for field in fields]:
            raise ValueError(f"its columns are {', '.join(names)}")
        return [
            Row(
                *(
                    kinds[str(field.type)](cell)
                    for field, cell in zip(fields, line, strict=True)
                )
            )
            for line in lines
        ]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete it and extract again, from the start"
        ) from error


@contextlib.contextmanager
def _record_writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    def told(call: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            return call(*arguments)
        except tf.errors.OpError as error:
            reason = error.message.removeprefix(f"{path}; ")
            raise OSError(errno.EIO, reason, str(path)) from error

    writer = told(tf.io.TFRecordWriter, str(path))
    try:
        yield lambda record: told(writer.write, record)
    finally:
        told(writer.close)


def _record(row: Row, segments: Sequence[np.ndarray]) -> bytes:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_ints(values: Iterable[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    values = np.concatenate(segments).astype("<f4", copy=False)
    feature = {
        "path": of_bytes(os.fsencode(row.path)),
        "sha256": of_bytes(row.sha256.encode()),
        "num_frames": of_ints([row.frames]),
        "segments": of_ints(map(len, segments)),
        "features": of_bytes(values.tobytes()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    # Else the order of the fields may differ from process to process.
    return bytes(example.SerializeToString(deterministic=True))


def _read_records(
    path: pathlib.Path,
) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
    try:
        # Each record has a checksum, which is verified here.
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            num_frames = feature["num_frames"].int64_list.value[0]
            values = np.frombuffer(feature["features"].bytes_list.value[0], "<f4")
            yield (
                feature["sha256"].bytes_list.value[0].decode(),
                values.reshape(num_frames, -1),
                tuple(feature["segments"].int64_list.value),
            )
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path}: gone; extract the features again") from error
    except tf.errors.DataLossError as error:
        raise _damaged(path, error.message) from error


def _damaged(path: pathlib.Path, how: str) -> ValueError:
    return ValueError(
        f"{path}: damaged ({how}); delete this file and extract again: only its "
        "clips are computed anew"
    )
