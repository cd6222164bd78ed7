"""Networks as TensorFlow functions, compared with the Keras models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl import features, params
from genre_tl.model import networks
from genre_tl.serving import network_graph

NUM_FRAMES, NUM_PATHS = 38, 7
NETWORKS = [(cell, readout) for cell in params.CELLS for readout in params.READOUTS]


def network_of(cell: str, readout: str, kind: str) -> keras.Model:
    model = params.Model(num_layers=3, num_units=12, cell=cell, readout=readout)
    make = {"tagger": networks.tagger, "classifier": networks.classifier}[kind]
    network = make(model, NUM_PATHS, 5, seed=1)
    for layer in network.layers:  # so that scores vary, and biases matter
        weights = layer.get_weights()
        layer.set_weights(
            [3 * w + 0.1 * np.linspace(0, 1, w.shape[-1]) for w in weights]
        )
    mean, variance = np.random.default_rng(2).uniform(0.5, 2, [2, NUM_PATHS])
    networks.standardize(network, mean, variance)
    return network


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Returns padded frames and the number of valid ones."""
    frames = np.random.default_rng(3).normal(size=[4, NUM_FRAMES, NUM_PATHS])
    counts = np.array([NUM_FRAMES, 1, 15, 22])
    for clip, count in zip(frames, counts, strict=True):
        clip[count:] = features.PAD_VALUE
    return frames.astype(np.float32), counts.astype(np.float32)


@pytest.mark.parametrize("cell, readout", NETWORKS)
@pytest.mark.parametrize("kind", ["tagger", "classifier"])
def test_scores_equal_those_of_the_keras_model(cell, readout, kind):
    network, (frames, counts) = network_of(cell, readout, kind), clips()
    plain = network_graph.Network(network)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, NUM_FRAMES, NUM_PATHS]),
            tf.TensorSpec([None]),
        ]
    )
    def scores(frames, counts):
        return plain.scores(plain.read_out(plain.states(frames), counts))

    expected = network(frames, training=False).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(scores(frames, counts), expected, atol=1e-6)
    one, none = slice(2, 3), slice(0, 0)
    found = scores(frames[one], counts[one])
    np.testing.assert_allclose(found, expected[one], atol=1e-6)
    assert scores(frames[none], counts[none]).shape == (0, 5)


@pytest.mark.parametrize("reach", [0, 2, NUM_FRAMES])
def test_a_local_vector_is_the_mean_of_the_valid_states_nearby(reach):
    network, (frames, counts) = network_of("gru", "all", "tagger"), clips()
    plain = network_graph.Network(network)
    states = plain.states(tf.constant(frames))
    found = plain.local(states, tf.constant(counts), reach).numpy()
    for clip, count, vectors in zip(states.numpy(), counts, found, strict=True):
        for at in range(int(count)):
            near = clip[max(0, at - reach) : min(int(count), at + reach + 1)]
            np.testing.assert_allclose(vectors[at], near.mean(axis=0), atol=1e-5)
        assert np.isfinite(vectors[: int(count)]).all()


@pytest.mark.parametrize("cell", params.CELLS)
def test_with_readout_last_local_vectors_are_the_states(cell):
    frames, counts = clips()
    plain = network_graph.Network(network_of(cell, "last", "tagger"))
    states = plain.states(tf.constant(frames))
    assert plain.local(states, tf.constant(counts), 3) is states


def test_gru_options_that_the_fast_loop_lacks_are_computed_by_keras():
    network = keras.Sequential(
        [
            keras.Input((NUM_FRAMES, NUM_PATHS)),
            networks.Standardize(),
            keras.layers.GRU(4, activation="relu", reset_after=False),
            keras.layers.Dense(2, activation="softmax", name=networks.HEAD),
        ]
    )
    plain, frames = network_graph.Network(network), clips()[0][:1]
    found = plain.scores(plain.read_out(plain.states(frames), [float(NUM_FRAMES)]))
    np.testing.assert_allclose(found, network(frames), atol=1e-6)


def test_an_unknown_layer_is_refused():
    layer = keras.layers.SimpleRNN(4)
    network = keras.Sequential([keras.Input((None, 3)), layer])
    with pytest.raises(ValueError, match=f"{layer.name}.*SimpleRNN"):
        network_graph.Network(network)
