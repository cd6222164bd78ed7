"""Cross-validation: transfer, random initialisation and an SVM on the same folds.

settings.json  collection, folds, preset, start, versions
folds/         a file for each finished fold of a model

The result of a fold depends only on the settings, its repeat and its number. So a
killed run resumes with the folds that have no file, and several processes share them.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from sklearn import preprocessing, svm
from sklearn.pipeline import make_pipeline

from genre_tl import files, params, storage, workers
from genre_tl.evaluation import calibration
from genre_tl.features import pipeline
from genre_tl.model import transfer
from genre_tl.training import finetune, fitting, fold_plan, run_folder

_OPEN = ("num_repeats", "models", "start")  # may change on resuming
_LEAST_SCORE = 1e-30  # has a logarithm

# Scores of the segments of test clips, the segments, and what else is to be kept.
_Scored = tuple[np.ndarray, pipeline.Segments, dict[str, Any]]
_FOLDS = "folds"
_POLL_SECS = 1.0  # between looks at folds that other processes train


class Record:
    """The existing folder of a cross-validation: `settings`, and `lines` of folds.

    The JSON-serializable settings must be those of an earlier call, except for the
    number of repeats, and `start`, which a call without transfer leaves open.

    Raises:
      ValueError: if the folder holds another cross-validation, or is damaged.
    """

    def __init__(self, folder: files.PathLike, settings: Mapping[str, Any]) -> None:
        self.folder = pathlib.Path(folder)
        path = self.folder / "settings.json"
        if path.is_file():
            found = run_folder.read_json(path)
            with run_folder.intact(path):
                there = found["start"]
            start = settings["start"] or there
            wanted = {**settings, "start": there and start}
            fixed = {key: found.get(key) for key in wanted}
            run_folder.check_same(self.folder, fixed, wanted, "cross-validation")
            self.settings = found | {"start": start}
        else:
            self.settings = {**settings, **run_folder.provenance()}
        files.write_json(path, self.settings)
        (self.folder / _FOLDS).mkdir(exist_ok=True)
        self.reload()

    def reload(self) -> None:
        """Reads the folds that have finished."""
        storage.pull(self.folder / _FOLDS)
        paths = sorted((self.folder / _FOLDS).glob("*.json"))
        self.lines = [_read_line(path) for path in paths]

    def has(self, model: str, fold: fold_plan.Fold) -> bool:
        """Whether a fold has finished; ValueError if so, but with other test clips."""
        place = fold.repeat, fold.number
        lines = [x for x in self.lines if (x["repeat"], x["fold"]) == place]
        if any(line["test"] != fold.test.tolist() for line in lines):
            version = self.settings["versions"]["scikit-learn"]
            raise ValueError(
                f"{self.folder}: fold {fold.number} of repeat {fold.repeat} has other "
                f"test clips, divided by scikit-learn {version}: install that version, "
                "or give another --output_dir"
            )
        return any(line["model"] == model for line in lines)


def _read_line(path: pathlib.Path) -> dict[str, Any]:
    line = run_folder.read_json(path)
    with run_folder.intact(path, path):
        for name in ("model", "repeat", "fold", "test", "predicted"):
            line[name]
    return line


def cross_validate(
    folder: files.PathLike,
    data: run_folder.Data,
    preset: params.Preset,
    plan: fold_plan.Plan,
    *,
    on_fold: Callable[[Mapping[str, Any], int, int], None] = lambda *_: None,
    executor: workers.Executor | None = None,
) -> Record:
    """Runs all folds of all models that have not been run.

    Settings and results are written to `folder`, made if absent. The data's parts, if
    any, are used instead of folds. `on_fold` is called with the line of a fold and the
    numbers of finished folds and of all. `executor` trains the folds, by default in
    this process. Several processes may share a folder.

    Raises:
      ValueError: if the folder holds another cross-validation, the data does not suit,
        or a fold ended its process each time.
      FileNotFoundError: if the pre-training run has not finished.
    """
    folds = fold_plan.divide(data.table, plan, data.parts)
    settings = _settings(data, preset, plan)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with files.lock(folder, wait=True):
        record = Record(folder, settings)
    work = [Unit(model, fold) for fold in folds for model in plan.models]
    due = [unit for unit in work if not record.has(unit.model, unit.fold)]
    runner = _Runner(record.folder / _FOLDS, data, preset, plan)
    died = []
    for done, (name, line) in enumerate(
        _results(runner, due, executor or workers.Here()), len(work) - len(due) + 1
    ):
        if isinstance(line, workers.Died):
            died.append(f"{name}: {line.reason}")
        else:
            on_fold(line, done, len(work))
    if died:
        raise ValueError(f"{record.folder}: folds failed: {'; '.join(died)}")
    record.reload()
    return record


def _results(
    runner: _Runner, due: Sequence[Unit], executor: workers.Executor
) -> Iterator[tuple[str, Any]]:
    """Yields name and line of each unit as it ends, whoever has run it."""
    while due:
        held = []  # by other processes
        for place, line in executor.run(runner.run, due):
            if line is None:
                held.append(due[place])
            else:
                yield due[place].name, line
        if len(held) == len(due):
            time.sleep(_POLL_SECS)
        due = held


def _settings(
    data: run_folder.Data, preset: params.Preset, plan: fold_plan.Plan
) -> dict[str, Any]:
    table, parts, start = data.table, preset.to_dict(), None
    if plan.start is not None:
        start = finetune.describe_start(plan.start, preset)
        start["num_seen"] = num_seen(plan.start, data.features.digests)
    rows = {"paths": list(table.paths), "groups": list(table.groups)}
    rows["classes"] = table.classes.tolist()
    return {
        "plan": {k: v for k, v in vars(plan).items() if k not in _OPEN},
        "preset": {part: parts[part] for part in ("frontend", "model", "finetune")},
        "start": start,
        "data": run_folder.describe(data) | rows,
        "vocabulary": list(table.vocabulary),
    }


def num_seen(start: files.PathLike, digests: Sequence[str]) -> int:
    """Returns how many clips, given by SHA-256, a pre-training run has seen."""
    seen = run_folder.seen(start)
    return sum(digest in seen for digest in digests)


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One fold of one model."""

    model: str
    fold: fold_plan.Fold

    @property
    def name(self) -> str:
        """Name of its file; in the order of repeats, folds and models."""
        fold, model = self.fold, fold_plan.MODELS.index(self.model)
        return f"{fold.repeat:04d}-{fold.number:04d}-{model}-{self.model}"


