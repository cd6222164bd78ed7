"""Extraction: brings a feature store up to date with a table.

`extract` compares a table with a store, computes what is missing, shard by shard, and
returns a summary. `docs/features.md` shows how to use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from genre_tl import params, workers
from genre_tl.data import datasets
from genre_tl.features import columns, feature_store, shard_job

# A kill costs at most the work of one shard: so many files, or bytes of audio.
_SHARD_FILES, _SHARD_BYTES = 64, 2**28

_READING_THREADS = 8  # which compute checksums
_POLL_SECS = 0.5  # between looks at shards that other processes compute


@dataclasses.dataclass(frozen=True)
class Summary:
    """Result of one extraction.

    Clips are computed, repeated (identical audio) or unchanged. `failures` has the
    path and reason of every clip without features, `notes` those of clips used in
    spite of a defect, `removed` the clips of the store not in the table or on disk.
    """

    num_computed: int
    num_repeated: int
    num_unchanged: int
    failures: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]

    @property
    def num_usable(self) -> int:
        """Clips of the table that have features."""
        return self.num_computed + self.num_repeated + self.num_unchanged

    def __str__(self) -> str:
        extra = f"; {len(self.removed)} in the store are not in the collection"
        return (
            f"{self.num_usable} files ready: {self.num_computed} new, "
            f"{self.num_repeated} duplicates, {self.num_unchanged} unchanged, "
            f"{len(self.failures)} failed{extra if self.removed else ''}"
        )


def extract(
    dataset: datasets.Dataset,
    store_dir: str | os.PathLike[str],
    frontend: params.Frontend,
    *,
    max_secs: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    executor: workers.Executor | None = None,
) -> Summary:
    """Brings a feature store up to date with the files of a table.

    Reads files that are new or changed, by size and modification time, or could not
    be read before; of each file at most `max_secs`, from its beginning. Rerun it to
    resume after an interruption; the result is identical to an uninterrupted run. A
    store that is up to date is not written to, one that is missing is created. Several
    processes may extract the same table at the same time: they share the work.

    `on_progress` is called with the numbers of files done and to do, if any are to do.
    `executor` runs the units of work, by default in this process. The features do not
    depend on it. A file that ends its process each time is a failure.

    Raises:
      ValueError: if `max_secs` is out of range, or the store has other parameters or
        is damaged.
      OSError: if the store cannot be read or written.
    """
    if max_secs is not None and not 0 < max_secs < math.inf:
        raise ValueError(f"max_secs is {max_secs}; give seconds above 0, or None")
    root, folder = dataset.root, pathlib.Path(store_dir)
    feature_store.create(folder, frontend, max_secs)
    store = feature_store.Store(folder, frontend, max_secs=max_secs)
    known = store.known(dataset.paths)
    found, is_missing = look(root, known, dataset.paths)
    had = store.audio_of(found["sha256"]) >= 0
    units = plan(found, ~had)
    # A store that cannot be written to is usable if it is complete.
    with contextlib.nullcontext() if units else contextlib.suppress(OSError):
        store.save(_differing(found, known))
        job = shard_job.Job(root, store.shards, frontend, max_secs)
        disturbed = _compute(job, _Units(found, units), on_progress, executor)
        _record(store, found, disturbed)
    removed = set(store.files["path"]) - set(dataset.paths)
    gone = [*sorted(removed), *found["path"][is_missing & had]]
    return _summary(store, found, known, had, gone)


def look(
    root: pathlib.Path, known: columns.Table, paths: Sequence[str]
) -> tuple[columns.Table, np.ndarray]:
    """Compares files with what the store knows of them; reads new and changed ones.

    Returns the table of the files as they are now, and which are missing. These are
    as they were known: audio may be deleted.
    """
    found = feature_store.describe(root, paths)
    is_missing = found["bytes"] < 0
    for name in ("bytes", "mtime_ns"):
        found[name] = np.where(is_missing, known[name], found[name])
    same = np.all([found[x] == known[x] for x in ("bytes", "mtime_ns")], axis=0)
    found["sha256"] = np.where(same, known["sha256"], b"").astype("S64")
    unread = np.flatnonzero(found["sha256"] == b"")
    with futures.ThreadPoolExecutor(_READING_THREADS) as pool:
        files = (root / paths[row] for row in unread)
        for row, result in zip(
            unread, pool.map(feature_store.sha256, files), strict=True
        ):
            found["sha256"][row], found["error"][row] = result
    return found, is_missing


def plan(found: columns.Table, is_due: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of each unit: different audio, in the order of its SHA-256.

    Whole units that are finished do not change the others.
    """
    rows = np.flatnonzero(is_due & (found["sha256"] != b""))
    _, first = np.unique(found["sha256"][rows], return_index=True)
    rows = rows[first]
    units, begin, size = [], 0, 0
    for end, num_bytes in enumerate(found["bytes"][rows].tolist(), start=1):
        size += num_bytes
        if end - begin == _SHARD_FILES or size >= _SHARD_BYTES or end == len(rows):
            units.append(rows[begin:end])
            begin, size = end, 0
    return units


