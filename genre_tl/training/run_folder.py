"""One training run: its folder, its epochs, how it goes on after a stop.

A run lives in a folder:

  run.json      what was run: kind, preset, seed, data, split, command, versions;
                at the end also the metrics, how strongly the head was pulled,
                and since the last start the seconds in training steps, in
                scoring and all others
  history.csv   a row for each finished epoch
  curves.png    the same as a picture
  logs/         for TensorBoard
  checkpoints/  last and best epoch, until the run has finished
  model.keras   the model to keep; its presence says that the run has finished

Every epoch depends on the seed, its number and the weights before it alone, so a
run that was killed and started again ends like one that was not. How strongly the
head is pulled is chosen once, for the epochs that were wanted when the run began.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import genre_tl
from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import plots
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, learning

History = list[dict[str, float]]
Measure = Callable[[np.ndarray, np.ndarray], dict[str, Any]]

_MONITORS = {"pretrain": "val_macro_auc_roc", "finetune": "val_accuracy"}
_LOSSES = {"pretrain": "binary_crossentropy", "finetune": "categorical_crossentropy"}
_PACKAGES = ("tensorflow", "keras", "kymatio", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a run reads: features of a table's clips, and who is for what.

    Attributes:
      features: frames of every row of the table.
      table: paths and labels.
      train: rows to learn from; standardisation comes from them too, but for fixed
        layers that were taken over.
      valid: rows to choose the epoch by; may be empty.
      test: rows read once, when training has ended; may be empty.
      split: what to call this division in reports.
    """

    features: pipeline.Features
    table: datasets.Dataset
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    split: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a run tells what it does; each is called with plain numbers.

    Attributes:
      on_step: after a training step, or after all of an epoch where the recurrent
        layers are fixed: epoch from 1, steps done in it, steps. Epoch 0 is what comes
        before, where inner folds choose how strongly the head is pulled.
      on_epoch: after an epoch: its row of the history and its seconds.
    """

    on_step: Callable[[int, int, int], None] = lambda epoch, done, total: None
    on_epoch: Callable[[Mapping[str, float], float], None] = lambda row, secs: None


class Run:
    """One run folder, from its first epoch or from where it stopped.

    Args:
      kind: `pretrain` or `finetune`.
      run_dir: the folder; made if absent.
      data: what to learn from and to measure on.
      preset: the part named as `kind` is used, and the segment's length.
      seed: of dropout, order and excerpts.
      facts: what else tells this run from another; fit for JSON.

    Raises:
      ValueError: if the folder holds another run.
    """

    def __init__(
        self,
        kind: str,
        run_dir: str | os.PathLike[str],
        data: Data,
        preset: params.Preset,
        *,
        seed: int,
        facts: Mapping[str, Any],
    ) -> None:
        self._kind, self._data, self._seed = kind, data, seed
        self._training: params.Training = getattr(preset, kind)
        self._segment_frames = preset.frontend.segment_frames
        self._monitor = _MONITORS[kind]
        self._folder = pathlib.Path(run_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._checkpoints = self._folder / "checkpoints"
        self._record = self._open(
            {
                "kind": kind,
                "preset": preset.to_dict(),
                "seed": seed,
                **facts,
                "data": _describe(data),
                "vocabulary": list(data.table.vocabulary),
            }
        )
        self._history = read_history(self._folder)
        self._clock = fitting.Clock()

    def _open(self, identity: dict[str, Any]) -> dict[str, Any]:
        # A folder goes on with the run it was made for, and with no other. Only
        # how long it lasts may be changed on the way.
        path = self._folder / "run.json"
        if path.is_file():
            record = json.loads(path.read_text("utf-8"))
            wanted, found = (self._lasting(each) for each in (identity, record))
            if "labels" not in found["data"]:  # Runs of before it was kept.
                del wanted["data"]["labels"]
            differing = sorted(k for k in wanted if found.get(k) != wanted[k])
            if differing:
                raise ValueError(
                    f"{self._folder}: holds a run with other {', '.join(differing)}; "
                    "give another --run_dir, or remove this folder"
                )
            return record if self._has_finished() else record | identity
        record = identity | {
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "revision": revision(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(path, record)
        return record

    def _lasting(self, record: Mapping[str, Any]) -> dict[str, Any]:
        # What a run cannot change on its way; the other training is no part of it.
        ends = ("max_epochs", "patience_epochs", "min_delta")
        whole = params.Preset.from_dict(record["preset"]).to_dict()
        preset = {k: whole[k] for k in ("frontend", "model", self._kind)}
        preset[self._kind] = {
            k: value for k, value in preset[self._kind].items() if k not in ends
        }
        return dict(record) | {"preset": preset, "data": dict(record["data"])}

    def _has_finished(self) -> bool:
        return (self._folder / "model.keras").is_file()

    def train(
        self,
        new_network: Callable[[], keras.Model],
        measure: Measure,
        progress: Progress | None,
    ) -> dict[str, Any]:
        """Trains until the run has ended, and returns what `run.json` holds.

        Args:
          new_network: makes the model to begin with.
          measure: labels and scores, both `[clips, labels]`, to figures.
          progress: whom to tell.
        """
        if self._has_finished():
            return self._record
        progress = progress or Progress()
        self._checkpoints.mkdir(exist_ok=True)
        network = learning.compiled(new_network(), self._training, _LOSSES[self._kind])
        if self._history:
            learning.restore_state(network, self._checkpoint(len(self._history)))
        fitter = self._fitter(network)
        if not self._history:
            fitter.choose_pull(
                self._data.train,
                self._data.table,
                seed=self._seed,
                on_epoch=functools.partial(progress.on_step, 0),
            )
        with tf.summary.create_file_writer(str(self._folder / "logs")).as_default():
            while not self._has_ended():
                start = time.monotonic()
                row = self._epoch(fitter, measure, progress)
                self._commit(network, row)
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=len(self._history))
                progress.on_epoch(row, time.monotonic() - start)
        return self._finish(network, fitter, measure)

    def _fitter(self, network: keras.Model) -> fitting.Fitter:
        return fitting.Fitter(
            network,
            self._data.features,
            self._data.table.labels,
            self._training,
            segment_frames=self._segment_frames,
            clock=self._clock,
        )

    def _checkpoint(self, epoch: int) -> pathlib.Path:
        return self._checkpoints / f"epoch-{epoch:04d}.npz"

    def _has_ended(self) -> bool:
        return len(self._history) >= self._training.max_epochs or is_stable(
            self._history,
            self._monitor,
            patience_epochs=self._training.patience_epochs,
            min_delta=self._training.min_delta,
        )

    def _epoch(
        self,
        fitter: fitting.Fitter,
        measure: Measure,
        progress: Progress,
    ) -> dict[str, float]:
        number = len(self._history) + 1
        try:
            row = fitter.epoch(
                self._data.train,
                seed=self._seed,
                number=number,
                on_step=functools.partial(progress.on_step, number),
            )
        except ValueError as error:
            raise ValueError(f"{self._folder}: {error}") from error
        row = {"epoch": float(number)} | row
        if self._kind == "pretrain":
            del row["accuracy"]  # Of tags it says nothing.
        if len(self._data.valid):
            row |= self._validate(fitter, measure)
        return row

    def _validate(self, fitter: fitting.Fitter, measure: Measure) -> dict[str, float]:
        labels = self._data.table.labels[self._data.valid]
        scores = fitter.predict(self._data.valid)
        losses = keras.losses.get(_LOSSES[self._kind])(
            labels.astype(np.float32), scores
        )
        row = {"val_loss": float(np.mean(losses))}
        figures = measure(labels, scores)
        return row | {
            f"val_{name}": value
            for name, value in figures.items()
            if isinstance(value, float)
        }

    def _commit(self, network: keras.Model, row: dict[str, float]) -> None:
        # The history is what says that an epoch is done, so it is written last.
        epoch = len(self._history) + 1
        learning.save_state(network, self._checkpoint(epoch))
        self._history.append(row)
        files.write_text(self._folder / "history.csv", _to_csv(self._history))
        kept = {epoch, best_epoch(self._history, self._monitor)}
        for path in self._checkpoints.glob("epoch-*.npz"):
            if path not in map(self._checkpoint, kept):
                path.unlink()

    def _finish(
        self, network: keras.Model, fitter: fitting.Fitter, measure: Measure
    ) -> dict[str, Any]:
        epoch = best_epoch(self._history, self._monitor)
        # Layers that are fixed are the same in each, and so is what they gave.
        learning.restore_state(network, self._checkpoint(epoch))
        columns = {name: [r[name] for r in self._history] for name in self._history[0]}
        plots.learning_curves(
            columns, self._folder / "curves.png", title=self._folder.name
        )
        self._record |= {"epochs": len(self._history), "best_epoch": epoch}
        if self._kind == "finetune":
            self._record["head_pull"] = learning.head_pull(network)
        self._record["metrics"] = {
            part: measure(self._data.table.labels[rows], fitter.predict(rows))
            for part, rows in (("valid", self._data.valid), ("test", self._data.test))
            if len(rows)
        }
        self._record["time"] = self._clock.to_dict()
        write_json(self._folder / "run.json", self._record)
        networks.save(networks.uncompiled(network), self._folder / "model.keras")
        for path in self._checkpoints.iterdir():
            path.unlink()
        self._checkpoints.rmdir()
        return self._record


def read_run(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `run.json` of a finished run holds.

    Raises:
      FileNotFoundError: if there is no run, or it has not finished.
      ValueError: if the file is damaged.
    """
    folder = pathlib.Path(run_dir)
    for name in ("run.json", "model.keras"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: missing, so there is no finished run in {folder}; "
                "start or resume the training that writes it"
            )
    try:
        return json.loads((folder / "run.json").read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'run.json'}: damaged: {error}") from error