class _Runner:
    """Runs folds and writes their lines; may be sent to another process."""

    def __init__(
        self,
        folder: pathlib.Path,
        data: run_folder.Data,
        preset: params.Preset,
        plan: fold_plan.Plan,
    ) -> None:
        self._folder, self._arguments = folder, (data, preset, plan)

    @functools.cached_property
    def _trainer(self) -> _Trainer:
        return _Trainer(*self._arguments)

    def run(self, unit: Unit) -> dict[str, Any] | None:
        """Returns the line of a fold; None if another process is running it."""
        path = self._folder / f"{unit.name}.json"
        with files.leased(path) as is_mine:
            if not is_mine:
                return None
            storage.pull(path)
            if not path.exists():
                files.write_json(path, self._trainer.run(unit.model, unit.fold))
        return run_folder.read_json(path)


class _Trainer:
    """Trains and tests one fold after another, with graphs that are traced once."""

    def __init__(
        self, data: run_folder.Data, preset: params.Preset, plan: fold_plan.Plan
    ) -> None:
        self._data, self._curves = data, plan.curves
        self._source = run_folder.read_start(plan.start) if plan.start else None
        self._presets = {model: _preset(preset, model) for model in plan.models}
        self._networks: dict[str, fitting.WholeNetwork] = {}

    def run(self, model: str, fold: fold_plan.Fold) -> dict[str, Any]:
        """Returns the line of a fold."""
        begin = time.monotonic()
        if model == "svm":
            predicted, found = self._svm(fold), dict[str, Any]()
        else:
            scores, segments, found = self._train(model, fold)
            predicted = pipeline.mean_scores(scores, segments).argmax(axis=1)
            found |= _out_of_fold(scores, segments)
        truth = self._data.table.classes[fold.test]
        return {
            "model": model,
            "repeat": fold.repeat,
            "fold": fold.number,
            "num_train": len(fold.train),
            "accuracy": float(np.mean(predicted == truth)),
            "test": fold.test.tolist(),
            "predicted": predicted.tolist(),
            **found,
            "secs": round(time.monotonic() - begin, 3),
        }

    def _svm(self, fold: fold_plan.Fold) -> np.ndarray:
        # Usual parameters, not chosen by any fold.
        machine = make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=10))
        means = self._clip_means
        machine.fit(means[fold.train], self._data.table.classes[fold.train])
        return machine.predict(means[fold.test])

    @functools.cached_property
    def _clip_means(self) -> np.ndarray:
        features, rows = self._data.features, range(len(self._data.table))
        return np.stack([pipeline.frame_statistics(features, [r])[0] for r in rows])

    @functools.cached_property
    def _frozen(self) -> fitting.FrozenBackbone:
        return fitting.FrozenBackbone(transfer.backbone(self._source), self._data)

    def _train(self, model: str, fold: fold_plan.Fold) -> _Scored:
        preset = self._presets[model]
        recipe, head = preset.finetune, None
        if model != "random" and (recipe.method != "finetune" or recipe.fit_head):
            head = self._frozen.fit(fold.train, kernel=recipe.method == "kernel")
        if head and recipe.method != "finetune":
            return *self._frozen.segment_scores(head, fold.test), {}
        if model == "random":
            arguments = self._data, preset, fold.train, fold.seed
            network = finetune.untrained(*arguments)
        elif head:
            backbone = transfer.backbone(self._source, seed=fold.seed)
            network = transfer.with_head(backbone, head)
        else:
            network = finetune.with_random_head(
                self._data, self._source, preset, fold.seed
            )
        return self._fit(model, fold, network)

    def _fit(self, model: str, fold: fold_plan.Fold, network: keras.Model) -> _Scored:
        """Trains the whole network; folds of a model share a graph."""
        recipe = self._presets[model].finetune
        if model not in self._networks:
            self._networks[model] = fitting.WholeNetwork(network, self._data, recipe)
        stage = self._networks[model]
        stage.begin(fold.train, fold.seed, network)
        tested = fold.test if self._curves else fold.test[:0]
        callbacks = [
            *fitting.validation(stage, fold.valid, _accuracy),
            *fitting.validation(stage, tested, _accuracy, "test"),
        ]
        history, kept = fitting.fit_best(
            stage, recipe.max_epochs, callbacks, valid=len(fold.valid) > 0
        )
        found = {"epoch": kept, "history": run_folder.columns(history)}
        return *stage.segment_scores(fold.test), found


