"""What an export must pass before it is published."""

import types

import numpy as np
import pytest
import tensorflow as tf
from support.tiny_export import FRONTEND, LABELS

from genre_tl.serving import checks, saved_model


def save(folder, operation):
    """Writes a SavedModel with one operation."""
    module = tf.Module()
    spec = tf.TensorSpec([], tf.float32)
    module.call = tf.function(operation, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder))
    return folder


def test_an_operation_that_needs_python_is_refused(tmp_path):
    folder = save(tmp_path, lambda x: tf.numpy_function(np.abs, [x], tf.float32))
    with pytest.raises(ValueError, match=r"Serving lacks operations \['PyFunc'\]"):
        checks._check_operations(folder)


def test_an_operation_of_another_library_is_refused(tmp_path, monkeypatch):
    # As if core TensorFlow did not have it.
    monkeypatch.delattr(tf.raw_ops, "Asinh")
    with pytest.raises(ValueError, match=r"Serving lacks operations \['Asinh'\]"):
        checks._check_operations(save(tmp_path, tf.asinh))


def test_core_operations_are_accepted(tmp_path):
    folder = save(tmp_path, tf.asinh)
    assert "op types, all supported" in checks._check_operations(folder)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("alone", "scores of 5 reference clips differ from the Keras model's by 2.0e"),
        ("in a batch", "scores of a clip in a batch differ"),
        ("padded", "scores of a clip padded differ"),
        ("padded by a server", "scores of a clip padded by a server differ"),
        ("as a WAV file", "scores of a clip as a WAV file differ"),
    ],
)
def test_different_scores_are_refused(exported, monkeypatch, name, reason):
    right = np.full([5, len(LABELS)], 0.5)
    ways = "in a batch", "padded", "padded by a server", "as a WAV file"
    scores = dict.fromkeys(["alone", *ways], right)
    monkeypatch.setattr(checks, "keras_scores", lambda *args: right)
    monkeypatch.setattr(
        checks, "_scores", lambda *args: (scores["alone"], {x: scores[x] for x in ways})
    )
    trained = saved_model.TrainedModel(exported.network, FRONTEND, LABELS)

    def passed():
        return list(checks.run(exported.folder, trained))

    assert len(passed()) == 7
    scores[name] = right + 2e-5
    with pytest.raises(ValueError, match=f"refused: {reason}"):
        passed()


@pytest.mark.parametrize(
    "name, output, value, reason",
    [
        ("embedding", "embedding", np.nan, "embedding of embedding are not finite"),
        ("more", "scores", 1.0, "it has signatures .*'more'"),
        ("classify", "classes", b"x", "classes of classify are not labels"),
    ],
)
def test_wrong_answers_of_signatures_are_refused(exported, name, output, value, reason):
    signatures = dict(exported.model.signatures.items())
    model = types.SimpleNamespace(signatures=signatures)
    assert "5 signatures" in checks._check_signatures(model, LABELS)
    signatures[name] = lambda **request: {output: tf.constant([[value]])}
    with pytest.raises(ValueError, match=f"refused: {reason}"):
        checks._check_signatures(model, LABELS)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="refused"):
        checks.check_difference(np.array([np.nan]), np.zeros(1), "it differs")
