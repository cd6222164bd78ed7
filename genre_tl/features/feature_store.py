"""On-disk feature store: TFRecord shards and an index.

`params.json` holds the parameters of a store. Each row of `index.csv` describes a
file and says where its frames are. A shard counts once the index names it, and every
file is written atomically: a store whose writer is killed is as it was after its last
shard. `docs/features.md` describes the format.
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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_type_hints

import numpy as np
import tensorflow as tf

from genre_tl import files, params
from genre_tl.features import log_scattering

# Raise it when the same parameters give other features or the files change.
_FORMAT = 2
_PARAMS, _INDEX = "params.json", "index.csv"

# Bytes before and around the data of a TFRecord: its length and two checksums.
_BEFORE, _AROUND = 12, 16


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the index: a file, and its features or the reason for having none."""

    path: str  # relative to the folder of the collection
    bytes: int = -1  # its size; -1 if it does not exist
    mtime_ns: int = 0
    sha256: str = ""  # empty if the file could not be read
    shard: str = ""  # name of the shard with its frames; empty if it has none
    offset: int = 0  # position of its frames in the shard, in bytes
    segments: str = ""  # number of valid frames of each segment
    crc32: str = ""  # checksum of the frames of each segment
    secs: float = 0.0  # length of the audio that was used
    note: str = ""  # warning about a file that was used
    error: str = ""  # why the file could not be used

    @classmethod
    def of(cls, root: pathlib.Path, path: str) -> Row:
        """Returns the row of a file that was not opened yet."""
        with contextlib.suppress(OSError):
            stat = os.stat(root / path)
            return cls(path, stat.st_size, stat.st_mtime_ns)
        return cls(path)

    @property
    def num_frames(self) -> tuple[int, ...]:
        """Valid frames of each segment."""
        return tuple(map(int, self.segments.split()))

    def same_audio_as(self, other: Row) -> Row:
        """Returns the row of this file, with the features of an identical one."""
        path, num_bytes, mtime_ns = self.path, self.bytes, self.mtime_ns
        return dataclasses.replace(other, path=path, bytes=num_bytes, mtime_ns=mtime_ns)


class Store:
    """An existing feature store. Threads may share it for reading.

    Attributes:
      folder: where it is.
      params: its parameters, which must include those given.
      index: row of each known file, by path, except those whose shard is missing.
      by_sha256: one of these rows for each different audio.

    Raises ValueError if it is damaged or has other parameters, FileNotFoundError if the
    folder is not a store.
    """

    def __init__(
        self, folder: pathlib.Path, frontend: params.Frontend, **values: Any
    ) -> None:
        self.folder, self._shards = folder, folder / "shards"
        self.params = _read_params(folder, _values(frontend) | values)
        self._map = functools.cache(functools.partial(np.memmap, mode="r"))
        shards = {"", *(path.name for path in self._shards.glob("*.tfrecord"))}
        rows = [row for row in _read_index(folder / _INDEX) if row.shard in shards]
        self.index = {row.path: row for row in rows}
        self.by_sha256 = {row.sha256: row for row in rows if row.sha256}

    def changes(
        self, root: pathlib.Path, paths: Sequence[str]
    ) -> tuple[list[Row], list[Row], list[str]]:
        """Compares the store with the files of a collection.

        Returns rows of the files to compute: new, changed, or not readable before; rows
        of files with a new modification time and the same content; paths in the store
        that are not listed or whose file is missing.
        """
        pending, touched = [], []
        gone = sorted(self.index.keys() - set(paths))
        for path in paths:
            row, before = Row.of(root, path), self.index.get(path)
            if before and before.shard and row.bytes < 0:
                gone.append(path)
            elif not before or not before.sha256:
                pending.append(row)
            elif (row.bytes, row.mtime_ns) != (before.bytes, before.mtime_ns):
                if sha256(root / path) == before.sha256:
                    touched.append(row.same_audio_as(before))
                else:
                    pending.append(row)
        # A resumed extraction fills its shards as if nothing had been tried before.
        pending.sort(key=lambda row: row.path in self.index)
        return pending, touched, gone

    def write_shard(self, results: Sequence[tuple[Row, Sequence[np.ndarray]]]) -> None:
        """Writes a shard, then the index that names it.

        `results` has for each file its row and the valid frames of its segments,
        float32 `[frames, paths]`. No segments: the file failed, or has the audio of a
        row that the store or this shard already has.

        Raises OSError if the shard cannot be written; the store stays as it was.
        """
        numbers = [int(row.shard[:6]) for row in self.index.values() if row.shard]
        path = self._shards / f"{max(numbers, default=-1) + 1:06d}.tfrecord"
        position, records = _BEFORE, []
        for row, segments in results:
            if segments:
                blocks = [frames.astype("<f4").tobytes() for frames in segments]
                self.by_sha256[row.sha256] = dataclasses.replace(
                    row,
                    shard=path.name,
                    offset=position,
                    segments=" ".join(str(len(frames)) for frames in segments),
                    crc32=" ".join(str(zlib.crc32(block)) for block in blocks),
                )
                records.append(b"".join(blocks))
                position += len(records[-1]) + _AROUND
        if records:
            _write_records(path, records)
        self.update(
            row if row.error else row.same_audio_as(self.by_sha256[row.sha256])
            for row, _ in results
        )

    def update(self, rows: Iterable[Row]) -> None:
        """Puts rows into the index; they replace those of the same path."""
        self.index.update((row.path, row) for row in rows)
        index = self.folder / _INDEX
        with files.whole(index) as unfinished, _open_text(unfinished, "w") as file:
            # With these line ends, the writer quotes names that contain either.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(field.name for field in dataclasses.fields(Row))
            ordered = (self.index[path] for path in sorted(self.index))
            writer.writerows(map(dataclasses.astuple, ordered))

    def remove_unused(self) -> None:
        """Deletes shards that no row names: outdated, or left by a kill."""
        used = {row.shard for row in self.index.values()}
        for path in self._shards.glob("*.tfrecord*"):
            if path.name not in used:
                path.unlink()

    def read(self, row: Row, start: int, count: int) -> np.ndarray:
        """Returns `count` frames from `start` on; raises if a checksum is wrong."""
        parts, first, position = [], 0, row.offset
        num_paths, path = self.params["num_paths"], self._shards / row.shard
        remedy = "delete this file and extract again: only its clips are recomputed"
        with _naming(path, remedy):
            for number, crc32 in zip(row.num_frames, row.crc32.split(), strict=True):
                size = 4 * number * num_paths
                if first < start + count and start < first + number:
                    data = self._map(path)[position : position + size]
                    if zlib.crc32(data.tobytes()) != int(crc32):
                        raise ValueError(f"frames of {row.path}")
                    frames = data.view("<f4").reshape(number, num_paths)
                    parts.append(frames[max(start - first, 0) : start + count - first])
                first, position = first + number, position + size
        return np.concatenate(parts)


