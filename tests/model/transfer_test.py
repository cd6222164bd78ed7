"""What a new head reads of a tagger, and the classifiers that it makes."""

import dataclasses

import keras
import numpy as np
import pytest
from scipy import special
from sklearn.metrics import pairwise

from genre_tl import features, params
from genre_tl.model import networks, transfer

SIZES = params.Model(num_layers=3, num_units=8, dropout=0.5, embedding_units=6)
NUM_PATHS, NUM_TAGS = 5, 4
KINDS = [("all", 0), ("all", 2), ("last", 0), ("last", 2)]


def _tagger(readout="all", num_dims=0, **changes):
    sizes = dataclasses.replace(SIZES, readout=readout, **changes)
    network = networks.tagger(
        sizes, NUM_PATHS, NUM_TAGS, num_vector_dims=num_dims, seed=1
    )
    networks.standardize(network, np.ones(NUM_PATHS), np.full(NUM_PATHS, 4.0))
    return network


def _classifier(readout, seed=7):
    sizes = dataclasses.replace(SIZES, readout=readout)
    return networks.classifier(sizes, NUM_PATHS, 3, seed=seed)


def _clips():
    rng = np.random.default_rng(0)
    frames = rng.standard_normal([3, 12, NUM_PATHS]).astype("float32")
    frames[1, 7:] = features.PAD_VALUE
    return frames


def _head(vectors, num_centres=0):
    """A head whose scores differ between the clips of these features."""
    rng, size = np.random.default_rng(2), vectors.shape[1]
    centres = rng.normal(size=[num_centres, size]) / np.sqrt(size)
    return transfer.Head(
        mean=vectors.mean(axis=0),
        stddev=rng.uniform(1, 2, size) * np.sqrt(size) * vectors.std(axis=0),
        kernel=3 * rng.normal(size=[num_centres or size, 3]),
        bias=rng.normal(size=3),
        centres=centres if num_centres else None,
    )


@pytest.mark.parametrize("num_dims", [0, 2])
def test_a_new_head_reads_the_mean_frame_and_the_logits_of_tags(num_dims):
    tagger, clips = _tagger(num_dims=num_dims), _clips()
    backbone = transfer.backbone(tagger)
    found, outputs = backbone(clips).numpy(), tagger(clips).numpy()
    sizes = transfer.block_sizes(backbone)
    assert sizes == [NUM_PATHS, NUM_TAGS]
    means, logits = np.split(found, np.cumsum(sizes)[:-1], axis=1)
    for clip, length, mean in zip(clips, (12, 7, 12), means, strict=True):
        np.testing.assert_allclose(mean, ((clip[:length] - 1) / 2).mean(0), atol=1e-6)
    np.testing.assert_allclose(special.expit(logits), outputs[:, :NUM_TAGS], atol=1e-6)


@pytest.mark.parametrize("num_dims", [0, 2])
@pytest.mark.parametrize("embedding_units", [0, 6])
def test_with_readout_last_a_new_head_reads_what_the_old_one_did(
    num_dims, embedding_units
):
    tagger = _tagger("last", num_dims, embedding_units=embedding_units)
    backbone = transfer.backbone(tagger)
    weights, bias = tagger.get_layer(networks.HEAD).get_weights()
    scores = special.expit(backbone(_clips()).numpy() @ weights + bias)
    expected = tagger(_clips()).numpy()[:, :NUM_TAGS]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert transfer.block_sizes(backbone) == [embedding_units or SIZES.num_units]


@pytest.mark.parametrize("num_centres", [0, 9])
@pytest.mark.parametrize(("readout", "num_dims"), KINDS)
def test_a_network_with_a_head_gives_the_scores_of_the_head(
    tmp_path, readout, num_dims, num_centres
):
    backbone = transfer.backbone(_tagger(readout, num_dims))
    vectors = backbone(_clips()).numpy()
    head = _head(vectors, num_centres)
    expected = head.scores(vectors)
    assert np.ptp(expected, axis=0).max() > 0.02
    network = transfer.with_head(backbone, head)
    np.testing.assert_allclose(network(_clips()), expected, atol=1e-5)
    networks.save(network, tmp_path / "model.keras")
    again = networks.load(tmp_path / "model.keras")
    np.testing.assert_allclose(again(_clips()), expected, atol=1e-5)


def test_a_gaussian_head_compares_with_its_centres():
    vectors = np.random.default_rng(0).normal(size=[5, 4])
    head = _head(vectors, 3)
    points = (vectors - head.mean) / head.stddev
    distances = pairwise.euclidean_distances(points, head.centres)
    expected = special.softmax(np.exp(-(distances**2)) @ head.kernel + head.bias, 1)
    np.testing.assert_allclose(head.scores(vectors), expected)


def test_a_backbone_is_a_copy_whose_dropout_follows_the_seed():
    tagger = _tagger()
    before = [weight.copy() for weight in tagger.get_weights()]
    one, same, other = (transfer.backbone(tagger, seed=seed) for seed in (1, 1, 2))
    for network in (one, same, other):
        network.get_layer("gru_1").set_weights(
            [0 * x for x in network.get_layer("gru_1").get_weights()]
        )
    for now, was in zip(tagger.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, was)
    first, again, another = (
        network(_clips(), training=True).numpy() for network in (one, same, other)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != another)


@pytest.mark.parametrize("readout", params.READOUTS)
def test_every_layer_but_the_head_is_copied_with_its_statistics(readout):
    tagger, network, other = (
        _tagger(readout),
        _classifier(readout),
        _classifier(readout),
    )
    transfer.copy_backbone(tagger, network)
    for layer in network.layers:
        source = other if layer.name == "head" else tagger
        theirs = source.get_layer(layer.name).get_weights()
        for one, two in zip(layer.get_weights(), theirs, strict=True):
            np.testing.assert_array_equal(one, two)
    vectors = (networks.embedder(x)(_clips()) for x in (network, tagger))
    np.testing.assert_array_equal(*vectors)


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 2}, {"num_units": 9}, {"cell": "lstm"}, {"embedding_units": 7}],
)
def test_a_backbone_of_another_size_is_refused(changes):
    with pytest.raises(ValueError):
        transfer.copy_backbone(_tagger("last", **changes), _classifier("last"))


def test_a_network_with_a_head_is_trained_as_a_whole():
    backbone = transfer.backbone(_tagger())
    network = transfer.with_head(backbone, _head(backbone(_clips()).numpy()))
    names = {weight.path.split("/")[-2] for weight in network.trainable_weights}
    gates = {f"gru_{number}" for number in (1, 2, 3)}
    assert names == gates | {networks.EMBEDDING, transfer.LOGITS, networks.HEAD}
    assert isinstance(network, keras.Model)
