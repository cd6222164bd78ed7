"""Fine-tuning: a genre classifier from a pre-trained tagger, or from random weights."""

from __future__ import annotations

import dataclasses
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

RANDOM: dict[str, Any] = {"method": "finetune", "head_epochs": 0}
"""What the recipe of a network without a pre-trained backbone has."""


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
            network = _train(run, data, preset, start, seed, callbacks)
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
    preset: params.Preset,
    start: files.PathLike | None,
    seed: int,
    callbacks: fitting.Callbacks,
) -> keras.Model:
    """Runs the stages that are due and returns the best network."""
    train, valid, recipe = data.parts["train"], data.parts["valid"], preset.finetune
    if not start:
        recipe = dataclasses.replace(recipe, **RANDOM)
    source = run_folder.read_model(start) if start else None
    network = classifier(data, preset.model, train, seed, source)

    def validated(stage: fitting.Stage) -> fitting.Callbacks:
        measure = functools.partial(_measure, data.table)
        return [*fitting.validation(stage, valid, measure), *callbacks]

    if recipe.method == "probe" or len(run.history) < recipe.head_epochs:
        # Training the head takes seconds, so it is not resumed but repeated.
        head, is_valid = fitting.LinearProbe(source, data, recipe), len(valid) > 0
        head.begin(train)
        run.history, _ = fitting.fit_best(
            head, recipe.head_epochs, validated(head), valid=is_valid
        )
        head.give_head(network)
    if recipe.method == "probe":
        run.write_history()
        return network
    run.first = recipe.head_epochs
    stage = fitting.WholeNetwork(network, data, recipe)
    stage.begin(train, seed)
    fitting.train_in_folder(run, stage, validated(stage))
    return network


def classifier(
    data: run_folder.Data,
    model: params.Model,
    train: np.ndarray,
    seed: int,
    source: keras.Model | None,
) -> keras.Model:
    """Returns a classifier with the backbone of `source`, or with random weights.

    A backbone keeps the statistics of its own training clips; with random weights
    frames are standardised on the rows in `train`.
    """
    sizes = data.features.num_paths, len(data.table.vocabulary)
    network = networks.classifier(model, *sizes, seed=seed)
    if source is None:
        statistics = pipeline.frame_statistics(data.features, train)
        networks.standardize(network, *statistics)
    else:
        transfer.copy_backbone(source, network)
    return network


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
    """Returns what distinguishes a pre-training run from others, as JSON types.

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