def best_epoch(history: History, monitor: str) -> int:
    """Returns the number (from 1) of the epoch to keep.

    The first of the highest values of `monitor`; the last epoch where it was not
    measured.
    """
    values = [row.get(monitor, float("nan")) for row in history]
    if np.isnan(values).all():
        return len(history)
    return int(np.nanargmax(values)) + 1


def is_stable(
    history: History, monitor: str, *, patience_epochs: int, min_delta: float
) -> bool:
    """Whether `monitor` has gained less than `min_delta` for `patience_epochs`."""
    best, since = -np.inf, 0
    for row in history:
        value = row.get(monitor, float("nan"))
        since = 0 if value > best + min_delta else since + 1
        best = max(best, value) if since == 0 else best
    return 0 < patience_epochs <= since


def _describe(data: Data) -> dict[str, Any]:
    paths = data.table.paths
    labels = hashlib.sha256(np.packbits(data.table.labels > 0).tobytes())
    return {
        "name": data.table.name,
        "split": data.split,
        "num_clips": len(paths),
        "num_labels": len(data.table.vocabulary),
        "labels": labels.hexdigest(),
        "train": [paths[row] for row in data.train],
        "valid": [paths[row] for row in data.valid],
        "test": [paths[row] for row in data.test],
    }


def versions() -> dict[str, str]:
    """Returns the versions of this package and those that its results hang on."""
    versions = {"genre_tl": genre_tl.__version__, "python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in _PACKAGES}


def revision() -> str:
    """Returns git's name of the sources; empty where they were installed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def read_history(run_dir: str | os.PathLike[str]) -> History:
    """Returns the finished epochs of a run, none if there are none."""
    path = pathlib.Path(run_dir) / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _to_csv(history: Sequence[Mapping[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    files.write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
