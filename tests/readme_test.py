"""The README's Python runs as it is written."""

import re

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from genre_tl import models, params


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the snippets name."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.mp3", np.zeros(16_000), 16_000, format="MP3")
    tiny = params.PRESETS["tiny"].model
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    models.save(models.tagger(tiny, 7, 5), "runs/pretrain/model.keras")
    names = ["blues", "rock"]

    @tf.function(input_signature=[tf.TensorSpec([None, None], name="waveform")])
    def serve(waveform):
        scores = tf.tile([[0.25, 0.75]], [tf.shape(waveform)[0], 1])
        return {"scores": scores, "classes": tf.tile([names], [tf.shape(scores)[0], 1])}

    module = tf.Module()
    module.labels = tf.function(lambda: tf.constant(names), input_signature=[])
    tf.saved_model.save(module, "saved_models/genres/1", {"serving_default": serve})
    return tmp_path


@pytest.fixture
def snippets(root):
    text = (root / "README.md").read_text(encoding="utf8")
    section = text.split("## Keras and NumPy API")[1].split("\n## ")[0]
    found = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(found) == text.count("```python") == 3
    return found


def test_a_model_labels_a_file(place, snippets, capsys):
    exec(snippets[0], {})
    assert capsys.readouterr().out == "rock\n"


def test_the_scattering_layer_stands_in_a_network(snippets, capsys):
    values = {}
    exec(snippets[1], values)
    assert (
        capsys.readouterr().out
        == f"{values['model'].output_shape}".replace("None", "2") + "\n"
    )


def test_a_backbone_learns_with_ones_own_head_and_loop(place, snippets):
    rng = np.random.default_rng(0)
    genres = np.arange(32) % 4
    frames = rng.normal(0, 0.1, [32, 9, 7]) + 2 * np.eye(4, 7)[genres][:, np.newaxis]
    values, losses = {}, []

    def batches():
        for _ in range(6):
            yield frames.astype(np.float32), genres
            losses.append(float(tf.reduce_mean(values["losses"])))

    values["batches"] = batches()
    exec(snippets[2], values)
    assert losses[-1] < losses[0] - 0.1
    assert isinstance(values["backbone"], keras.Model)
