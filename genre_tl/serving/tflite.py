"""A trained network as a TensorFlow Lite model."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.features import framing
from genre_tl.serving import checks, saved_model

_Resolver = tf.lite.experimental.OpResolverType

TOLERANCES = {"float32": 1e-4, "float16": 0.01}
"""Largest change of a score: sums in another order; weights of half precision."""


def write(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: pathlib.Path,
    on_check: Callable[[str], None],
) -> None:
    """Writes `model_float32.tflite`, `model_float16.tflite` and `labels.txt`.

    Both take one segment, float32 `[1, segment_samples]`, zeros after the end of a
    shorter clip, and give `scores`, float32 `[1, labels]`, and need no operations but
    TensorFlow Lite's own.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
      labels: names of its scores, in their order.
      folder: is made.
      on_check: called with a line of text for every check that was passed.

    Raises:
      ValueError: if a model gives other scores than the network.
    """
    answers = saved_model.Answers(network, frontend)
    # In half precision what leaks through them would drown quiet paths.
    answers.frames_of.build((1, frontend.segment_samples))
    answers.frames_of.scattering.shield_filters()
    scores = _of_one_segment(answers, frontend)
    clips = checks.reference_clips(frontend)
    clips = [clip for clip in clips if len(clip) <= frontend.segment_samples]
    expected = checks.keras_scores(network, frontend, clips)
    folder.mkdir()
    for name, tolerance in TOLERANCES.items():
        content = _convert(scores, answers.network, name == "float16")
        found = _interpret(content, clips, frontend)
        what = f"scores of the {name} model differ from the Keras model's"
        on_check(checks.check_difference(found, expected, what, tolerance))
        (folder / f"model_{name}.tflite").write_bytes(content)
    saved_model.write_labels(labels, folder)


def _of_one_segment(
    answers: saved_model.Answers, frontend: params.Frontend
) -> tf.types.experimental.ConcreteFunction:
    waveform = tf.TensorSpec([1, frontend.segment_samples], tf.float32, "waveform")

    @tf.function(input_signature=[waveform], autograph=False)
    def scores(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = framing.weights(framing.valid_samples(waveform), frontend)
        scores, _ = answers.of_segments(waveform, weights)
        return {"scores": scores}

    return scores.get_concrete_function()


def _convert(
    function: tf.types.experimental.ConcreteFunction, module: tf.Module, is_half: bool
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if is_half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _interpret(
    content: bytes, clips: Sequence[np.ndarray], frontend: params.Frontend
) -> np.ndarray:
    """Returns the scores of clips, `[clips, labels]`."""
    # XNNPACK, a default delegate, takes scalars of half precision for zero (2.17).
    interpreter = tf.lite.Interpreter(
        model_content=content,
        experimental_op_resolver_type=_Resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (given,), (wanted,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    rows = []
    for clip in clips:
        interpreter.set_tensor(given["index"], checks.padded(clip, frontend))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(rows)
