"""Weights that move from a tagger to a classifier, and the head alone."""

import dataclasses

import numpy as np
import pytest

from genre_tl import features, params
from genre_tl.model import networks, transfer

SIZES = params.Model(num_layers=3, num_units=8, dropout=0.5)
NUM_PATHS = 5


def _tagger(readout, **changes):
    sizes = dataclasses.replace(SIZES, readout=readout, **changes)
    network = networks.tagger(sizes, NUM_PATHS, 4, seed=1)
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
    np.testing.assert_array_equal(
        transfer.backbone(network)(_clips()), transfer.backbone(tagger)(_clips())
    )


@pytest.mark.parametrize(
    "changes", [{"num_layers": 2}, {"num_units": 9}, {"cell": "lstm"}]
)
def test_a_backbone_of_another_size_is_refused(changes):
    with pytest.raises(ValueError):
        transfer.copy_backbone(_tagger("last", **changes), _classifier("last"))


@pytest.mark.parametrize("readout", params.READOUTS)
def test_a_network_with_the_head_of_a_probe_gives_the_scores_of_the_probe(readout):
    network = _classifier(readout)
    vectors = transfer.backbone(network)(_clips()).numpy()
    probe = transfer.probe(vectors.shape[1], 3, l2=0.1)
    random = np.random.default_rng(0)
    weights = [random.normal(size=w.shape) for w in probe.get_weights()]
    probe.set_weights(weights)
    mean, stddev = random.normal(size=(2, vectors.shape[1]))
    transfer.set_head(network, probe, mean, np.abs(stddev) + 0.1)
    standardised = (vectors - mean) / (np.abs(stddev) + 0.1)
    expected = probe(standardised.astype("float32"))
    np.testing.assert_allclose(network(_clips()), expected, atol=1e-5)
