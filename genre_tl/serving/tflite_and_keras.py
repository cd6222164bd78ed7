"""A trained network as TensorFlow Lite models and Keras files, for `export.export`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from genre_tl import features, params
from genre_tl.model import networks
from genre_tl.serving import checks, saved_model

try:
    # TensorFlow 2.21 still has the converter, but says that its interpreter will go.
    from ai_edge_litert import interpreter as litert
except ImportError:
    from tensorflow.lite.python import interpreter as litert

TFLITE_TOLERANCES = {"float32": 1e-3, "float16": 0.01, "int8": 0.1}
"""Largest allowed change of a score.

In float32 it is rounding: scores of music change by less than 1e-5, those of a pure
tone, which leaves most paths at the floor of the logarithm, by up to 2e-4.
"""


def write_tflite(
    trained: saved_model.TrainedModel, folder: pathlib.Path
) -> Iterator[str]:
    """Writes `model_float32.tflite`, `…_float16`, `…_int8` and `labels.txt`.

    They differ in how weights are stored. Each takes a clip of any length, float32
    `[1, samples]`, and returns `scores`, float32 `[1, labels]`, and `embedding`,
    `[1, units]`. They need no operations but TensorFlow Lite's own.
    """
    answers = saved_model.Answers(trained)
    # In half precision, leakage of the filters would drown quiet paths.
    answers.frames_of.scattering.shield_filters()
    clips = checks.reference_clips(trained.frontend)
    expected = checks.keras_scores(trained, clips)
    for name, tolerance in TFLITE_TOLERANCES.items():
        content = _converter(answers, name).convert()
        what = f"scores of the {name} model differ from the Keras model's"
        found = _interpret(content, clips)
        yield checks.check_difference(found, expected, what, tolerance)
        (folder / f"model_{name}.tflite").write_bytes(content)
    saved_model.write_labels(trained.labels, folder)


def _converter(answers: saved_model.Answers, name: str) -> tf.lite.TFLiteConverter:
    """Returns what converts a graph, storing weights as `name` says."""

    def answer(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, embedding = answers.score_clip(waveform)
        return {"scores": scores, "embedding": embedding}

    waveform = tf.TensorSpec([1, None], tf.float32, "waveform")
    graph = tf.function(answer, input_signature=[waveform], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()], answers.network
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter


def write_keras(
    trained: saved_model.TrainedModel, folder: pathlib.Path
) -> Iterator[str]:
    """Writes `classifier.keras`, `backbone.keras` and `labels.txt`.

    The first takes waveforms `[batch, segment_samples]` and returns scores, the second
    frames `[batch, frames, paths]` and returns embeddings. Both load with
    `keras.saving.load_model` once `genre_tl.model.networks` is imported.
    """
    network, frontend = networks.portable(trained.network), trained.frontend
    waveform = keras.layers.Input((frontend.segment_samples,), name="waveform")
    frames_of = features.LogScattering.from_params(frontend)
    classifier = keras.Model(waveform, network(frames_of(waveform)))
    backbone = networks.embedder(network)
    networks.save(classifier, folder / "classifier.keras")
    networks.save(backbone, folder / "backbone.keras")
    saved_model.write_labels(trained.labels, folder)

    clips, rows = _segments(frontend)
    frames = frames_of(rows)
    pairs = {
        "classifier": (rows, checks.keras_scores(trained, clips)),
        "backbone": (frames, backbone(frames, training=False).numpy()),
    }
    for name, (inputs, expected) in pairs.items():
        found = networks.load(folder / f"{name}.keras")(inputs, training=False)
        what = f"outputs of {name}.keras, reloaded, differ from the Keras model's"
        yield checks.check_difference(found.numpy(), expected, what)


def _segments(frontend: params.Frontend) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the reference clips of one segment, and the same padded, `[clips, :]`."""
    size = frontend.segment_samples
    clips = [x for x in checks.reference_clips(frontend) if len(x) <= size]
    return clips, checks.padded(clips, size)


def _interpret(content: bytes, clips: list[np.ndarray]) -> np.ndarray:
    run = litert.Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([run(waveform=clip[np.newaxis])["scores"] for clip in clips])