def _out_of_fold(scores: np.ndarray, segments: pipeline.Segments) -> dict[str, Any]:
    """Returns what `out_of_fold` reads: scores of all segments, and their clips."""
    logarithms = np.log(np.maximum(scores.astype(np.float64), _LEAST_SCORE))
    return {
        "log_scores": logarithms.round(4).tolist(),
        "segments": [segments.clips.tolist(), segments.frames.tolist()],
    }


def out_of_fold(
    record: Record, lines: Sequence[Mapping[str, Any]]
) -> calibration.OutOfFold:
    """Returns the scores of the test clips of lines that have some, joined."""
    classes, first = np.array(record.settings["data"]["classes"]), 0
    clips: list[np.ndarray] = []
    for line in lines:
        clips.append(first + np.array(line["segments"][0]))
        first += len(line["test"])
    return calibration.OutOfFold(
        np.concatenate([line["log_scores"] for line in lines]),
        np.concatenate(clips),
        np.concatenate([line["segments"][1] for line in lines]),
        classes[np.concatenate([line["test"] for line in lines])],
    )


def _preset(preset: params.Preset, model: str) -> params.Preset:
    """Returns the preset whose fine-tuning trains one of `MODELS`."""
    recipe = preset.finetune
    if model in params.METHODS:
        recipe = dataclasses.replace(recipe, method=model)
    elif model == "random":
        recipe = finetune.from_scratch(recipe)
    return dataclasses.replace(preset, finetune=recipe)


def _accuracy(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.mean(labels.argmax(axis=1) == scores.argmax(axis=1)))}
