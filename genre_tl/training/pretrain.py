"""Pre-training: a tagger on a collection with tags."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import metrics
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, run_folder


def pretrain(
    run_dir: files.PathLike,
    data: run_folder.Data,
    preset: params.Preset,
    *,
    seed: int = 0,
    min_positives: int = 5,
    callbacks: fitting.Callbacks = (),
) -> dict[str, Any]:
    """Trains a tagger until the validation AUC-ROC is stable; returns run.json.

    An interrupted run is resumed.

    Args:
      run_dir: the run's folder; made if absent.
      data: of a multi-label table, with validation rows.
      preset: frontend, model and `pretrain` are used.
      seed: random seed.
      min_positives: validation clips a tag needs to count in the metrics.
      callbacks: Keras callbacks that show progress.

    Raises:
      ValueError: if the folder holds another run or the data does not suit.
    """
    check_tags(data.table)
    valid = data.parts["valid"]
    if not len(valid):
        raise ValueError("pre-training needs validation clips to stop by; got none")
    table, measure = data.table, functools.partial(_measure, data, min_positives)
    facts = {"min_positives": min_positives}
    identity = run_folder.identity("pretrain", data, preset, seed, **facts)
    with run_folder.opened(run_dir, identity) as run:
        if not run.is_finished:
            stage = _stage(data, preset, seed)
            callbacks = [*fitting.validation(stage, data, measure), *callbacks]
            fitting.train_in_folder(run, stage, preset.pretrain, callbacks)
            found = measure(table.labels[valid], stage.scores(valid))
            run.finish(stage.model, {"valid": found})
        return run.record


def _stage(
    data: run_folder.Data, preset: params.Preset, seed: int
) -> fitting.WholeNetwork:
    sizes = data.features.num_paths, len(data.table.vocabulary)
    train, segment_frames = data.parts["train"], preset.frontend.segment_frames
    network = networks.tagger(preset.model, *sizes, seed=seed)
    networks.standardize(network, *pipeline.frame_statistics(data.features, train))
    stage = fitting.WholeNetwork(network, data, preset.pretrain, segment_frames)
    stage.begin(train, seed)
    return stage


def _measure(
    data: run_folder.Data, min_positives: int, labels: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    found = metrics.tagging_metrics(labels, scores, min_positives=min_positives)
    areas = zip(data.table.vocabulary, found.tag_auc_roc.tolist(), strict=True)
    by_tag = {tag: area for tag, area in areas if not math.isnan(area)}
    return found.to_dict() | {"tag_auc_roc": by_tag}


def check_tags(table: datasets.Dataset) -> None:
    """Raises a ValueError if the table has no tags to pre-train on."""
    if not table.multi_label:
        raise ValueError(f"{table.root}: pre-training takes tags, not genres")
