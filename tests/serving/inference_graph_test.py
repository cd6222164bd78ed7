"""Networks as plain functions, beside the Keras models they are made of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.model import networks
from genre_tl.serving import inference_graph

NUM_FRAMES, NUM_PATHS = 38, 7


def network_of(readout: str, kind: str) -> keras.Sequential:
    model = params.Model(num_layers=3, num_units=12, readout=readout)
    make = {"tagger": networks.tagger, "classifier": networks.classifier}[kind]
    network = make(model, NUM_PATHS, 5, seed=1)
    for layer in network.layers:
        if isinstance(layer, (keras.layers.GRU, keras.layers.Dense)):
            layer.set_weights(
                [
                    3 * w + 0.1 * np.arange(w.shape[-1]) / w.shape[-1]
                    for w in layer.get_weights()
                ]
            )
    generator = np.random.default_rng(2)
    for is_for_layers in (True, False):
        mean, variance = generator.uniform(0.5, 2, [2, NUM_PATHS])
        networks.standardize(network, mean, variance, is_for_layers=is_for_layers)
    return network


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Returns frames, padded, and how many are not padding."""
    frames = np.random.default_rng(3).normal(size=[4, NUM_FRAMES, NUM_PATHS])
    counts = np.array([NUM_FRAMES, 1, 15, 22])
    for clip, count in zip(frames, counts, strict=True):
        clip[count:] = scattering.PAD_VALUE
    return frames.astype(np.float32), counts.astype(np.float32)


@pytest.mark.parametrize("readout", ["all", "mean", "last"])
@pytest.mark.parametrize("kind", ["tagger", "classifier"])
def test_scores_are_those_of_the_keras_model(readout, kind):
    network, (frames, counts) = network_of(readout, kind), clips()
    plain = inference_graph.Network(network)

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
    # One clip beside nothing, and nothing at all.
    np.testing.assert_allclose(
        scores(frames[2:3], counts[2:3]), expected[2:3], atol=1e-6
    )
    assert scores(frames[:0], counts[:0]).shape == (0, 5)


@pytest.mark.parametrize("reach", [0, 2, NUM_FRAMES])
def test_a_local_vector_is_the_mean_of_states_near_that_are_not_padding(reach):
    network, (frames, counts) = network_of("mean", "tagger"), clips()
    plain = inference_graph.Network(network)
    states = plain.states(tf.constant(frames))
    found = plain.local(states, tf.constant(counts), reach).numpy()
    for clip, count, vectors in zip(states.numpy(), counts, found, strict=True):
        for at in range(int(count)):
            near = clip[max(0, at - reach) : min(int(count), at + reach + 1)]
            np.testing.assert_allclose(vectors[at], near.mean(axis=0), atol=1e-6)
    assert np.isfinite(found).all()


def test_with_the_last_state_as_read_out_local_vectors_are_the_states():
    plain, (frames, counts) = (
        inference_graph.Network(network_of("last", "tagger")),
        clips(),
    )
    states = plain.states(tf.constant(frames))
    assert plain.local(states, tf.constant(counts), 3) is states


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.GRU(4, reset_after=False),
        keras.layers.GRU(4, activation="relu"),
        keras.layers.LSTM(4),
    ],
)
def test_a_layer_that_would_be_computed_wrongly_is_refused(layer):
    network = keras.Sequential([keras.layers.Input((None, 3)), layer])
    with pytest.raises(ValueError, match=layer.name):
        inference_graph.Network(network)
