"""Networks as TensorFlow functions, compared with the Keras models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl import features, params
from genre_tl.model import networks, transfer
from genre_tl.serving import network_graph

NUM_FRAMES, NUM_PATHS = 38, 7
KINDS = "tagger", "classifier", "calibrated", "probe", "kernel"
NETWORKS = [
    ("gru", readout, units, kind)
    for readout in params.READOUTS
    for units in (0, 6)
    for kind in KINDS
]
NETWORKS += [
    (cell, readout, 6, kind)
    for cell in ("lstm", "bidirectional")
    for readout, kind in zip(params.READOUTS, ("kernel", "tagger"), strict=True)
]


def network_of(cell: str, readout: str, units: int, kind: str) -> keras.Model:
    model = params.Model(
        num_layers=3, num_units=12, cell=cell, readout=readout, embedding_units=units
    )
    is_classifier = kind in ("classifier", "calibrated")
    make = networks.classifier if is_classifier else networks.tagger
    network = make(model, NUM_PATHS, 5, seed=1)
    for layer in network.layers:  # so that scores vary, and biases matter
        weights = layer.get_weights()
        layer.set_weights(
            [3 * w + 0.1 * np.linspace(0, 1, w.shape[-1]) for w in weights]
        )
    mean, variance = np.random.default_rng(2).uniform(0.5, 2, [2, NUM_PATHS])
    networks.standardize(network, mean, variance)
    if kind == "calibrated":
        return networks.calibrated(network, 0.7)
    return with_head(network, kind) if kind in ("kernel", "probe") else network


def with_head(tagger: keras.Model, kind: str) -> keras.Model:
    """Returns a classifier with the backbone of a tagger and a head of 5 genres."""
    backbone = transfer.backbone(tagger)
    vectors, rng = backbone(clips()[0]).numpy(), np.random.default_rng(4)
    size, num_centres = vectors.shape[1], 9
    centres = rng.normal(size=[num_centres, size]) / np.sqrt(size)
    head = transfer.Head(
        mean=vectors.mean(axis=0),
        stddev=np.sqrt(size) * (vectors.std(axis=0) + 1e-3),
        kernel=3 * rng.normal(size=[num_centres if kind == "kernel" else size, 5]),
        bias=rng.normal(size=5),
        centres=centres if kind == "kernel" else None,
    )
    return transfer.with_head(backbone, head)


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Returns padded frames and the number of valid ones."""
    frames = np.random.default_rng(3).normal(size=[4, NUM_FRAMES, NUM_PATHS])
    counts = np.array([NUM_FRAMES, 1, 15, 22])
    for clip, count in zip(frames, counts, strict=True):
        clip[count:] = features.PAD_VALUE
    return frames.astype(np.float32), counts.astype(np.float32)


@pytest.mark.parametrize("cell, readout, units, kind", NETWORKS)
def test_scores_and_embeddings_equal_those_of_the_keras_model(
    cell, readout, units, kind
):
    network, (frames, counts) = network_of(cell, readout, units, kind), clips()
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
    assert np.ptp(expected, axis=0).max() > 0.02
    found, embeddings = scores(frames, counts)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    one, none = slice(2, 3), slice(0, 0)
    found, _ = scores(frames[one], counts[one])
    np.testing.assert_allclose(found, expected[one], atol=2e-6)
    assert [x.shape for x in scores(frames[none], counts[none])] == [
        (0, 5),
        (0, plain.num_units),
    ]
    vectors = networks.embedder(network)(frames, training=False)
    np.testing.assert_allclose(embeddings, vectors, atol=2e-5)


@pytest.mark.parametrize("kind", ["tagger", "kernel"])
def test_half_precision_stores_weights_of_two_bytes_and_computes_in_single(kind):
    network, (frames, counts) = network_of("gru", "all", 6, kind), clips()
    rounded = networks.to_half(network)
    plain = network_graph.Network(rounded, half=True)
    variables = plain.trainable_variables
    assert {x.dtype for x in variables} == {tf.float16}
    assert sum(int(tf.size(x)) for x in variables) == network.count_params()
    states = plain.states(tf.constant(frames))
    found, _ = plain.scores(plain.read_out(states, tf.constant(counts)))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, rounded(frames), atol=2e-6)
    assert np.abs(found - network(frames)).max() > 1e-6


def test_scores_keep_the_axes_before_the_last():
    network, (frames, _) = network_of("gru", "all", 6, "kernel"), clips()
    plain = network_graph.Network(network)
    states = plain.states(tf.constant(frames))
    scores, embeddings = plain.scores(states)
    assert scores.shape == (4, NUM_FRAMES, 5)
    assert embeddings.shape == (4, NUM_FRAMES, plain.num_units)
    alone, _ = plain.scores(states[1, 3:5])
    np.testing.assert_allclose(alone, scores[1, 3:5], atol=1e-6)


@pytest.mark.parametrize("reach", [0, 2, NUM_FRAMES])
def test_a_local_vector_is_the_mean_of_the_valid_states_nearby(reach):
    network, (frames, counts) = network_of("gru", "all", 6, "tagger"), clips()
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
    plain = network_graph.Network(network_of(cell, "last", 6, "tagger"))
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
    read = plain.read_out(plain.states(frames), [float(NUM_FRAMES)])
    found, embedding = plain.scores(read)
    np.testing.assert_array_equal(embedding, read)
    np.testing.assert_allclose(found, network(frames), atol=1e-6)


def test_an_unknown_layer_is_refused():
    layer = keras.layers.SimpleRNN(4)
    network = keras.Sequential([keras.Input((None, 3)), layer])
    with pytest.raises(ValueError, match=f"{layer.name}.*SimpleRNN"):
        network_graph.Network(network)
