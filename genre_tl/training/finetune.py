"""Fine-tuning: a genre classifier from a pre-trained tagger, or from random weights."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from typing import Any

import keras
import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import metrics
from genre_tl.features import pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import fitting, run_folder


class Stages:
    """The stages of fine-tuning on one collection, each compiled when it is needed.

    Attributes:
      recipe: `finetune` of the preset.
      method: `finetune` without `start`, else that of the recipe.
      head_epochs: epochs of training the head alone; 0 without `start`.
    """

    def __init__(
        self,
        data: run_folder.Data,
        preset: params.Preset,
        start: files.PathLike | None,
    ) -> None:
        self.recipe, self._data, self._model = preset.finetune, data, preset.model
        self._source = None if start is None else run_folder.read_model(start)
        self.method = self.recipe.method if start else "finetune"
        self.head_epochs = self.recipe.head_epochs if start else 0

    @functools.cached_property
    def head(self) -> fitting.LinearProbe:
        """Trains the head on the frozen backbone of the tagger."""
        return fitting.LinearProbe(self._source, self._data, self.recipe)

    @functools.cached_property
    def network(self) -> fitting.WholeNetwork:
        """Trains the whole network."""
        return fitting.WholeNetwork(self._classifier(0), self._data, self.recipe)

    def initial(
        self, train: np.ndarray, seed: int, *, is_random: bool = False
    ) -> keras.Model:
        """Returns a classifier with the backbone of the tagger, or random weights.

        A backbone keeps the statistics of its own training clips; with random weights
        frames are standardised on the rows in `train`.
        """
        network = self._classifier(seed)
        if is_random or self._source is None:
            statistics = pipeline.frame_statistics(self._data.features, train)
            networks.standardize(network, *statistics)
        else:
            transfer.copy_backbone(self._source, network)
        return network

    def _classifier(self, seed: int) -> keras.Model:
        sizes = self._data.features.num_paths, len(self._data.table.vocabulary)
        return networks.classifier(self._model, *sizes, seed=seed)


def finetune(
    run_dir: files.PathLike,
    data: run_folder.Data,
    preset: params.Preset,
    *,
    start: files.PathLike | None = None,
    seed: int = 0,
    callbacks: fitting.Callbacks = (),
) -> dict[str, Any]:
    """Trains a genre classifier, or resumes it; returns run.json.

    Uses frontend, model and `finetune` of the preset. With validation rows the best
    epoch is kept, without them the last; test rows are scored once, at the end.
    `callbacks` show progress.

    Without `start`, a finished pre-training run, the whole network is trained from
    random weights, whatever the method.

    Raises:
      ValueError: if the folder holds another run or the data does not suit.
      FileNotFoundError: if `start` has not finished.
    """
    if data.table.multi_label:
        raise ValueError(f"{data.table.root}: fine-tuning takes genres, not tags")
    facts = {"start": start and describe_start(start, preset)}
    identity = run_folder.identity("finetune", data, preset, seed, **facts)
    with run_folder.opened(run_dir, identity) as run:
        if not run.is_finished:
            network = _train(run, data, Stages(data, preset, start), seed, callbacks)
            found = {}
            for part in ("valid", "test"):
                if len(rows := data.parts[part]):
                    scores = fitting.scores(network, data, rows)
                    found[part] = _measure(data.table, data.table.labels[rows], scores)
            run.finish(network, found)
        return run.record


def _train(
    run: run_folder.Run,
    data: run_folder.Data,
    stages: Stages,
    seed: int,
    callbacks: fitting.Callbacks,
) -> keras.Model:
    """Runs the stages that are due and returns the best network."""
    train, valid = data.parts["train"], data.parts["valid"]
    is_probe = stages.method == "probe"
    network = stages.initial(train, seed)

    def validated(stage: fitting.Stage) -> fitting.Callbacks:
        measure = functools.partial(_measure, data.table)
        return [*fitting.validation(stage, data, valid, measure), *callbacks]

    if is_probe or len(run.history) < stages.head_epochs:
        # Training the head takes seconds, so it is not resumed but repeated.
        head, epochs = stages.head, stages.head_epochs
        head.begin(train)
        run.history, _ = fitting.fit_best(
            head, epochs, validated(head), valid=len(valid) > 0
        )
        head.give_head(network)
    if is_probe:
        run.write_history()
        return network
    run.first, stage = stages.head_epochs, stages.network
    stage.begin(train, seed, network)
    fitting.train_in_folder(run, stage, stages.recipe, validated(stage))
    return stage.model


def _measure(
    table: datasets.Dataset, labels: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    classes = labels.argmax(axis=1)
    return metrics.genre_metrics(classes, scores, table.vocabulary).to_dict()


def evaluate(
    run_dir: files.PathLike, data: run_folder.Data, rows: np.ndarray
) -> metrics.GenreMetrics:
    """Returns the metrics of a finished classifier on clips of any genre collection.

    Raises a ValueError if the run is no classifier, lacks a genre, or `rows` is empty.
    """
    record = run_folder.read_run(run_dir)
    if record["kind"] != "finetune":
        raise ValueError(f"{run_dir}: a {record['kind']} run, not a genre classifier")
    table, known = data.table, record["vocabulary"]
    unknown = sorted(set(table.vocabulary) - set(known))
    if unknown:
        raise ValueError(
            f"{table.root}: {run_dir} knows {', '.join(known)}, but not "
            f"{', '.join(unknown)}: rename or remove these folders"
        )
    found = fitting.scores(run_folder.read_model(run_dir), data, rows)
    classes = np.array([known.index(genre) for genre in table.vocabulary])
    return metrics.genre_metrics(classes[table.classes[rows]], found, known)


def describe_start(start: files.PathLike, preset: params.Preset) -> dict[str, Any]:
    """Returns what distinguishes a pre-training run from others, fit for JSON.

    Raises a ValueError if it is no pre-training run, or has other settings.
    """
    record = run_folder.read_run(start)
    if record["kind"] != "pretrain":
        raise ValueError(
            f"{start}: a {record['kind']} run cannot be used with --start; give a "
            "pre-training run"
        )
    found, wanted = (
        {part: values[part] for part in ("frontend", "model")}
        for values in (record["preset"], preset.to_dict())
    )
    if differing := "; ".join(run_folder.differences(found, wanted)):
        raise ValueError(
            f"{start}: was trained with other settings: {differing}. Give the --preset "
            "and flags of that run"
        )
    content = (pathlib.Path(start) / "model.keras").read_bytes()
    model = hashlib.sha256(content).hexdigest()
    facts = {name: record[name] for name in ("seed", "metrics", "best_epoch")}
    return {"model": model, "name": record["data"]["name"]} | facts
