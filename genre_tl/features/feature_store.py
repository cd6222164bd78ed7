"""On-disk feature store: TFRecord shards and an index.

`params.json` holds the parameters of a store. A shard `<name>.tfrecord` has the frames
of some files, and `<name>.json` a row for each. Rows are keyed by the SHA-256 of the
audio file and the name is a digest of these, so whoever computes a shard, and how
often, it is the same. `index.npz` joins the rows of all shards, and says which audio
the path of a file has. Every file is written atomically, and a shard counts once its
rows exist. `docs/features.md` describes the format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import files, params, storage
from genre_tl.features import columns, log_scattering

# Raise it when the same parameters give other features or the files change.
_FORMAT = 3
_PARAMS, _INDEX, _SHARDS = "params.json", "index.npz", "shards"
_PARTS = _ROWS, _FRAMES = ".json", ".tfrecord"
_REMEDY = "delete this file and extract again: only its clips are recomputed"

# Bytes before and around the data of a TFRecord: its length and two checksums.
_BEFORE, _AROUND = 12, 16

_FILES = {
    "path": object,  # relative to the folder of the collection
    "bytes": "<i8",  # size; -1 if it does not exist
    "mtime_ns": "<i8",
    "sha256": "S64",  # empty if it could not be read
    "error": object,  # why it could not be read
}
_AUDIO = {
    "sha256": "S64",
    "shard": "S32",
    "offset": "<i8",  # position of the frames in the shard, in bytes
    "segments": object,  # number of valid frames of each segment; empty after an error
    "crc32": object,  # checksum of the frames of each segment
    "secs": "<f8",  # length of the audio that was used
    "note": object,  # warning about audio that was used
    "error": object,  # why the audio could not be used
}
_TABLES = {"files": _FILES, "audio": _AUDIO}


@dataclasses.dataclass(frozen=True)
class Audio:
    """What a store says of an audio file's content."""

    sha256: str
    secs: float = 0.0
    note: str = ""
    error: str = ""


Result = tuple[Audio, Sequence[np.ndarray]]
"""A row, and the valid frames of its segments: float32 `[frames, paths]`, or none."""


class Shards:
    """The shards of a store: what a process needs that computes some of them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def names(self) -> set[str]:
        """Returns the names of the finished shards."""
        paths = _listed(self.folder)
        rows, frames = ({x.stem for x in paths if x.suffix == y} for y in _PARTS)
        return rows & frames

    def is_finished(self, name: str) -> bool:
        """Whether a shard exists."""
        return all(storage.exists(self.folder / (name + x)) for x in _PARTS)

    def leased(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Reserves a shard for this process; yields whether that was possible."""
        self.folder.mkdir(exist_ok=True)
        return files.leased(self.folder / name)

    def write(self, name: str, results: Sequence[Result]) -> None:
        """Writes the frames of a shard, then its rows; `name` is their `shard_name`.

        Raises OSError if it cannot be written; it does not count then.
        """
        position, records, rows = _BEFORE, [], []
        for audio, segments in results:
            blocks = [frames.astype("<f4").tobytes() for frames in segments]
            place = {
                "offset": position if blocks else 0,
                "segments": [len(frames) for frames in segments],
                "crc32": [zlib.crc32(block) for block in blocks],
            }
            rows.append(json.dumps(dataclasses.asdict(audio) | place))
            if blocks:
                records.append(b"".join(blocks))
                position += len(records[-1]) + _AROUND
        _write_records(self.folder / (name + _FRAMES), records)
        lines = ",\n".join(rows)
        files.write_text(self.folder / (name + _ROWS), f"[\n{lines}\n]\n")

    def rows(self, name: str) -> columns.Table:
        """Returns the rows of a finished shard."""
        path = self.folder / (name + _ROWS)
        with columns.naming(path, _REMEDY), storage.content(path) as file:
            found = json.loads(file.read_text(encoding="utf8"))
            for row in found:
                row |= {x: " ".join(map(str, row[x])) for x in ("segments", "crc32")}
                row["shard"] = name
            return columns.table(_AUDIO, [[row[x] for x in _AUDIO] for row in found])

    def frames(self, name: str) -> pathlib.Path:
        """Returns the file with the frames of a shard."""
        return self.folder / (name + _FRAMES)

    def remove_unfinished(self) -> None:
        """Deletes what killed processes left, except from an object store.

        There, other machines may be writing, and no lock keeps them out.
        """
        if storage.url(self.folder):
            return
        finished = self.names()
        for path in _listed(self.folder):
            name = path.name.split(".")[0]
            if path.suffix in _PARTS and name in finished:
                continue
            with self.leased(name) as is_mine:
                if is_mine and not (path.suffix in _PARTS and self.is_finished(name)):
                    path.unlink(missing_ok=True)


