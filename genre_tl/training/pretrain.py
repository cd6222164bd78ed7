"""Pre-training: a tagger on a collection with tags, soft tags and target vectors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets
from genre_tl.evaluation import metrics
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, run_folder

_MIN_STDDEV = 1e-3  # of the largest: a dimension that hardly varies is not amplified


def pretrain(
    run_dir: files.PathLike,
    data: run_folder.Data,
    preset: params.Preset,
    *,
    seed: int = 0,
    min_positives: int = 5,
    callbacks: fitting.Callbacks = (),
) -> dict[str, Any]:
    """Trains a tagger, or resumes it; keeps the epoch of the best validation AUC-ROC.

    Uses frontend, model and `pretrain` of the preset. Learns the target vectors of the
    table too, if it has some. Tags with fewer than `min_positives` validation clips do
    not count in the metrics. `callbacks` show progress.

    Returns run.json. Raises a ValueError if the folder holds another run, or the data
    lacks tags or validation rows.
    """
    check_tags(data.table)
    train, valid = data.parts["train"], data.parts["valid"]
    if not len(valid):
        raise ValueError("pre-training needs validation clips to stop by; got none")
    measure = functools.partial(_measure, data.table.vocabulary, min_positives)
    wanted = targets(data.table, train)
    num_dims = wanted.shape[1] - len(data.table.vocabulary)
    identity = run_folder.identity(
        "pretrain", data, preset, seed, min_positives=min_positives
    )
    identity["num_vector_dims"] = num_dims
    with run_folder.opened(run_dir, identity) as run:
        if not run.is_finished:
            network = tagger(data, preset.model, num_dims=num_dims, seed=seed)
            stage = fitting.WholeNetwork(network, data, preset.pretrain, wanted)
            stage.begin(train, seed)
            validation = fitting.validation(stage, valid, measure)
            fitting.train_in_folder(run, stage, [*validation, *callbacks])
            found = measure(wanted[valid], stage.outputs(valid))
            run.finish(networks.without_vectors(stage.network), {"valid": found})
        return run.record


def targets(table: datasets.Dataset, train: np.ndarray) -> np.ndarray:
    """Returns labels and standardised target vectors, float32 `[clips, outputs]`.

    The vectors have mean 0 and deviation 1 over the known rows of `train`.
    """
    labels = table.labels.astype(np.float32)
    if table.vectors is None:
        return labels
    known = table.vectors[train].astype(np.float64)
    if np.isnan(known).all(axis=0).any():
        raise ValueError(f"{table.root}: no training clip has a target vector")
    mean, stddev = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    floor = max(_MIN_STDDEV * stddev.max(), np.finfo(np.float32).tiny)
    vectors = (table.vectors - mean) / np.maximum(stddev, floor)
    return np.concatenate([labels, vectors.astype(np.float32)], axis=1)


def tagger(
    data: run_folder.Data, model: params.Model, *, num_dims: int = 0, seed: int = 0
) -> keras.Model:
    """Returns a tagger with random weights, but the statistics of the training clips.

    Frames are standardised. After the tags it has `num_dims` outputs for vectors.
    """
    train = data.parts["train"]
    sizes = data.features.num_paths, len(data.table.vocabulary)
    network = networks.tagger(model, *sizes, num_vector_dims=num_dims, seed=seed)
    networks.standardize(network, *pipeline.frame_statistics(data.features, train))
    if model.prior:
        labels = data.table.labels[train]
        num_known = np.count_nonzero(~np.isnan(labels), axis=0)
        networks.set_prior(
            network, np.nansum(labels, axis=0) / np.maximum(num_known, 1)
        )
    return network


def _measure(
    tags: Sequence[str], min_positives: int, targets: np.ndarray, outputs: np.ndarray
) -> dict[str, Any]:
    """Returns the metrics of the tags, and the correlation with the target vectors."""
    size = len(tags)
    found = metrics.tagging_metrics(
        targets[:, :size], outputs[:, :size], min_positives=min_positives
    )
    areas = zip(tags, found.tag_auc_roc.tolist(), strict=True)
    values = found.to_dict()
    if outputs.shape[1] > size:
        by_dim = metrics.correlations(targets[:, size:], outputs[:, size:])
        values["vectors_r"] = float(by_dim.mean())
    by_tag = {tag: area for tag, area in areas if not math.isnan(area)}
    return values | {"tag_auc_roc": by_tag}


def check_tags(table: datasets.Dataset) -> None:
    """Raises a ValueError if the table has no tags to pre-train on."""
    if not table.multi_label:
        raise ValueError(f"{table.root}: pre-training takes tags, not genres")
