"""Feature stores of synthetic clips, made faster than audio could be transformed."""

import hashlib
import json
import pathlib
import shutil

import numpy as np

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import columns, feature_store

FRONTEND = params.PRESETS["default"].frontend
_UNIT, _TEMPLATES = 64, 4
_SEGMENT = str(FRONTEND.segment_frames)


def digests(num_clips: int) -> list[str]:
    """SHA-256 of imagined clips, sorted."""
    return sorted(hashlib.sha256(b"%d" % n).hexdigest() for n in range(num_clips))


def paths(num_clips: int) -> list[str]:
    return [f"{n % 256:03d}/{n:07d}.mp3" for n in range(num_clips)]


def units(num_clips: int) -> list[list[str]]:
    every = digests(num_clips)
    return [every[begin : begin + _UNIT] for begin in range(0, num_clips, _UNIT)]


def make(folder: pathlib.Path, num_clips: int) -> None:
    """Writes a store of clips of one segment of random frames.

    The frames of a few shards are copied, so that writing is what takes the time.
    """
    feature_store.create(folder, FRONTEND, None)
    store, rng = feature_store.Store(folder, FRONTEND), np.random.default_rng(0)
    shards, templates = store.shards, folder / "templates"
    templates.mkdir()
    shape = FRONTEND.segment_frames, store.params["num_paths"]
    for number in range(_TEMPLATES):
        frames = (rng.standard_normal(shape).astype("f4") for _ in range(_UNIT))
        results = [(feature_store.Audio(str(n)), [x]) for n, x in enumerate(frames)]
        feature_store.Shards(templates).write(f"{number}", results)
    shards.folder.mkdir()
    for number, unit in enumerate(units(num_clips)):
        source = templates / f"{number % _TEMPLATES}.json"
        rows = zip(json.loads(source.read_text()), unit, strict=False)
        named = [row | {"sha256": digest} for row, digest in rows]
        target = shards.folder / f"{feature_store.shard_name(unit)}.json"
        shutil.copyfile(
            source.with_suffix(".tfrecord"), target.with_suffix(".tfrecord")
        )
        target.write_text(json.dumps(named))
    shutil.rmtree(templates)
    store.reload()
    store.save(_files(num_clips, size=1000, mtime_ns=1))


def make_index(folder: pathlib.Path, num_clips: int, *, is_done: bool, **stat) -> None:
    """Writes the index of a store whose shards, if it has some, are empty."""
    feature_store.create(folder, FRONTEND, None)
    shards, rows = folder / "shards", []
    shards.mkdir()
    for unit in units(num_clips) if is_done else ():
        name = feature_store.shard_name(unit)
        for suffix in (".tfrecord", ".json"):
            (shards / (name + suffix)).touch()
        for digest in unit:
            rows.append((digest, name, 12, _SEGMENT, "7", 30.2, "", ""))
    audio = columns.table(feature_store._AUDIO, rows)
    tables = {"files": _files(num_clips, **stat), "audio": audio}
    columns.write(folder / "index.npz", tables)


def _files(num_clips: int, size: int, mtime_ns: int) -> columns.Table:
    pairs = sorted(zip(paths(num_clips), digests(num_clips), strict=True))
    rows = [(path, size, mtime_ns, digest, "") for path, digest in pairs]
    return columns.table(feature_store._FILES, rows)


def table(folder: pathlib.Path, num_clips: int, num_tags: int = 50) -> datasets.Dataset:
    """The tagged clips of `make`."""
    rng = np.random.default_rng(0)
    names = tuple(paths(num_clips))
    return datasets.Dataset(
        name="synthetic",
        root=folder / "music",
        paths=names,
        labels=(rng.random((num_clips, num_tags)) < 0.1).astype(np.uint8),
        vocabulary=tuple(f"tag {n}" for n in range(num_tags)),
        groups=names,
        multi_label=True,
    )
