"""Pre-training: a tagger on a collection with tags."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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
    """Trains a tagger until the validation AUC-ROC is stable, or resumes it.

    Uses frontend, model and `pretrain` of the preset. Tags with fewer than
    `min_positives` validation clips do not count in the metrics. `callbacks` show
    progress.

    Returns run.json. Raises a ValueError if the folder holds another run, or the data
    lacks tags or validation rows.
    """
    check_tags(data.table)
    train, valid = data.parts["train"], data.parts["valid"]
    sizes = data.features.num_paths, len(data.table.vocabulary)
    if not len(valid):
        raise ValueError("pre-training needs validation clips to stop by; got none")
    measure = functools.partial(_measure, data.table.vocabulary, min_positives)
    identity = run_folder.identity(
        "pretrain", data, preset, seed, min_positives=min_positives
    )
    with run_folder.opened(run_dir, identity) as run:
        if not run.is_finished:
            network = networks.tagger(preset.model, *sizes, seed=seed)
            statistics = pipeline.frame_statistics(data.features, train)
            networks.standardize(network, *statistics)
            stage = fitting.WholeNetwork(network, data, preset.pretrain)
            stage.begin(train, seed)
            validation = fitting.validation(stage, valid, measure)
            fitting.train_in_folder(run, stage, [*validation, *callbacks])
            found = measure(data.table.labels[valid], stage.scores(valid))
            run.finish(stage.model, {"valid": found})
        return run.record


def _measure(
    tags: Sequence[str], min_positives: int, labels: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    found = metrics.tagging_metrics(labels, scores, min_positives=min_positives)
    areas = zip(tags, found.tag_auc_roc.tolist(), strict=True)
    by_tag = {tag: area for tag, area in areas if not math.isnan(area)}
    return found.to_dict() | {"tag_auc_roc": by_tag}


def check_tags(table: datasets.Dataset) -> None:
    """Raises a ValueError if the table has no tags to pre-train on."""
    if not table.multi_label:
        raise ValueError(f"{table.root}: pre-training takes tags, not genres")