def _compute(
    job: shard_job.Job,
    units: _Units,
    on_progress: Callable[[int, int], None],
    executor: workers.Executor | None,
) -> dict[bytes, str]:
    """Runs the units; returns reasons by SHA-256 for files that could not be read."""
    progress = _Progress(sum(map(len, units.rows)), on_progress)
    function: workers.Function = job.run
    if executor is None:
        executor = workers.Here()
        function = functools.partial(job.run, on_file=progress.count)
    disturbed: dict[bytes, str] = {}
    while units.rows:
        held, parts = [], []
        for place, result in executor.run(function, units):
            rows = units.rows[place]
            if result is None:
                held.append(rows)  # by another process
            elif isinstance(result, workers.Died) and len(rows) > 1:
                parts += np.array_split(rows, 2)  # to find the file
            else:
                progress.finish(len(rows))
                if isinstance(result, workers.Died):
                    result = {units[place][0].sha256: result.reason}
                disturbed |= {x.encode(): reason for x, reason in result.items()}
        if len(held) == len(units):
            time.sleep(_POLL_SECS)
        units = _Units(units.files, [*held, *parts])
    return disturbed


@dataclasses.dataclass(frozen=True, eq=False)
class _Units(Sequence[list[shard_job.File]]):
    """Units, whose files are listed only when they are asked for."""

    files: columns.Table
    rows: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        rows = columns.take(self.files, self.rows[place])
        names = ("path", "bytes", "mtime_ns", "sha256")
        values = (rows[name].tolist() for name in names)
        return [
            shard_job.File(path, size, time_ns, digest.decode())
            for path, size, time_ns, digest in zip(*values, strict=True)
        ]


def _record(
    store: feature_store.Store, found: columns.Table, disturbed: dict[bytes, str]
) -> None:
    """Puts new shards into the index, and reasons into `found` and the index."""
    store.reload()
    rows = [row for row, x in enumerate(found["sha256"].tolist()) if x in disturbed]
    found["error"][rows] = [disturbed[x] for x in found["sha256"][rows].tolist()]
    store.save(columns.take(found, np.array(rows, int)))
    store.shards.remove_unfinished()


class _Progress:
    """Counts files: one by one, and whole units that others have computed."""

    def __init__(self, total: int, show: Callable[[int, int], None]) -> None:
        self._finished = self._shown = 0
        self._total, self._show = total, show
        if total:
            show(0, total)

    def count(self) -> None:
        """Counts a file of a unit."""
        self._shown += 1
        self._show(self._shown, self._total)

    def finish(self, num_files: int) -> None:
        """Counts what was not yet counted of a finished unit."""
        self._finished += num_files
        if self._shown < self._finished:
            self._shown = self._finished
            self._show(self._shown, self._total)


def _differing(table: columns.Table, other: columns.Table) -> columns.Table:
    """Returns the rows of a table that are not those of another."""
    same = np.all([table[name] == other[name] for name in table], axis=0)
    return columns.take(table, ~same)


def _summary(
    store: feature_store.Store,
    found: columns.Table,
    known: columns.Table,
    had: np.ndarray,
    removed: Sequence[str],
) -> Summary:
    """Counts the files by outcome; `had` marks those whose audio was stored before."""
    audio, paths = store.known_audio(found["sha256"]), found["path"]
    errors = np.where(found["error"] == "", audio["error"], found["error"])
    usable = errors == ""
    num_computed = len(np.unique(found["sha256"][usable & ~had]))
    unchanged = usable & had & (found["sha256"] == known["sha256"])
    num_unchanged = int(np.sum(unchanged))
    noted = usable & (audio["note"] != "")
    return Summary(
        num_computed=num_computed,
        num_repeated=int(np.sum(usable)) - num_unchanged - num_computed,
        num_unchanged=num_unchanged,
        failures=tuple(zip(paths[~usable], errors[~usable], strict=True)),
        notes=tuple(zip(paths[noted], audio["note"][noted], strict=True)),
        removed=tuple(removed),
    )