class Store:
    """An existing feature store. Threads may share it for reading.

    Attributes:
      params: its parameters, which must include those given.
      shards: its shards.
      files: table of the known files (columns `_FILES`), sorted by path.
      audio: table of the content of files (columns `_AUDIO`), sorted by SHA-256.

    Raises ValueError if it is damaged or has other parameters, FileNotFoundError if the
    folder is not a store.
    """

    def __init__(
        self, folder: pathlib.Path, frontend: params.Frontend, **values: Any
    ) -> None:
        self.folder, self.shards = folder, Shards(folder / _SHARDS)
        self.params = _read_params(folder, _values(frontend) | values)
        self.reload()

    def reload(self) -> None:
        """Reads what this and other processes have written."""
        storage.pull(self.folder)
        found = _read_index(self.folder / _INDEX)
        self.files, audio = found["files"], found["audio"]
        present = {name.encode() for name in self.shards.names()}
        indexed = set(audio["shard"].tolist())
        if indexed - present:
            rows = [shard in present for shard in audio["shard"].tolist()]
            audio = columns.take(audio, np.array(rows, bool))
        self._is_current = indexed == present
        if new := sorted(name.decode() for name in present - indexed):
            audio = columns.join(audio, *map(self.shards.rows, new))
            # Processes with different tables may have computed the same audio.
            _, first = np.unique(audio["sha256"], return_index=True)
            audio = columns.take(audio, first)
        self.audio = audio

    def audio_of(self, digests: np.ndarray) -> np.ndarray:
        """Returns the row in `audio` of each SHA-256, -1 where there is none."""
        return columns.find(self.audio["sha256"], digests)

    def known(self, paths: Sequence[str]) -> columns.Table:
        """Returns the row in `files` of each path; of unknown ones an empty one."""
        absent = columns.table(_FILES, [("", -1, 0, "", "")])
        rows = columns.find(self.files["path"], paths)
        return columns.take(columns.join(self.files, absent), rows)

    def known_audio(self, digests: np.ndarray) -> columns.Table:
        """Returns the row in `audio` of each SHA-256; of unknown ones an empty one."""
        absent = columns.table(_AUDIO, [("", "", 0, "", "", 0.0, "", "")])
        rows = self.audio_of(digests)
        return columns.take(columns.join(self.audio, absent), rows)

    def save(self, changed: columns.Table) -> None:
        """Brings the index up to date; `changed` rows of files replace those there.

        Raises OSError if it cannot be written; the old one stays.
        """
        if self._is_current and not len(changed["path"]):
            return
        with files.lock(self.folder, wait=True):
            self.reload()
            kept = columns.find(changed["path"], self.files["path"]) < 0
            merged = columns.join(columns.take(self.files, kept), changed)
            order = np.argsort(merged["path"], kind="stable")
            self.files = columns.take(merged, order)
            tables = {"files": self.files, "audio": self.audio}
            columns.write(self.folder / _INDEX, tables)
        self._is_current = True

    def read(self, row: int, start: int, count: int) -> np.ndarray:
        """Returns `count` frames from `start` on of a row in `audio`.

        Raises ValueError if a checksum is wrong, OSError if the shard cannot be read.
        """
        parts, first, num_paths = [], 0, self.params["num_paths"]
        position = int(self.audio["offset"][row])
        places = (self.audio[x][row].split() for x in ("segments", "crc32"))
        path = self.shards.frames(self.audio["shard"][row].decode())
        # By position, without a map: the memory in use does not grow.
        for number, crc32 in zip(*places, strict=True):
            size = 4 * int(number) * num_paths
            if first < start + count and start < first + int(number):
                with columns.naming(path, _REMEDY):
                    data = storage.read_at(path, position, size)
                    if len(data) < size or zlib.crc32(data) != int(crc32):
                        raise ValueError(f"frames from byte {position} on")
                frames = np.frombuffer(data, "<f4").reshape(-1, num_paths)
                parts.append(frames[max(start - first, 0) : start + count - first])
            first, position = first + int(number), position + size
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def shard_name(digests: Iterable[str]) -> str:
    """Returns the name of the shard with the audio of these SHA-256."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]


def create(
    folder: pathlib.Path, frontend: params.Frontend, max_secs: float | None
) -> None:
    """Makes a new or empty folder a store with these parameters, unless it is one.

    Raises ValueError if it contains something else.
    """
    if (folder / _PARAMS).exists():
        return
    layer = log_scattering.LogScattering.from_params(frontend)
    *_, num_paths = layer.compute_output_shape((None, frontend.segment_samples))
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder, wait=True):
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


def describe(root: pathlib.Path, paths: Sequence[str]) -> columns.Table:
    """Returns a table of files as they are on disk, with empty digests and errors."""
    stats = np.array([stat(root, path) for path in paths], np.int64).reshape(-1, 2)
    return {
        "path": np.array(paths, object),
        "bytes": stats[:, 0],
        "mtime_ns": stats[:, 1],
        "sha256": np.zeros(len(paths), "S64"),
        "error": np.full(len(paths), "", object),
    }


def sha256(file: pathlib.Path) -> tuple[str, str]:
    """Returns the checksum of a file in hexadecimal, or "" and why it has none."""
    digest = hashlib.sha256()
    try:
        if file.exists() and not file.is_file():  # Opening a pipe would wait.
            return "", "not a regular file"
        with storage.content(file) as here, open(here, "rb") as stream:
            while part := stream.read(2**20):
                digest.update(part)
    except OSError as error:
        return "", error.strerror or str(error)
    return digest.hexdigest(), ""


def stat(root: pathlib.Path, path: str) -> tuple[int, int]:
    """Returns size and modification time of a file; -1 and 0 if it is missing."""
    with contextlib.suppress(OSError):
        return storage.stat(root / path)
    return -1, 0


def _values(frontend: params.Frontend) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(frontend)}


def _read_params(folder: pathlib.Path, expected: dict[str, Any]) -> dict[str, Any]:
    if not (folder / _PARAMS).exists():
        raise FileNotFoundError(
            f"{folder}: there is no feature store; extract the features first"
        )
    with columns.naming(folder / _PARAMS, f"delete {folder} and extract again"):
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


def _read_index(path: pathlib.Path) -> dict[str, columns.Table]:
    if not path.exists():
        return {name: columns.table(kinds, []) for name, kinds in _TABLES.items()}
    with columns.naming(path, "delete it and extract again: it is made anew"):
        return columns.read(path, _TABLES)


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def _write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    with files.whole(path) as unfinished:
        try:
            with tf.io.TFRecordWriter(str(unfinished)) as writer:
                for record in records:
                    writer.write(record)
        except tf.errors.OpError as error:
            reason = error.message.removeprefix(f"{unfinished}; ")
            raise OSError(errno.EIO, reason, str(unfinished)) from error
