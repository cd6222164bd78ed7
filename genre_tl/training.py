"""Training runs: pre-train a tagger, fine-tune a classifier, resume either.

A run lives in a folder:

  run.json      what was run: kind, preset, seed, data, split, command, versions;
                at the end also the metrics
  history.csv   a row for each finished epoch
  curves.png    the same as a picture
  logs/         for TensorBoard
  checkpoints/  last and best epoch, until the run has finished
  model.keras   the model to keep; its presence says that the run has finished

Every epoch depends on the seed, its number and the weights before it alone, so a
run that was killed and started again ends like one that was not.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import genre_tl
from genre_tl import datasets, evaluation, input_pipeline, models, params, plots

History = list[dict[str, float]]

_MONITORS = {"pretrain": "val_macro_auc_roc", "finetune": "val_accuracy"}
_PACKAGES = ("tensorflow", "keras", "kymatio", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a run reads: features of a table's clips, and who is for what.

    Attributes:
      features: frames of every row of the table.
      table: paths and labels.
      train: rows to learn from; standardisation comes from them too.
      valid: rows to choose the epoch by; may be empty.
      test: rows read once, when training has ended; may be empty.
      split: what to call this division in reports.
    """

    features: input_pipeline.Features
    table: datasets.Dataset
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    split: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a run tells what it does; each is called with plain numbers.

    Attributes:
      on_step: after a training step: epoch from 1, steps done in it, steps.
      on_epoch: after an epoch: its row of the history and its seconds.
    """

    on_step: Callable[[int, int, int], None] = lambda epoch, done, total: None
    on_epoch: Callable[[Mapping[str, float], float], None] = lambda row, secs: None


def pretrain(
    run_dir: str | os.PathLike[str],
    data: Data,
    preset: params.Preset,
    *,
    seed: int = 0,
    min_positives: int = 5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a tagger until the validation AUC-ROC is stable, or goes on with it.

    Args:
      run_dir: the run's folder; made if absent.
      data: of a multi-label table, with validation rows.
      preset: frontend, model and `pretrain` are used.
      seed: of weights, dropout, order and excerpts.
      min_positives: validation clips a tag needs to count in the metrics.
      progress: whom to tell.

    Returns:
      What `run.json` holds.

    Raises:
      ValueError: if the folder holds another run or the data does not suit.
    """
    if not data.table.multi_label:
        raise ValueError(f"{data.table.root}: pre-training takes tags, not genres")
    if not len(data.valid):
        raise ValueError("pre-training stops by its validation clips, and got none")

    def new_network() -> keras.Sequential:
        num_tags = len(data.table.vocabulary)
        network = models.tagger(
            preset.model, data.features.frames.shape[1], num_tags, seed=seed
        )
        return _standardized(network, data)

    def measure(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return evaluation.tagging_metrics(
            labels, scores, min_positives=min_positives
        ).to_dict()

    run = _Run("pretrain", run_dir, data, preset, seed, {"min_positives": min_positives})
    return run.train(new_network, "binary_crossentropy", measure, progress)


def finetune(
    run_dir: str | os.PathLike[str],
    data: Data,
    preset: params.Preset,
    *,
    start: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a genre classifier, or goes on with it.

    Standardisation is estimated anew on the training clips: a source collection
    seldom sounds like the target.

    Args:
      run_dir: the run's folder; made if absent.
      data: of a single-label table. With validation rows the best epoch is
        kept, without them the last; test rows are read once, at the end.
      preset: frontend, model and `finetune` are used.
      start: a finished pre-training run to take the backbone from; None starts
        from random weights.
      seed: of weights, dropout, order and excerpts.
      progress: whom to tell.

    Returns:
      What `run.json` holds.

    Raises:
      ValueError: if the folder holds another run or the data does not suit.
      FileNotFoundError: if `start` has not finished.
    """
    if data.table.multi_label:
        raise ValueError(f"{data.table.root}: fine-tuning takes genres, not tags")
    if start is not None:
        _check_start(pathlib.Path(start), preset)

    def new_network() -> keras.Sequential:
        num_genres = len(data.table.vocabulary)
        if start is None:
            network = models.classifier(
                preset.model, data.features.frames.shape[1], num_genres, seed=seed
            )
        else:
            tagger = models.load(pathlib.Path(start) / "model.keras")
            network = models.swap_head(tagger, num_genres, seed=seed)
        return _standardized(network, data)

    def measure(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return evaluation.genre_metrics(
            labels.argmax(axis=1), scores, data.table.vocabulary
        ).to_dict()

    facts = {"start": None if start is None else _fingerprint(pathlib.Path(start))}
    run = _Run("finetune", run_dir, data, preset, seed, facts)
    return run.train(new_network, "categorical_crossentropy", measure, progress)


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


def predict(
    network: keras.Sequential,
    features: input_pipeline.Features,
    rows: np.ndarray,
    *,
    segment_frames: int,
    batch_size: int = 32,
) -> np.ndarray:
    """Scores clips, each the mean over its segments.

    Args:
      network: a tagger or classifier.
      features: where the clips are.
      rows: which clips.
      segment_frames: frames the network sees at once.
      batch_size: segments at once.

    Returns:
      float32 `[rows, labels]`.
    """
    batches, segments = input_pipeline.evaluation_batches(
        features, rows, batch_size=batch_size, segment_frames=segment_frames
    )
    return input_pipeline.mean_scores(network.predict(batches, verbose=0), segments)


def evaluate(
    run_dir: str | os.PathLike[str],
    features: input_pipeline.Features,
    table: datasets.Dataset,
    rows: np.ndarray,
) -> evaluation.GenreMetrics:
    """Measures a finished classifier on clips of any genre collection.

    Args:
      run_dir: of a fine-tuning run.
      features: of the table's rows.
      table: its genres must be among those the classifier knows.
      rows: which clips.

    Raises:
      ValueError: if the run is no classifier, does not know a genre, or there is
        no clip.
      FileNotFoundError: if the run has not finished.
    """
    record = read_run(run_dir)
    if record["kind"] != "finetune":
        raise ValueError(f"{run_dir}: a {record['kind']} run, not a genre classifier")
    known = record["vocabulary"]
    unknown = sorted(set(table.vocabulary) - set(known))
    if unknown:
        raise ValueError(
            f"{table.root}: {run_dir} knows {', '.join(known)}, but not "
            f"{', '.join(unknown)}: rename these folders, or take them out"
        )
    preset = params.Preset.from_dict(record["preset"])
    network = models.load(pathlib.Path(run_dir) / "model.keras")
    scores = predict(
        network, features, rows, segment_frames=preset.frontend.segment_frames
    )
    classes = np.array([known.index(genre) for genre in table.vocabulary])
    return evaluation.genre_metrics(classes[table.classes[rows]], scores, known)


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


class _Run:
    """One run folder, from its first epoch or from where it stopped."""

    def __init__(
        self,
        kind: str,
        run_dir: str | os.PathLike[str],
        data: Data,
        preset: params.Preset,
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
        self._history = _read_history(self._folder / "history.csv")

    def _open(self, identity: dict[str, Any]) -> dict[str, Any]:
        # A folder goes on with the run it was made for, and with no other.
        path = self._folder / "run.json"
        if path.is_file():
            record = json.loads(path.read_text("utf-8"))
            differing = sorted(k for k in identity if record.get(k) != identity[k])
            if differing:
                raise ValueError(
                    f"{self._folder}: holds a run with other {', '.join(differing)}; "
                    "give another --run_dir, or remove this folder"
                )
            return record
        record = identity | {
            "command": " ".join(sys.argv),
            "versions": _versions(),
            "revision": _revision(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        _write_json(path, record)
        return record

    def train(
        self,
        new_network: Callable[[], keras.Sequential],
        loss: str,
        measure: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
        progress: Progress | None,
    ) -> dict[str, Any]:
        if (self._folder / "model.keras").is_file():
            return self._record
        progress = progress or Progress()
        self._checkpoints.mkdir(exist_ok=True)
        network = self._restore() or self._compile(new_network(), loss)
        with tf.summary.create_file_writer(str(self._folder / "logs")).as_default():
            while not self._has_ended():
                start = time.monotonic()
                row = self._epoch(network, loss, measure, progress)
                self._commit(network, row)
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=len(self._history))
                progress.on_epoch(row, time.monotonic() - start)
        return self._finish(measure)

    def _compile(self, network: keras.Sequential, loss: str) -> keras.Sequential:
        optimizer = keras.optimizers.Adam(
            self._training.learning_rate,
            global_clipnorm=self._training.clip_norm or None,
        )
        # XLA compiles the unrolled recurrence for longer than it then saves.
        network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
        return network

    def _restore(self) -> keras.Sequential | None:
        if not self._history:
            return None
        return models.load(self._checkpoint(len(self._history)), compiled=True)

    def _checkpoint(self, epoch: int) -> pathlib.Path:
        return self._checkpoints / f"epoch-{epoch:04d}.keras"

    def _has_ended(self) -> bool:
        return len(self._history) >= self._training.max_epochs or is_stable(
            self._history,
            self._monitor,
            patience_epochs=self._training.patience_epochs,
            min_delta=self._training.min_delta,
        )

    def _epoch(
        self,
        network: keras.Sequential,
        loss: str,
        measure: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
        progress: Progress,
    ) -> dict[str, float]:
        epoch = len(self._history) + 1
        models.reseed(network, _mix(self._seed, epoch))
        batches = input_pipeline.training_batches(
            self._data.features,
            self._data.table.labels,
            self._data.train,
            batch_size=self._training.batch_size,
            segment_frames=self._segment_frames,
            crop_frames=self._training.crop_frames,
            seed=self._seed,
            epoch=epoch,
        )
        num_steps = int(batches.cardinality())
        told = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: progress.on_step(
                epoch, step + 1, num_steps
            )
        )
        logs = network.fit(batches, verbose=0, shuffle=False, callbacks=[told]).history
        row = {"epoch": float(epoch), "loss": logs["loss"][-1]}
        if self._kind == "finetune":
            row["accuracy"] = logs["accuracy"][-1]
        if not np.isfinite(row["loss"]):
            raise ValueError(
                f"{self._folder}: the loss of epoch {epoch} is {row['loss']}: lower "
                "--learning_rate, in another --run_dir"
            )
        if len(self._data.valid):
            row |= self._validate(network, loss, measure)
        return row

    def _validate(
        self,
        network: keras.Sequential,
        loss: str,
        measure: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
    ) -> dict[str, float]:
        labels, scores = self._scores(network, self._data.valid)
        losses = keras.losses.get(loss)(labels.astype(np.float32), scores)
        row = {"val_loss": float(np.mean(losses))}
        figures = measure(labels, scores)
        return row | {
            f"val_{name}": value
            for name, value in figures.items()
            if isinstance(value, float)
        }

    def _scores(
        self, network: keras.Sequential, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # Labels and scores, both [rows, labels].
        scores = predict(
            network, self._data.features, rows, segment_frames=self._segment_frames
        )
        return self._data.table.labels[rows], scores

    def _commit(self, network: keras.Sequential, row: dict[str, float]) -> None:
        # The history is what says that an epoch is done, so it is written last.
        epoch = len(self._history) + 1
        models.save(network, self._checkpoint(epoch))
        self._history.append(row)
        _write_text(self._folder / "history.csv", _to_csv(self._history))
        kept = {epoch, best_epoch(self._history, self._monitor)}
        for path in self._checkpoints.glob("epoch-*.keras"):
            if path not in map(self._checkpoint, kept):
                path.unlink()

    def _finish(
        self, measure: Callable[[np.ndarray, np.ndarray], dict[str, Any]]
    ) -> dict[str, Any]:
        epoch = best_epoch(self._history, self._monitor)
        network = models.load(self._checkpoint(epoch))
        columns = {name: [r[name] for r in self._history] for name in self._history[0]}
        plots.learning_curves(
            columns, self._folder / "curves.png", title=self._folder.name
        )
        self._record |= {"epochs": len(self._history), "best_epoch": epoch}
        self._record["metrics"] = {
            part: measure(*self._scores(network, rows))
            for part, rows in (("valid", self._data.valid), ("test", self._data.test))
            if len(rows)
        }
        _write_json(self._folder / "run.json", self._record)
        models.save(network, self._folder / "model.keras")
        for path in self._checkpoints.iterdir():
            path.unlink()
        self._checkpoints.rmdir()
        return self._record


def _standardized(network: keras.Sequential, data: Data) -> keras.Sequential:
    mean, variance = input_pipeline.frame_statistics(data.features, data.train)
    network.get_layer("standardize").set_statistics(mean, variance)
    return network


def _check_start(start: pathlib.Path, preset: params.Preset) -> None:
    record = read_run(start)
    if record["kind"] != "pretrain":
        raise ValueError(f"{start}: a {record['kind']} run; give a pre-training run")
    theirs = params.Preset.from_dict(record["preset"])
    for part in ("frontend", "model"):
        if getattr(theirs, part) != getattr(preset, part):
            raise ValueError(
                f"{start}: was trained with {getattr(theirs, part)}, which is not "
                f"{getattr(preset, part)}: give the --preset and flags of that run"
            )


def _fingerprint(start: pathlib.Path) -> dict[str, Any]:
    record = read_run(start)
    return {k: record[k] for k in ("kind", "seed", "data", "metrics", "best_epoch")}


def _describe(data: Data) -> dict[str, Any]:
    paths = data.table.paths
    return {
        "name": data.table.name,
        "split": data.split,
        "num_clips": len(paths),
        "num_labels": len(data.table.vocabulary),
        "train": [paths[row] for row in data.train],
        "valid": [paths[row] for row in data.valid],
        "test": [paths[row] for row in data.test],
    }


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _versions() -> dict[str, str]:
    versions = {"genre_tl": genre_tl.__version__, "python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _revision() -> str:
    # Empty when the package was installed rather than checked out.
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read_history(path: pathlib.Path) -> History:
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


def _write_json(path: pathlib.Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write_text(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
