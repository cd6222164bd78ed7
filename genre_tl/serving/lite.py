"""A trained network as a TensorFlow Lite model, and as a Keras file from waveforms.

Each `write_` function fills a folder that `serving.publish` makes appear at once, and
checks what it wrote against the Keras model.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.model import networks
from genre_tl.serving import export_checks, saved_model

_Resolver = tf.lite.experimental.OpResolverType

TOLERANCES = {"float32": 1e-4, "float16": 0.01}
"""Largest change of a score: sums in another order; weights of half precision."""


def write_tflite(
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
    clips = export_checks.reference_clips(frontend)
    clips = [clip for clip in clips if len(clip) <= frontend.segment_samples]
    expected = export_checks.keras_scores(network, frontend, clips)
    folder.mkdir()
    for name, tolerance in TOLERANCES.items():
        content = _convert(scores, answers.network, name == "float16")
        found = _interpret(content, clips, frontend)
        what = f"scores of the {name} model differ from the Keras model's"
        on_check(export_checks.check_difference(found, expected, what, tolerance))
        (folder / f"model_{name}.tflite").write_bytes(content)
    _write_labels(labels, folder)


def write_keras(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: pathlib.Path,
    on_check: Callable[[str], None],
) -> None:
    """Writes `classifier.keras`, `backbone.keras` and `labels.txt`.

    The first takes waveforms `[batch, segment_samples]`, the second frames `[batch,
    frames, paths]`. Both load with `keras.saving.load_model` once `genre_tl.models`
    is imported.

    Args, Raises: as for `write_tflite`.
    """
    network = networks.uncompiled(network, is_portable=True)
    waveform = keras.layers.Input((frontend.segment_samples,), name="waveform")
    frames_of = scattering.LogScattering.from_params(frontend)
    classifier = keras.Model(waveform, network(frames_of(waveform)))
    backbone = keras.Model(network.input, network.layers[-1].input, name="backbone")
    folder.mkdir()
    networks.save(classifier, folder / "classifier.keras")
    networks.save(backbone, folder / "backbone.keras")
    _write_labels(labels, folder)

    clips = export_checks.reference_clips(frontend)[:2]
    rows = np.concatenate([_padded(clip, frontend) for clip in clips])
    loaded = networks.load(folder / "classifier.keras")
    found = loaded(rows, training=False).numpy()
    expected = export_checks.keras_scores(network, frontend, clips)
    what = "scores of classifier.keras, reloaded, differ from the trained model's"
    on_check(export_checks.check_difference(found, expected, what))
    vectors = networks.load(folder / "backbone.keras")(frames_of(rows))
    found = network.layers[-1](vectors).numpy()
    what = "scores of what backbone.keras, reloaded, gives to the head differ from them"
    on_check(export_checks.check_difference(found, expected, what))


def _of_one_segment(
    answers: saved_model.Answers, frontend: params.Frontend
) -> tf.types.experimental.ConcreteFunction:
    waveform = tf.TensorSpec([1, frontend.segment_samples], tf.float32, "waveform")

    @tf.function(input_signature=[waveform], autograph=False)
    def scores(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        used = scattering.valid_samples(waveform)
        weights = -(-used // frontend.hop_samples)
        scores, _ = answers.of_segments(waveform, tf.cast(weights, tf.float32))
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
        interpreter.set_tensor(given["index"], _padded(clip, frontend))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(rows)


def _padded(clip: np.ndarray, frontend: params.Frontend) -> np.ndarray:
    """Returns float32 `[1, segment_samples]`."""
    return np.pad(clip, [0, frontend.segment_samples - len(clip)])[np.newaxis]


def _write_labels(labels: Sequence[str], folder: pathlib.Path) -> None:
    text = "".join(f"{label}\n" for label in labels)
    (folder / "labels.txt").write_text(text, "utf-8")


WRITERS = {"tflite": write_tflite, "keras": write_keras}
"""What `serving.export` may write besides a SavedModel."""
