"""The familiarity of an export, compared with that of the embeddings."""

import numpy as np
import pytest
import tensorflow as tf
from support.tiny_export import CLIPS, FRONTEND, SEGMENT, music, with_kernel

from genre_tl.data import datasets
from genre_tl.model import familiarity, networks
from genre_tl.serving import export, predictor, saved_model

LABELS = ["a", datasets.BACKGROUND, "b"]


@pytest.fixture(scope="module")
def known():
    """A familiarity that the clips are near enough to, so that it varies."""
    network = with_kernel()
    model = saved_model.Answers(saved_model.TrainedModel(network, FRONTEND, LABELS))
    clips = np.stack([music(SEGMENT, seed) for seed in range(1, 31)])
    places = np.zeros(30, np.int32), np.zeros(30, np.float32)
    vectors = model.score_and_embed(clips, *places)[1].numpy()
    rows = np.arange(30)
    found = familiarity.fit(vectors, np.ones(30), rows, list(map(str, rows)))
    return network, found


@pytest.fixture(scope="module")
def model(known, tmp_path_factory):
    network, found = known
    trained = saved_model.TrainedModel(network, FRONTEND, LABELS, known=found)
    folder = tmp_path_factory.mktemp("known")
    return predictor.Predictor(export.export(trained, folder, card={}))


def answer(model, clip):
    found = model.runtime.model.signatures["serving_default"](
        tf.constant(clip[np.newaxis])
    )
    return {name: value.numpy()[0] for name, value in found.items()}


# The segments of clip 4 begin elsewhere.
@pytest.mark.parametrize("number", [n for n in range(len(CLIPS)) if n != 4])
def test_it_is_that_of_the_embedding_times_what_is_no_background(known, model, number):
    clip = CLIPS[number]
    segments = [clip[at : at + SEGMENT] for at in range(0, len(clip), SEGMENT)]
    pieces = model._whole([x for x in segments if np.any(x)])
    scores, vectors, frames, _ = model.score_pieces(pieces)
    distance = np.average(known[1].log_distance(vectors), weights=frames)
    share = 1 - np.average(scores, axis=0, weights=frames)[1]
    expected = known[1].of_distance(distance) * share
    np.testing.assert_allclose(
        answer(model, clip)["familiarity"], expected, rtol=1e-3, atol=1e-5
    )


def test_silence_is_not_familiar(model):
    assert answer(model, np.zeros(SEGMENT, np.float32))["familiarity"] == 0


def test_classification_has_the_outputs_that_a_server_allows(model):
    outputs = model.runtime.model.signatures["classify"].structured_outputs
    assert set(outputs) == {"scores", "classes"}
    assert set(answer(model, CLIPS[0])) == {"scores", "classes", "familiarity"}


def test_a_model_without_it_has_none(exported):
    outputs = exported.model.signatures["serving_default"].structured_outputs
    assert set(outputs) == {"scores", "classes"}
    assert np.isnan(
        exported.predictor.score_pieces(exported.predictor._whole(CLIPS))[3]
    ).all()


def test_half_precision_and_calibration_keep_it(known):
    network, found = known
    network = networks.to_half(networks.calibrated(network, 1.3))
    model = saved_model.Answers(
        saved_model.TrainedModel(network, FRONTEND, LABELS, True, found)
    )
    places = np.zeros(1, np.int32), np.zeros(1, np.float32)
    share = model.score_and_embed(CLIPS[0][np.newaxis], *places)[3].numpy()
    assert np.isfinite(share).all() and 0 <= share[0] <= 1
