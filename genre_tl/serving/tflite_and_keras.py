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

TFLITE_TOLERANCES = {"float32": 1e-3, "float16": 0.01}
"""Largest allowed change of a score.

In float32 it is rounding: scores of music change by less than 1e-6, those of a pure
tone, which leaves most paths at the floor of the logarithm, by up to 2e-4.
"""


def write_tflite(
    trained: saved_model.TrainedModel, folder: pathlib.Path
) -> Iterator[str]:
    """Writes `model_float32.tflite`, `model_float16.tflite` and `labels.txt`.

    Both models take one segment that begins with sound, float32
    `[1, segment_samples]`, zeros after the end of a shorter clip, and return `scores`,
    float32 `[1, labels]`. They need no operations but TensorFlow Lite's own.
    """
    answers, frontend = saved_model.Answers(trained), trained.frontend
    # In half precision, leakage of the filters would drown quiet paths.
    answers.frames_of.build((1, frontend.segment_samples))
    answers.frames_of.scattering.shield_filters()
    waveform = tf.TensorSpec([1, frontend.segment_samples], tf.float32, "waveform")
    scores = tf.function(
        lambda waveform: {"scores": answers.scores_of_segments(waveform)},
        input_signature=[waveform],
        autograph=False,
    ).get_concrete_function()
    clips, rows = _segments(frontend)
    expected = checks.keras_scores(trained, clips)
    for name, tolerance in TFLITE_TOLERANCES.items():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [scores], answers.network
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if name == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
        what = f"scores of the {name} model differ from the Keras model's"
        found = _interpret(content, rows)
        yield checks.check_difference(found, expected, what, tolerance)
        (folder / f"model_{name}.tflite").write_bytes(content)
    saved_model.write_labels(trained.labels, folder)


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


def _interpret(content: bytes, rows: np.ndarray) -> np.ndarray:
    # The default delegate, XNNPACK, reads half-precision scalars as zero (2.17).
    resolver = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver
    )
    run = interpreter.get_signature_runner()
    return np.concatenate([run(waveform=row[np.newaxis])["scores"] for row in rows])