def create(
    folder: pathlib.Path, frontend: params.Frontend, max_secs: float | None
) -> None:
    """Makes a new or empty folder a store with these parameters, unless it is one.

    Raises ValueError if it contains something else or another process writes to it.
    """
    if (folder / _PARAMS).exists():
        return
    layer = log_scattering.LogScattering.from_params(frontend)
    *_, num_paths = layer.compute_output_shape((None, frontend.segment_samples))
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        found = {entry.name for entry in folder.iterdir()}
        if _PARAMS in found:
            return  # another process has made it
        if foreign := found - {files.LOCK, _PARAMS + files.UNFINISHED}:
            raise ValueError(
                f"{folder}: holds {min(foreign)} but no feature store; give a new or "
                "an empty folder for the features"
            )
        values = {"max_secs": max_secs, "num_paths": num_paths}
        files.write_json(folder / _PARAMS, _values(frontend) | values)


def sha256(file: pathlib.Path) -> str:
    """Returns the checksum of a file in hexadecimal, "" if it cannot be read."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), open(file, "rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
        return digest.hexdigest()
    return ""


def _values(frontend: params.Frontend) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(frontend)}


def _read_params(folder: pathlib.Path, expected: dict[str, Any]) -> dict[str, Any]:
    if not (folder / _PARAMS).exists():
        raise FileNotFoundError(
            f"{folder}: there is no feature store; extract the features first"
        )
    with _naming(folder / _PARAMS, f"delete {folder} and extract again"):
        held = dict(json.loads((folder / _PARAMS).read_text(encoding="utf8")))
    differences = ", ".join(
        f"{name} {held.get(name)!r} instead of {value!r}"
        for name, value in expected.items()
        if held.get(name) != value
    )
    if differences:
        raise ValueError(
            f"{folder}: its features were made with {differences}; use the same "
            "parameters, or another folder"
        )
    return held


def _open_text(path: pathlib.Path, mode: str) -> Any:
    # File names need not be valid UTF-8.
    return open(path, mode, encoding="utf8", errors="surrogateescape", newline="")


def _read_index(path: pathlib.Path) -> list[Row]:
    if not path.exists():
        return []
    types = get_type_hints(Row)
    remedy = "delete it and extract everything again"
    with _naming(path, remedy), _open_text(path, "r") as file:
        names, *lines = csv.reader(file)
        if names != list(types):
            raise ValueError(f"its columns are {', '.join(names)}")
        return [
            Row(*(kind(x) for kind, x in zip(types.values(), line, strict=True)))
            for line in lines
        ]


def _write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with files.whole(path) as unfinished:
        try:
            with tf.io.TFRecordWriter(str(unfinished)) as writer:
                for record in records:
                    writer.write(record)
        except tf.errors.OpError as error:
            reason = error.message.removeprefix(f"{unfinished}; ")
            raise OSError(errno.EIO, reason, str(unfinished)) from error


@contextlib.contextmanager
def _naming(path: pathlib.Path, remedy: str) -> Iterator[None]:
    """Adds a damaged file and the remedy to errors of its content."""
    try:
        yield
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
