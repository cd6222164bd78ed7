"""A trained network as TensorFlow Lite models."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.serving import checks, saved_model
from genre_tl.serving.trained_model import TrainedModel

_Resolver = tf.lite.experimental.OpResolverType

TOLERANCES = {"float32": 1e-3, "float16": 0.01}
"""Largest allowed change of a score.

In float32 it is rounding: scores of music change by less than 1e-6, those of a pure
tone, which leaves most paths at the floor of the logarithm, by up to 2e-4.
"""


def write(trained: TrainedModel, folder: pathlib.Path) -> Iterator[str]:
    """Writes `model_float32.tflite`, `model_float16.tflite` and `labels.txt`.

    Both models take one segment that begins with sound, float32
    `[1, segment_samples]`, zeros after the end of a shorter clip, and return `scores`,
    float32 `[1, labels]`. They need no operations but TensorFlow Lite's own.

    Args:
      trained: the network.
      folder: an empty folder.

    Yields:
      A line of text for each check passed.

    Raises:
      ValueError: if a model gives other scores than the network.
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
    clips = checks.reference_clips(frontend)
    clips = [clip for clip in clips if len(clip) <= frontend.segment_samples]
    expected = checks.keras_scores(trained, clips)
    for name, tolerance in TOLERANCES.items():
        content = _convert(scores, answers.network, name == "float16")
        found = _interpret(content, clips, frontend)
        what = f"scores of the {name} model differ from the Keras model's"
        yield checks.check_difference(found, expected, what, tolerance)
        (folder / f"model_{name}.tflite").write_bytes(content)
    saved_model.write_labels(trained.labels, folder)


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
    # The default delegate, XNNPACK, reads half-precision scalars as zero (2.17).
    interpreter = tf.lite.Interpreter(
        model_content=content,
        experimental_op_resolver_type=_Resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (wanted,) = interpreter.get_output_details()
    rows = []
    for clip in clips:
        interpreter.set_tensor(given["index"], checks.one_segment(clip, frontend))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(rows)
