"""Cross-validation: transfer, random initialisation and an SVM on the same folds.

A fold's result depends on the settings, its repeat and its number alone: neither on
the order, nor on what the process did before. So a run that was killed goes on at
the first fold that has no line, and ends like one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from sklearn import preprocessing, svm
from sklearn.pipeline import make_pipeline

from genre_tl import params
from genre_tl.data import datasets, splits
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, learning, records, training

MODELS = ("transfer", "random", "svm")
_INNER_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which folds there are, and how they are read.

    Attributes:
      num_folds: of a repeat; each clip is in the test part of one.
      num_repeats: divisions into folds; may grow later.
      seed: of the folds, and of every fold's weights, dropout and excerpts.
      protocol: `paper` trains for a fixed number of epochs; `strict` keeps the
        epoch that is best on a fifth of the training clips, held out for that (more
        where a genre has fewer than five groups).
        Both read the test clips once, at the end.
      clips_per_genre: most clips of a genre to train on; 0 takes all there are.
      curves: also read the test clips after each epoch, for the plot of accuracy
        against epoch; nothing is chosen by it.
    """

    num_folds: int = 10
    num_repeats: int = 10
    seed: int = 0
    protocol: str = "paper"
    clips_per_genre: int = 0
    curves: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "strict"):
            raise ValueError(
                f"protocol is {self.protocol!r}; it must be 'paper' or 'strict'"
            )
        for name, least in (("num_repeats", 1), ("clips_per_genre", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; at least {least} is needed")


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
    table: datasets.Dataset,
    plan: Plan,
    parts: Mapping[str, np.ndarray] | None = None,
) -> list[Fold]:
    """Returns all folds of all repeats.

    Args:
      table: of genres; no group of clips is divided.
      plan: how many folds, and how they are seeded.
      parts: a published split to take instead; its repeats differ in the seed.

    Raises:
      ValueError: if the table does not have enough clips.
    """
    return [
        _fold(table, plan, repeat, number, tested, parts)
        for repeat in range(plan.num_repeats)
        for number, tested in enumerate(
            [parts["test"]]
            if parts
            else splits.folds(table, plan.num_folds, learning.mix(plan.seed, repeat))
        )
    ]


def _fold(
    table: datasets.Dataset,
    plan: Plan,
    repeat: int,
    number: int,
    test: np.ndarray,
    parts: Mapping[str, np.ndarray] | None,
) -> Fold:
    seed = learning.mix(plan.seed, repeat, number)
    valid = test[:0]
    if parts:
        train = parts["train"]
        valid = parts["valid"] if plan.protocol == "strict" else valid
    else:
        train = np.setdiff1d(np.arange(len(table)), test)
        if plan.protocol == "strict":
            inner = _inner_fold(table.select(train), seed)
            valid, train = train[inner], np.delete(train, inner)
    if plan.clips_per_genre:
        train = _some_of_each(table.classes, train, plan.clips_per_genre, seed)
    return Fold(repeat, number, seed, train, valid, test)


def _inner_fold(table: datasets.Dataset, seed: int) -> np.ndarray:
    """Returns a fifth of the training clips, more where a genre has few groups."""
    fewest = min(splits.groups_by_genre(table))
    if fewest < 2:
        raise ValueError(
            f"{table.root}: protocol 'strict' needs two groups of clips of each genre "
            "to train on, and one has a single one: take more folds, or protocol "
            "'paper'"
        )
    return splits.folds(table, min(_INNER_FOLDS, fewest), seed)[0]


def _some_of_each(
    classes: np.ndarray, rows: np.ndarray, most: int, seed: int
) -> np.ndarray:
    shuffled = np.random.default_rng(seed).permutation(rows)
    of_each = [shuffled[classes[shuffled] == genre][:most] for genre in set(classes)]
    return np.sort(np.concatenate(of_each))


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What is cross-validated.

    Attributes:
      features: of every row of the table.
      table: paths, genres and groups.
      parts: rows of a published split, taken instead of folds; None for folds.
      split: what to call the division in reports.
    """

    features: pipeline.Features
    table: datasets.Dataset
    parts: Mapping[str, np.ndarray] | None = None
    split: str = "folds"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a cross-validation tells what it does.

    Attributes:
      on_epoch: after an epoch: the fold's model, epochs done, epochs at most.
      on_fold: after a fold: its line, and how many of how many are done.
    """

    on_epoch: Callable[[str, int, int], None] = lambda model, done, total: None
    on_fold: Callable[[Mapping[str, Any], int, int], None] = lambda line, done, total: (
        None
    )


def cross_validate(
    folder: str | os.PathLike[str],
    data: Data,
    preset: params.Preset,
    plan: Plan,
    *,
    compared: Sequence[str] = ("random",),
    start: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> records.Record:
    """Runs every fold that has not been run, of every model.

    Args:
      folder: where settings and results are; made if absent.
      data: the collection.
      preset: frontend, model and `finetune` are used.
      plan: folds, repeats, protocol.
      compared: some of `MODELS`. They take turns, fold by fold, so that a run
        that was stopped has compared as much as it has computed.
      start: a finished pre-training run; `transfer` needs it.
      progress: whom to tell.

    Raises:
      ValueError: if the folder holds another cross-validation or the data does
        not suit.
      FileNotFoundError: if `start` has not finished.
    """
    unknown = set(compared) - set(MODELS)
    if unknown or not compared:
        raise ValueError(f"compared is {compared}; it must be of {', '.join(MODELS)}")
    if "transfer" in compared and start is None:
        raise ValueError("transfer needs a start: give a finished pre-training run")
    start = start if "transfer" in compared else None
    progress = progress or Progress()
    folds = divide(data.table, plan, data.parts)
    work = [(model, fold) for fold in folds for model in compared]
    record = records.Record(folder, _settings(data, preset, plan, start))
    record.check({(f.repeat, f.number): f.test.tolist() for f in folds})
    trainer = _Trainer(data, preset, plan, start, progress)
    done = sum(record.has(m, fold.repeat, fold.number) for m, fold in work)
    for model, fold in work:
        if not record.has(model, fold.repeat, fold.number):
            record.add(trainer.run(model, fold))
            done += 1
            progress.on_fold(record.lines[-1], done, len(work))
    return record


def _settings(
    data: Data,
    preset: params.Preset,
    plan: Plan,
    start: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    if start is not None:
        training.check_start(start, preset)
    everything = preset.to_dict()
    return {
        "plan": dataclasses.asdict(plan),
        "preset": {
            part: everything[part] for part in ("frontend", "model", "finetune")
        },
        "start": None if start is None else training.fingerprint(start),
        "data": {
            "name": data.table.name,
            "split": data.split,
            "paths": list(data.table.paths),
            "classes": data.table.classes.tolist(),
            "groups": list(data.table.groups),
        },
        "vocabulary": list(data.table.vocabulary),
    }


class _Trainer:
    """Trains and tests one fold after the other, with one compiled network."""

    def __init__(
        self,
        data: Data,
        preset: params.Preset,
        plan: Plan,
        start: str | os.PathLike[str] | None,
        progress: Progress,
    ) -> None:
        self._data, self._preset, self._plan = data, preset, plan
        self._start, self._progress = start, progress
        self._training = preset.finetune
        self._clock = fitting.Clock()

    def run(self, model: str, fold: Fold) -> dict[str, Any]:
        """Returns the line of a fold."""
        self._clock.restart()
        if model == "svm":
            predicted, told = self._svm(fold)
        else:
            predicted, told = self._train(model, fold)
        truth = self._data.table.classes[fold.test]
        return {
            "model": model,
            "repeat": fold.repeat,
            "fold": fold.number,
            "num_train": len(fold.train),
            "accuracy": float(np.mean(predicted == truth)),
            "test": fold.test.tolist(),
            "predicted": predicted.tolist(),
            **told,
            "time": self._clock.to_dict(),
        }

    def _svm(self, fold: Fold) -> tuple[np.ndarray, dict[str, Any]]:
        # Its parameters are the usual ones, not chosen by any fold.
        machine = make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=10))
        means = self._clip_means
        machine.fit(means[fold.train], self._data.table.classes[fold.train])
        return machine.predict(means[fold.test]), {}

    @functools.cached_property
    def _clip_means(self) -> np.ndarray:
        rows = range(len(self._data.table))
        return np.stack(
            [pipeline.frame_statistics(self._data.features, [r])[0] for r in rows]
        )

    def _train(self, model: str, fold: Fold) -> tuple[np.ndarray, dict[str, Any]]:
        self._reset(model, fold)
        history: list[dict[str, float]] = []
        best = -1.0, 0, self._network.get_weights()
        num_epochs = self._training.max_epochs
        for number in range(1, num_epochs + 1):
            row = self._epoch(fold, number)
            if len(fold.valid):
                row["val_accuracy"] = self._accuracy(fold.valid)
                if row["val_accuracy"] > best[0]:
                    best = row["val_accuracy"], number, self._network.get_weights()
            if self._plan.curves:
                row["test_accuracy"] = self._accuracy(fold.test)
            history.append(row)
            self._progress.on_epoch(model, number, num_epochs)
        kept = num_epochs
        if len(fold.valid):
            _, kept, weights = best
            self._network.set_weights(weights)
        columns = {name: [row[name] for row in history] for name in history[0]}
        told = {"epoch": kept, "history": columns}
        pull = learning.head_pull(self._network)
        return self._classes(fold.test), told | {"head_pull": pull}

    def _epoch(self, fold: Fold, number: int) -> dict[str, float]:
        return self._fitter.epoch(fold.train, seed=fold.seed, number=number)

    def _classes(self, rows: np.ndarray) -> np.ndarray:
        return self._fitter.predict(rows).argmax(axis=1)

    def _accuracy(self, rows: np.ndarray) -> float:
        return float(np.mean(self._classes(rows) == self._data.table.classes[rows]))

    def _reset(self, model: str, fold: Fold) -> None:
        """Sets weights, statistics and optimizer as if there had been no fold."""
        # A pre-trained network's layers are the same in every fold, if they are fixed.
        self._fitter.forget(layers="source" if model == "transfer" else "")
        training.begin(
            self._network,
            self._data.features,
            self._data.table,
            fold.train,
            self._preset,
            start=self._source if model == "transfer" else None,
            predict=functools.partial(self._fitter.predict, trained_on=True),
            seed=fold.seed,
        )
        self._network.optimizer.begin(self._network)
        self._fitter.choose_pull(fold.train, self._data.table, seed=fold.seed)

    @functools.cached_property
    def _source(self) -> training.Start | None:
        return None if self._start is None else training.load_start(self._start)

    @functools.cached_property
    def _network(self) -> keras.Model:
        network = networks.classifier(
            self._preset.model,
            self._data.features.frames.shape[1],
            len(self._data.table.vocabulary),
        )
        return learning.compiled(network, self._training, "categorical_crossentropy")

    @functools.cached_property
    def _fitter(self) -> fitting.Fitter:
        return fitting.Fitter(
            self._network,
            self._data.features,
            self._data.table.labels,
            self._training,
            segment_frames=self._preset.frontend.segment_frames,
            clock=self._clock,
        )
