"""TensorFlow Lite models and Keras files, read back as a stranger would."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl import features, params
from genre_tl.features import framing
from genre_tl.model import gru, networks
from genre_tl.serving import checks, export, model_card, saved_model, tflite_and_keras

FRONTEND = params.PRESETS["tiny"].frontend
SEGMENT = FRONTEND.segment_samples
WRITERS = {
    "tflite": tflite_and_keras.write_tflite,
    "keras": tflite_and_keras.write_keras,
}
LABELS = ["a", "b/c", "ü"]


@functools.cache
def network() -> keras.Sequential:
    layer = features.LogScattering.from_params(FRONTEND)
    num_paths = layer.compute_output_shape((1, SEGMENT))[-1]
    network = networks.classifier(params.PRESETS["tiny"].model, num_paths, len(LABELS))
    for layer in network.layers:
        if isinstance(layer, gru.GRU):
            layer.set_weights([3 * weight for weight in layer.get_weights()])
    mean, variance = np.full(num_paths, -4.0), np.full(num_paths, 4.0)
    networks.standardize(network, mean, variance)
    return network


def trained() -> saved_model.TrainedModel:
    return saved_model.TrainedModel(network(), FRONTEND, LABELS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns the folder of each format, and the checks it passed."""
    found = {}
    for name, write in WRITERS.items():
        passed = []
        base = tmp_path_factory.mktemp(name)
        found[name] = (
            export.export(
                trained(),
                base,
                card={"name": name},
                write=write,
                on_check=passed.append,
            ),
            passed,
        )
    return found


@functools.cache
def clips() -> np.ndarray:
    time = np.arange(SEGMENT) / 16_000
    rows = [np.sin(1 + 2 * np.pi * hz * time * (1 + time)) for hz in (200, 900, 3000)]
    rows[1] = np.where(time < time[-1] / 3, rows[1], 0)
    return 0.3 * np.stack(rows).astype(np.float32)


@functools.cache
def expected() -> np.ndarray:
    scores = checks.keras_scores(trained(), list(clips()))
    assert np.ptp(scores, axis=0).max() > 0.1
    return scores


@functools.cache
def clips_of_all_lengths() -> list[np.ndarray]:
    first, second, third = clips()
    silence = np.zeros(SEGMENT + 7, np.float32)
    return [
        first[: SEGMENT // 5],
        second,
        np.concatenate([silence, first, third[:99]]),
        np.concatenate([first[:50], silence, silence, second]),
        silence,
        silence[:0],
        silence + 0.5,
    ]


@pytest.mark.parametrize("name, tolerance", tflite_and_keras.TFLITE_TOLERANCES.items())
def test_a_tflite_model_gives_the_scores_of_the_keras_model(written, name, tolerance):
    path = written["tflite"][0] / f"model_{name}.tflite"
    run = tflite_and_keras.litert.Interpreter(str(path)).get_signature_runner()
    found = [run(waveform=x[np.newaxis]) for x in clips_of_all_lengths()]
    scores = np.concatenate([answer["scores"] for answer in found])
    wanted = checks.keras_scores(trained(), clips_of_all_lengths())
    np.testing.assert_allclose(scores, wanted, atol=tolerance)
    assert np.ptp(wanted, axis=0).max() > 0.1


def test_a_tflite_model_gives_the_embedding_of_the_saved_model(written):
    path = written["tflite"][0] / "model_float32.tflite"
    run = tflite_and_keras.litert.Interpreter(str(path)).get_signature_runner()
    answers = saved_model.Answers(trained())
    for clip in clips_of_all_lengths():
        batch = tf.constant(clip[np.newaxis])
        places = framing.starts(batch), framing.padding(batch)
        scores, embedding, *_ = answers.score_and_embed(batch, *places)
        found = run(waveform=batch.numpy())
        np.testing.assert_allclose(found["embedding"], embedding, atol=1e-3)
        np.testing.assert_allclose(found["scores"], scores, atol=1e-3)


def test_fewer_bits_take_less_room(written):
    folder = written["tflite"][0]
    int8, half, full = (
        (folder / f"model_{name}.tflite").stat().st_size
        for name in ("int8", "float16", "float32")
    )
    assert full - half >= network().count_params()
    assert int8 < half


@pytest.mark.parametrize("name", tflite_and_keras.TFLITE_TOLERANCES)
def test_tensorflow_lites_own_operations_are_enough(written, name):
    content = (written["tflite"][0] / f"model_{name}.tflite").read_bytes()
    # TensorFlow's operations are there by name.
    assert b"Flex" not in content


@pytest.mark.parametrize("name", WRITERS)
def test_labels_and_card_lie_beside_a_model(written, name):
    folder, passed = written[name]
    assert (folder / "labels.txt").read_text("utf-8").splitlines() == LABELS
    assert model_card.read(folder)["checks"] == passed
    assert folder.name == "1" and os.listdir(folder.parent) == ["1"]


def test_keras_files_load_by_name_in_another_program(written, tmp_path):
    np.save(tmp_path / "clips.npy", clips())
    program = """
import sys, keras, numpy as np
import genre_tl.model.networks
folder, clips = sys.argv[1], np.load(sys.argv[2])
whole = keras.saving.load_model(f"{folder}/classifier.keras")
backbone = keras.saving.load_model(f"{folder}/backbone.keras")
frames = whole.layers[1](clips)
scores = whole(clips, training=False)
again = whole.layers[-1].layers[-1](backbone(frames, training=False))
np.save(sys.argv[2], np.stack([scores, again]))
"""
    subprocess.run(
        [
            *(sys.executable, "-c", program),
            *(written["keras"][0], tmp_path / "clips.npy"),
        ],
        cwd=os.path.dirname(os.path.dirname(__file__)),
        check=True,
    )
    for scores in np.load(tmp_path / "clips.npy"):
        np.testing.assert_allclose(scores, expected(), atol=1e-5)


def test_a_model_that_gives_other_scores_does_not_appear(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "keras_scores", lambda *args: 0.9)
    with pytest.raises(ValueError, match="refused: outputs of classifier"):
        export.export(
            trained(),
            tmp_path,
            card={},
            write=tflite_and_keras.write_keras,
        )
    assert os.listdir(tmp_path) == []
