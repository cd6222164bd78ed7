"""Pre-train a tagger, fine-tune a classifier, evaluate one.

`runs` says what a run folder holds and how a run goes on after a stop.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.evaluation import metrics
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, run_folder


def pretrain(
    run_dir: str | os.PathLike[str],
    data: run_folder.Data,
    preset: params.Preset,
    *,
    seed: int = 0,
    min_positives: int = 5,
    progress: run_folder.Progress | None = None,
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
    check_tags(data.table)
    if not len(data.valid):
        raise ValueError("pre-training stops by its validation clips, and got none")

    def new_network() -> keras.Model:
        num_tags = len(data.table.vocabulary)
        network = networks.tagger(
            preset.model, data.features.frames.shape[1], num_tags, seed=seed
        )
        statistics = pipeline.frame_statistics(data.features, data.train)
        networks.standardize(network, *statistics)
        return network

    def measure(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        figures = metrics.tagging_metrics(labels, scores, min_positives=min_positives)
        areas = zip(data.table.vocabulary, figures.tag_auc_roc.tolist(), strict=True)
        by_tag = {tag: area for tag, area in areas if not math.isnan(area)}
        return figures.to_dict() | {"tag_auc_roc": by_tag}

    facts = {"min_positives": min_positives}
    run = run_folder.Run("pretrain", run_dir, data, preset, seed=seed, facts=facts)
    return run.train(new_network, measure, progress)


def finetune(
    run_dir: str | os.PathLike[str],
    data: run_folder.Data,
    preset: params.Preset,
    *,
    start: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: run_folder.Progress | None = None,
) -> dict[str, Any]:
    """Trains a genre classifier, or goes on with it.

    Standardisation is estimated anew on the training clips: a source collection
    seldom sounds like the target. Fixed layers that are taken over keep theirs.

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
        check_start(start, preset)

    def new_network() -> keras.Model:
        sizes = data.features.frames.shape[1], len(data.table.vocabulary)
        network = networks.classifier(preset.model, *sizes, seed=seed)
        source = None if start is None else load_start(start)
        clips = data.features, data.table, data.train

        def predict(rows: np.ndarray) -> np.ndarray:
            segment_frames = preset.frontend.segment_frames
            return fitting.predict(
                network, data.features, rows, segment_frames=segment_frames
            )

        begin(network, *clips, preset, start=source, predict=predict, seed=seed)
        return network

    def measure(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return metrics.genre_metrics(
            labels.argmax(axis=1), scores, data.table.vocabulary
        ).to_dict()

    facts = {"start": None if start is None else fingerprint(start)}
    run = run_folder.Run("finetune", run_dir, data, preset, seed=seed, facts=facts)
    return run.train(new_network, measure, progress)


def evaluate(
    run_dir: str | os.PathLike[str],
    features: pipeline.Features,
    table: datasets.Dataset,
    rows: np.ndarray,
) -> metrics.GenreMetrics:
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
    record = run_folder.read_run(run_dir)
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
    network = networks.load(pathlib.Path(run_dir) / "model.keras")
    scores = fitting.predict(
        network, features, rows, segment_frames=preset.frontend.segment_frames
    )
    classes = np.array([known.index(genre) for genre in table.vocabulary])
    return metrics.genre_metrics(classes[table.classes[rows]], scores, known)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """A pre-trained tagger to begin with, and what its head names."""

    tagger: keras.Model
    tags: tuple[str, ...]


def load_start(start: str | os.PathLike[str]) -> Start:
    """Returns what a finished pre-training run has to give.

    Raises:
      FileNotFoundError: if it has not finished.
    """
    tags = tuple(run_folder.read_run(start)["vocabulary"])
    return Start(networks.load(pathlib.Path(start) / "model.keras"), tags)


def begin(
    network: keras.Model,
    features: pipeline.Features,
    table: datasets.Dataset,
    train: np.ndarray,
    preset: params.Preset,
    *,
    start: Start | None,
    predict: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> None:
    """Gives a classifier the weights that fine-tuning begins with.

    Args:
      network: it is changed; what it was before has no effect.
      features: of the table's rows.
      table: of genres.
      train: the rows to learn from; the statistics for standardising are theirs,
        but for fixed layers that are taken over, which bring their own.
      preset: `model` and `finetune` are used.
      start: what to take over; None for random weights.
      predict: rows to the network's scores, as it is when called.
      seed: of the weights that are not taken over.
    """
    # Of a few clips a head learns more if it does not begin with an opinion.
    head = network.get_layer(networks.HEAD)
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    statistics = pipeline.frame_statistics(features, train)
    if start is None:
        networks.redraw(network, seed)
        networks.standardize(network, *statistics)
        return
    tags = start.tags if preset.finetune.named_head else ()
    networks.carry_over(start.tagger, network, tags=tags, genres=table.vocabulary)
    # Layers that learn get used to the new collection; fixed ones see what they know.
    learns = preset.finetune.backbone_rate > 0
    networks.standardize(network, *statistics, is_for_layers=learns)
    if tags:
        opinion = predict(train)
        head.set_weights(
            networks.calibrated(head.get_weights(), opinion, table.labels[train])
        )


def check_tags(table: datasets.Dataset) -> None:
    """Makes sure that there are tags to pre-train on.

    Raises:
      ValueError: if the table is one of genres.
    """
    if not table.multi_label:
        raise ValueError(f"{table.root}: pre-training takes tags, not genres")


def check_start(start: str | os.PathLike[str], preset: params.Preset) -> None:
    """Makes sure that a run can be started from.

    Raises:
      ValueError: if it is no pre-training run of this frontend and model.
      FileNotFoundError: if it has not finished.
    """
    record = run_folder.read_run(start)
    if record["kind"] != "pretrain":
        raise ValueError(f"{start}: a {record['kind']} run; give a pre-training run")
    theirs = params.Preset.from_dict(record["preset"])
    for part in ("frontend", "model"):
        if getattr(theirs, part) != getattr(preset, part):
            raise ValueError(
                f"{start}: was trained with {getattr(theirs, part)}, which is not "
                f"{getattr(preset, part)}: give the --preset and flags of that run"
            )


def num_seen(source: Mapping[str, Any], name: str, paths: Sequence[str]) -> int:
    """Returns how many clips of a collection a pre-training has seen.

    Args:
      source: the run's `run.json`, or its `fingerprint`.
      name: of the collection, as `datasets.Dataset` has it.
      paths: of its clips.
    """
    data = source["data"]
    if data["name"] != name:
        return 0
    return len({*data["train"], *data["valid"]}.intersection(paths))


def fingerprint(start: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what tells a finished run from another, fit for JSON."""
    record = run_folder.read_run(start)
    return {k: record[k] for k in ("kind", "seed", "data", "metrics", "best_epoch")}
