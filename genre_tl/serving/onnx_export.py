"""A trained network as one ONNX file, for `export.export`.

The graph is written from the weights and the scattering plan, not converted: tf2onnx
1.17 fails on our SavedModel, on a convolution whose kernel has no static shape. Written
directly, a recurrent layer is one operation of ONNX and not a loop, convolutions have
the form that ONNX Runtime is fastest with, and the file holds each weight once.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from genre_tl.features import framing
from genre_tl.serving import (
    checks,
    export,
    onnx_builder,
    onnx_model,
    onnx_weights,
    runtimes,
    saved_model,
    versions,
)

TOLERANCE = 1e-4
"""Largest difference of a score, in graphs that add in another order.

Scores of music change by less than 1e-5. A pure tone leaves most paths near the floor
of the logarithm, which amplifies rounding errors.
"""


def write_onnx(
    trained: saved_model.TrainedModel,
    folder: pathlib.Path,
    *,
    card: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Writes `model.onnx` and `labels.txt`, and checks them; an `export.Write`.

    The file's metadata are the facts of the card, with labels and front end: texts as
    they are, all else as JSON.
    """
    saved_model.write_labels(trained.labels, folder)
    yield from _write(_model(trained, card), trained, folder)


def write_with_saved_model(
    trained: saved_model.TrainedModel,
    folder: pathlib.Path,
    *,
    card: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Writes a SavedModel, and a `model.onnx` that shares its weights.

    Both are checked; an `export.Write`.
    """
    yield from export.write_saved_model(trained, folder)
    model = _model(trained, card)
    onnx_weights.share(model, folder)
    yield from _write(model, trained, folder)


def _model(
    trained: saved_model.TrainedModel, card: Mapping[str, Any] | None
) -> onnx.ModelProto:
    model = onnx_model.build(trained)
    facts = {**(card or {}), **trained.facts()}
    for name in "checks", "sha256":  # of the export that is exported again
        facts.pop(name, None)
    onnx.helper.set_model_props(
        model,
        {k: x if isinstance(x, str) else json.dumps(x) for k, x in facts.items()},
    )
    return model


def _write(
    model: onnx.ModelProto, trained: saved_model.TrainedModel, folder: pathlib.Path
) -> Iterator[str]:
    path = folder / versions.ONNX
    path.write_bytes(model.SerializeToString(deterministic=True))
    yield from _check(path, trained)


def _check(path: pathlib.Path, trained: saved_model.TrainedModel) -> Iterator[str]:
    onnx.checker.check_model(str(path), full_check=True)
    yield f"valid, with the standard operations of version {onnx_builder.OPSET} alone"
    runtime = runtimes.OnnxRuntime(path)
    if list(runtime.labels) != list(trained.labels):
        raise ValueError(f"export refused: {path.name} has labels {runtime.labels}")
    clips = checks.reference_clips(trained.frontend)
    alone = np.concatenate(
        [runtime.answers(clip[np.newaxis])["scores"] for clip in clips]
    )
    what = f"scores of {len(clips)} reference clips differ from the Keras model's"
    yield checks.check_difference(
        alone, checks.keras_scores(trained, clips), what, TOLERANCE
    )
    batch = checks.padded(clips, max(map(len, clips)) + 100)
    expected = answers_of_saved_model(trained, batch)
    answers = runtime.answers(batch)
    for (name, found), wanted in zip(answers.items(), expected, strict=True):
        what = f"{name} of a batch differ from the SavedModel's"
        scale = max(1.0, float(np.abs(wanted).max()))
        yield checks.check_difference(found / scale, wanted / scale, what, TOLERANCE)


def answers_of_saved_model(
    trained: saved_model.TrainedModel, batch: np.ndarray
) -> list[np.ndarray]:
    """Returns what `OnnxRuntime.answers` does, by the functions of a SavedModel."""
    answers = saved_model.Answers(trained)
    with tf.device("CPU:0"):
        given = tf.constant(batch)
        places = given, framing.starts(given), framing.padding(given)
        found = *answers.score_and_embed(*places), *answers.taggram(*places)
    return [part.numpy() for part in found]
