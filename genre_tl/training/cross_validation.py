"""Cross-validation: transfer, random initialisation and an SVM on the same folds.

settings.json  collection, folds, preset, start, versions
folds.jsonl    a line for each finished fold

The result of a fold depends only on the settings, its repeat and its number, so a
killed run resumes with the folds that have no line.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from sklearn import preprocessing, svm
from sklearn.pipeline import make_pipeline

from genre_tl import files, params
from genre_tl.data import datasets, splits
from genre_tl.evaluation import calibration
from genre_tl.features import pipeline
from genre_tl.model import transfer
from genre_tl.training import finetune, fitting, run_folder

MODELS = ("transfer", *params.METHODS, "random", "svm")
"""`transfer` trains as the preset says; `kernel`, `probe` and `finetune` by the method
of this name; `random` a network from random weights; `svm` is on mean frames."""

_NEED_START = {"transfer", *params.METHODS}
_INNER_FOLDS = 5
_OPEN = ("num_repeats", "models", "start")  # may change on resuming
_LEAST_SCORE = 1e-30  # has a logarithm

# Scores of the segments of test clips, the segments, and what else is to be kept.
_Scored = tuple[np.ndarray, pipeline.Segments, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Folds, and the models that are compared on them."""

    num_folds: int = 10  # of a repeat; each clip is tested in one
    num_repeats: int = 10  # divisions into folds; may grow later
    seed: int = 0  # of folds, weights and excerpts
    protocol: str = "paper"
    """`paper` trains for a fixed number of epochs. `strict` keeps the best epoch on a
    fifth of the training clips, held out for that (more where a genre has fewer than
    five groups). Test clips are scored once, at the end."""
    clips_per_genre: int = 0  # most training clips of a genre; 0 takes all
    curves: bool = False  # also score test clips after each epoch, only to plot them
    models: tuple[str, ...] = ("random",)  # of `MODELS`; they take turns, fold by fold
    start: files.PathLike | None = None  # tagger, for all models but `random` and `svm`

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "strict"):
            raise ValueError(f"protocol={self.protocol!r}: choose 'paper' or 'strict'")
        if set(self.models) - set(MODELS) or not self.models:
            raise ValueError(f"models={self.models}: choose from {', '.join(MODELS)}")
        if _NEED_START.isdisjoint(self.models) != (self.start is None):
            raise ValueError(
                "--model=random and --model=svm have no use for --start, a pre-trained "
                "tagger; the others need it"
            )
        for name, least in (("num_repeats", 1), ("clips_per_genre", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= {least}")


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """Rows to train on, to choose the epoch by (or none), and to test on."""

    repeat: int
    number: int
    seed: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def divide(
    table: datasets.Dataset, plan: Plan, parts: run_folder.Parts | None = None
) -> list[Fold]:
    """Returns all folds of all repeats; groups of clips stay together.

    With `parts`, a published split, there is one fold, and repeats differ in the seed.
    Raises a ValueError if the table does not have enough clips.
    """
    folds = []
    for repeat in range(plan.num_repeats):
        seed = _mix(plan.seed, repeat)
        tests = [parts["test"]] if parts else splits.folds(table, plan.num_folds, seed)
        for number, test in enumerate(tests):
            seed = _mix(plan.seed, repeat, number)
            train, valid = _training_rows(table, plan, test, seed, parts)
            folds.append(Fold(repeat, number, seed, train, valid, test))
    return folds


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _training_rows(
    table: datasets.Dataset,
    plan: Plan,
    test: np.ndarray,
    seed: int,
    parts: run_folder.Parts | None,
) -> tuple[np.ndarray, np.ndarray]:
    train = parts["train"] if parts else np.setdiff1d(np.arange(len(table)), test)
    valid = test[:0]
    if parts and plan.protocol == "strict":
        valid = parts["valid"]
    elif plan.protocol == "strict":
        fewest = min(splits.groups_by_genre(inner := table.select(train)))
        if fewest < 2:
            raise ValueError(
                f"{table.root}: --protocol=strict needs two groups of training clips "
                "of each genre, and one has a single one: use more folds or "
                "--protocol=paper"
            )
        held = splits.folds(inner, min(_INNER_FOLDS, fewest), seed)[0]
        valid, train = train[held], np.delete(train, held)
    if plan.clips_per_genre:
        shuffled = np.random.default_rng(seed).permutation(train)
        classes = table.classes[shuffled]
        some = [shuffled[classes == c][: plan.clips_per_genre] for c in set(classes)]
        train = np.sort(np.concatenate(some))
    return train, valid


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
        self.lines = self._read()

    def _read(self) -> list[dict[str, Any]]:
        path = self.folder / "folds.jsonl"
        if not path.is_file():
            return []
        with run_folder.intact(path):
            whole, newline, torn = path.read_text("utf-8").rpartition("\n")
        if torn:  # The writer was killed.
            os.truncate(path, len((whole + newline).encode()))
        with run_folder.intact(path):
            return [dict(json.loads(line)) for line in whole.splitlines()]

    def has(self, model: str, fold: Fold) -> bool:
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

    def add(self, line: dict[str, Any]) -> None:
        """Appends a finished fold, flushed to the disk."""
        with (self.folder / "folds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def cross_validate(
    folder: files.PathLike,
    data: run_folder.Data,
    preset: params.Preset,
    plan: Plan,
    *,
    on_fold: Callable[[Mapping[str, Any], int, int], None] = lambda *_: None,
) -> Record:
    """Runs all folds of all models that have not been run.

    Settings and results are written to `folder`, made if absent. The data's parts, if
    any, are used instead of folds. `on_fold` is called with the line of a fold and the
    numbers of finished folds and of all.

    Raises:
      ValueError: if the folder holds another cross-validation or the data does not
        suit.
      FileNotFoundError: if the pre-training run has not finished.
    """
    folds = divide(data.table, plan, data.parts)
    settings = _settings(data, preset, plan)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        record = Record(folder, settings)
        work = [(model, fold) for fold in folds for model in plan.models]
        due = [(model, fold) for model, fold in work if not record.has(model, fold)]
        trainer = _Trainer(data, preset, plan)
        for done, (model, fold) in enumerate(due, start=len(work) - len(due) + 1):
            record.add(trainer.run(model, fold))
            on_fold(record.lines[-1], done, len(work))
    return record


def _settings(
    data: run_folder.Data, preset: params.Preset, plan: Plan
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


class _Trainer:
    """Trains and tests one fold after another, with graphs that are traced once."""

    def __init__(
        self, data: run_folder.Data, preset: params.Preset, plan: Plan
    ) -> None:
        self._data, self._curves = data, plan.curves
        self._source = run_folder.read_start(plan.start) if plan.start else None
        self._presets = {model: _preset(preset, model) for model in plan.models}
        self._networks: dict[str, fitting.WholeNetwork] = {}

    def run(self, model: str, fold: Fold) -> dict[str, Any]:
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

    def _svm(self, fold: Fold) -> np.ndarray:
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

    def _train(self, model: str, fold: Fold) -> _Scored:
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

    def _fit(self, model: str, fold: Fold, network: keras.Model) -> _Scored:
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
