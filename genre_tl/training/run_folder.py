"""The folder of a training run: identity, history, checkpoints, results.

run.json      kind, preset, seed, data, command, versions; at the end the metrics
history.csv   a row for each finished epoch
curves.png    the same as a picture
familiarity.npz  of a classifier: the distribution of its training clips
logs/         for TensorBoard, if it is installed
checkpoints/  last and best epoch, until the run has finished
model.keras   the best model; its presence marks the run as finished
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import platform
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

import genre_tl
from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import plots
from genre_tl.features import pipeline
from genre_tl.model import exported, familiarity, networks

History = list[dict[str, float]]
Parts = Mapping[str, np.ndarray]

_MONITORS = {"pretrain": "val_macro_auc_roc", "finetune": "val_accuracy"}
_PACKAGES = ("tensorflow", "keras", "kymatio", "numpy", "scikit-learn")
_DAMAGE = (
    *(ValueError, TypeError, LookupError, EOFError),
    *(FileNotFoundError, zipfile.BadZipFile),
)
_FACTS = "kind preset seed data vocabulary command versions metrics".split()
_ENDS = ("max_epochs", "patience_epochs", "min_delta")  # may change on resuming


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Features and labels of a collection, and its division."""

    features: pipeline.Features
    table: datasets.Dataset
    frontend: params.Frontend
    split: str = "folds"  # name of the division, for reports
    parts: Parts = dataclasses.field(default_factory=dict)
    """Rows `train`, `valid` (choose the epoch) and `test` (scored once, at the end);
    the last two may be empty. Cross-validation also takes data without parts."""


