"""Fine-tuning: a genre classifier from a pre-trained tagger, or from random weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import metrics
from genre_tl.features import pipeline
from genre_tl.model import familiarity, networks, transfer
from genre_tl.training import fitting, run_folder


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

    `start` is a finished pre-training run or an exported tagger. Without it the whole
    network is trained from random weights, whatever the method.

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
                    scores = fitting.outputs(network, data, rows)
                    found[part] = _measure(data.table, data.table.labels[rows], scores)
            known = _familiarity(network, data)
            familiarity.save(known, run_folder.familiarity_path(run_dir))
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
    if start:
        source = run_folder.read_start(start)
        network = transferred(data, source, preset, train, seed)
    else:
        recipe = from_scratch(recipe)
        network = untrained(data, preset, train, seed)
    if recipe.method == "finetune":
        stage = fitting.WholeNetwork(network, data, recipe)
        stage.begin(train, seed)
        measure = functools.partial(_measure, data.table)
        validation = fitting.validation(stage, valid, measure)
        fitting.train_in_folder(run, stage, [*validation, *callbacks])
        return stage.network
    return network


def _familiarity(
    network: keras.Model, data: run_folder.Data
) -> familiarity.Familiarity:
    """Returns the familiarity fitted to the training clips, without the background."""
    table, rows = data.table, data.parts["train"]
    if datasets.BACKGROUND in table.vocabulary:
        background = table.vocabulary.index(datasets.BACKGROUND)
        rows = rows[table.classes[rows] != background]
    embedder = networks.embedder(network)
    vectors, segments = fitting.segment_outputs(embedder, data, rows)
    groups = [table.groups[row] for row in rows]
    return familiarity.fit(vectors, segments.shares, segments.clips, groups)


def from_scratch(recipe: params.FineTuning) -> params.FineTuning:
    """Returns the recipe of a network without a pre-trained backbone."""
    rate = recipe.scratch_learning_rate
    return dataclasses.replace(recipe, method="finetune", learning_rate=rate)


def untrained(
    data: run_folder.Data, preset: params.Preset, train: np.ndarray, seed: int
) -> keras.Model:
    """Returns a classifier with random weights, standardised on the rows `train`."""
    sizes = data.features.num_paths, len(data.table.vocabulary)
    network = networks.classifier(preset.model, *sizes, seed=seed)
    networks.standardize(network, *pipeline.frame_statistics(data.features, train))
    return network


def transferred(
    data: run_folder.Data,
    source: keras.Model,
    preset: params.Preset,
    train: np.ndarray,
    seed: int,
) -> keras.Model:
    """Returns a classifier with the backbone of `source`.

    Its head is fitted to the clips `train`; with `fit_head=False` it is random.
    """
    recipe = preset.finetune
    if recipe.method == "finetune" and not recipe.fit_head:
        return with_random_head(data, source, preset, seed)
    frozen = fitting.FrozenBackbone(transfer.backbone(source, seed=seed), data)
    head = frozen.fit(train, kernel=recipe.method == "kernel")
    return transfer.with_head(frozen.network, head)


def with_random_head(
    data: run_folder.Data, source: keras.Model, preset: params.Preset, seed: int
) -> keras.Model:
    """Returns a classifier with the backbone of `source` and a random head."""
    sizes = data.features.num_paths, len(data.table.vocabulary)
    network = networks.classifier(preset.model, *sizes, seed=seed)
    return transfer.copy_backbone(source, network)


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
    found = fitting.outputs(run_folder.read_model(run_dir), data, rows)
    classes = np.array([known.index(genre) for genre in table.vocabulary])
    return metrics.genre_metrics(classes[table.classes[rows]], found, known)


def describe_start(start: files.PathLike, preset: params.Preset) -> dict[str, Any]:
    """Returns what distinguishes a pre-trained tagger from others, as JSON types.

    Raises a ValueError if `start` is none, or has other settings.
    """
    facts = run_folder.start_facts(start)
    found, wanted = (
        {part: values[part] for part in ("frontend", "model")}
        for values in (facts.pop("preset"), preset.to_dict())
    )
    if differing := "; ".join(run_folder.differences(found, wanted)):
        raise ValueError(
            f"{start}: was trained with other settings: {differing}. Give the --preset "
            "and flags of that run"
        )
    return facts