class Run:
    """One run in an existing folder: new, or to be resumed.

    Attributes:
      record: content of run.json.
      history: the finished epochs.

    Raises:
      ValueError: if the folder holds a run with another `identity`, or a file is
        damaged.
    """

    def __init__(self, folder: files.PathLike, identity: Mapping[str, Any]) -> None:
        self.folder = pathlib.Path(folder)
        self._monitor = _MONITORS[identity["kind"]]
        self._checkpoints = self.folder / "checkpoints"
        path = self.folder / "run.json"
        if path.is_file():
            found = read_json(path)
            with intact(path):
                fixed = _fixed(found)
            check_same(self.folder, fixed, _fixed(identity), "run")
            self.record = found if self.is_finished else {**found, **identity}
        else:
            self.record = {**identity, **provenance()}
            files.write_json(path, self.record)
        self.history = read_history(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether the model has been written."""
        return (self.folder / "model.keras").is_file()

    @property
    def best_epoch(self) -> int:
        """Number (from 1) of the epoch to keep."""
        return best_epoch(self.history, self._monitor)

    def has_ended(self, training: params.Training) -> bool:
        """Whether no further epoch is due."""
        is_last = len(self.history) >= training.max_epochs
        return is_last or is_stable(self.history, self._monitor, training)

    def commit(self, model: keras.Model, row: Mapping[str, float]) -> None:
        """Saves the state of a compiled model after an epoch, then the history."""
        self.history.append(dict(row))
        epoch = len(self.history)
        self._checkpoints.mkdir(exist_ok=True)
        with files.whole(self._checkpoint(epoch)) as path, path.open("wb") as file:
            np.savez(file, *(variable.numpy() for variable in _variables(model)))
        # The history says that an epoch is done, so it is written after its state.
        self.write_history()
        kept = self._checkpoint(epoch), self._checkpoint(self.best_epoch)
        for path in set(self._checkpoints.glob("epoch-*.npz")).difference(kept):
            files.remove(path)

    def restore(self, model: keras.Model, epoch: int) -> None:
        """Sets all variables of a compiled model to their values after an epoch."""
        path = self._checkpoint(epoch)
        # NumPy leaves damaged files open.
        with intact(path, self.folder), open(path, "rb") as raw, np.load(raw) as file:
            assign(_variables(model), [file[name] for name in file.files])

    def _checkpoint(self, epoch: int) -> pathlib.Path:
        return self._checkpoints / f"epoch-{epoch:04d}.npz"

    def write_history(self) -> None:
        """Writes history.csv atomically, unlike `keras.callbacks.CSVLogger`."""
        names = list(self.history[-1])
        lines = [["epoch", *names]]
        for epoch, row in enumerate(self.history, start=1):
            lines.append([str(epoch), *(str(row[name]) for name in names)])
        text = "".join(",".join(line) + "\n" for line in lines)
        files.write_text(self.folder / "history.csv", text)

    def finish(self, network: keras.Model, metrics: Mapping[str, Any]) -> None:
        """Writes curves, metrics and, last, the model; removes the checkpoints."""
        if self.history:
            picture, title = self.folder / "curves.png", self.folder.name
            plots.learning_curves(columns(self.history), picture, title=title)
        epochs = {"epochs": len(self.history), "best_epoch": self.best_epoch}
        self.record |= epochs | {"metrics": dict(metrics)}
        files.write_json(self.folder / "run.json", self.record)
        networks.save(network, self.folder / "model.keras")
        files.remove(self._checkpoints)


def assign(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    """Sets variables to values, or to those of other variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


@contextlib.contextmanager
def opened(folder: files.PathLike, identity: Mapping[str, Any]) -> Iterator[Run]:
    """Yields the run of a folder, made if absent and locked for other processes."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        yield Run(folder, identity)


def identity(
    kind: str, data: Data, preset: params.Preset, seed: int, **facts: Any
) -> dict[str, Any]:
    """Returns what distinguishes a run from others, as JSON types."""
    paths, digests = data.table.paths, data.features.digests
    parts = {part: [paths[row] for row in rows] for part, rows in data.parts.items()}
    seen = [row for part in ("train", "valid") for row in data.parts[part]]
    return {
        "kind": kind,
        "preset": preset.to_dict(),
        "seed": seed,
        **facts,
        "data": describe(data) | parts | {"seen": sorted({digests[r] for r in seen})},
        "vocabulary": list(data.table.vocabulary),
    }


def describe(data: Data) -> dict[str, Any]:
    """Returns what identifies audio, labels and division, as JSON types."""
    table, features = data.table, data.features
    return {
        "name": table.name,
        "split": data.split,
        "num_clips": len(table.paths),
        "num_labels": len(table.vocabulary),
        "labels": table.digest,
        "audio": hashlib.sha256("".join(features.digests).encode()).hexdigest(),
        "max_secs": features.max_secs,
    }


def _fixed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of an identity that resuming must not change."""
    kind, preset = record["kind"], record["preset"]
    # A cosine depends on its end.
    ends = _ENDS if preset[kind]["schedule"] == "constant" else ()
    training = {k: v for k, v in preset[kind].items() if k not in ends}
    parts = {k: preset[k] for k in ("frontend", "model")} | {kind: training}
    names = ("kind", "seed", "min_positives", "start", "data", "vocabulary")
    return {k: record[k] for k in names if k in record} | {"preset": parts}


def check_same(
    folder: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    """Raises a ValueError with the differences of two identities, if any."""
    differing = list(differences(found, wanted))[:5]
    if differing:
        raise ValueError(
            f"{folder}: holds another {what}: {'; '.join(differing)}. Give another "
            "folder, or remove this one"
        )


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yields differences of nested mappings, such as `seed is 1 there, 2 here`."""
    for key in {**found, **wanted}:
        one, other, name = found.get(key), wanted.get(key), f"{prefix}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{name}.")
        elif one != other:
            is_short = all(len(str(value)) <= 40 for value in (one, other))
            yield name + (f" is {one} there, {other} here" * is_short or " differs")


@contextlib.contextmanager
def intact(path: pathlib.Path, folder: pathlib.Path | None = None) -> Iterator[None]:
    """Turns errors in reading a damaged file into a ValueError with a remedy."""
    try:
        yield
    except _DAMAGE as error:
        remedy = f"remove {folder or path.parent} and start again"
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; raises a ValueError if it is damaged."""
    with intact(path):
        return dict(json.loads(path.read_text("utf-8")))


def read_run(run_dir: files.PathLike) -> dict[str, Any]:
    """Returns the content of run.json of a finished run.

    Raises FileNotFoundError if there is none, ValueError if the file is damaged.
    """
    folder = pathlib.Path(run_dir)
    for path in (folder / "run.json", folder / "model.keras"):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: missing, so there is no finished run in {folder}; start or "
                "resume the training that writes it"
            )
    record = read_json(folder / "run.json")
    if lacking := [name for name in _FACTS if name not in record]:
        raise ValueError(
            f"{folder / 'run.json'}: damaged (no {lacking[0]}); remove {folder} and "
            "start again"
        )
    return record


def start_facts(start: files.PathLike) -> dict[str, Any]:
    """Returns what identifies a pre-training run or an exported tagger.

    Raises FileNotFoundError if there is neither, ValueError if it is no tagger.
    """
    if exported.is_export(start):
        record = exported.read_record(start)
    else:
        record = read_run(start)
        content = (pathlib.Path(start) / "model.keras").read_bytes()
        record["model"] = hashlib.sha256(content).hexdigest()
    if record["kind"] != "pretrain":
        raise ValueError(
            f"{start}: a {record['kind']} run cannot be used with --start; give a "
            "pre-training run or an exported tagger"
        )
    names = "model", "preset", "seed", "metrics", "best_epoch"
    return {"name": record["data"]["name"]} | {name: record[name] for name in names}


def read_start(start: files.PathLike) -> keras.Model:
    """Returns the network of a pre-training run or an exported tagger."""
    return (
        exported.read_tagger(start) if exported.is_export(start) else read_model(start)
    )


def seen(start: files.PathLike) -> set[str]:
    """Returns the SHA-256 of clips that a pre-training run saw; empty if unknown."""
    return set() if exported.is_export(start) else set(read_run(start)["data"]["seen"])


def read_model(run_dir: files.PathLike) -> keras.Model:
    """Returns the model of a finished run."""
    return networks.load(pathlib.Path(run_dir) / "model.keras")


def read_familiarity(run_dir: files.PathLike) -> familiarity.Familiarity | None:
    """Returns the familiarity of a classifier; None if it has none."""
    path = familiarity_path(run_dir)
    if not path.is_file():
        return None
    with intact(path):
        return familiarity.load(path)


def familiarity_path(run_dir: files.PathLike) -> pathlib.Path:
    """Returns the place of the familiarity in a run."""
    return pathlib.Path(run_dir) / "familiarity.npz"


def read_history(run_dir: files.PathLike) -> History:
    """Returns the finished epochs of a run; raises ValueError if damaged."""
    path = pathlib.Path(run_dir) / "history.csv"
    if not path.is_file():
        return []
    with intact(path):
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        if not rows or next(iter(rows[0])) != "epoch":
            raise ValueError("no epoch")
        return [{k: float(row[k]) for k in row if k != "epoch"} for row in rows]


def columns(history: History) -> dict[str, list[float]]:
    """Returns the values of all epochs by name."""
    return {name: [row[name] for row in history] for name in history[-1]}


def best_epoch(history: History, monitor: str) -> int:
    """Returns the number (from 1) of the best epoch: the last if none was measured."""
    values = [row.get(monitor, math.nan) for row in history]
    return len(history) if np.isnan(values).all() else int(np.nanargmax(values)) + 1


def is_stable(history: History, monitor: str, training: params.Training) -> bool:
    """Whether `monitor` has gained less than `min_delta` for `patience_epochs`.

    `keras.callbacks.EarlyStopping` does not see the epochs before a restart.
    """
    best, since = -math.inf, 0
    for row in history:
        since, value = since + 1, row.get(monitor, math.nan)
        if value > best + training.min_delta:
            best, since = value, 0
    return 0 < training.patience_epochs <= since


def provenance() -> dict[str, Any]:
    """Returns command, versions, revision and time, for a new run."""
    versions = {"genre_tl": genre_tl.__version__, "python": platform.python_version()}
    return {
        "command": shlex.join(sys.argv),
        "versions": versions | {x: importlib.metadata.version(x) for x in _PACKAGES},
        "revision": revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def revision() -> str:
    """Returns git's name of the sources; outside a clone, a digest of them."""
    package = pathlib.Path(genre_tl.__file__).parent
    if (package.parent / ".git").exists():
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.check_output(command, cwd=package, text=True).strip()
    sources = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
    return f"sources-{hashlib.sha256(sources).hexdigest()[:12]}"
