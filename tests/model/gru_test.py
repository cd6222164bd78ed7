"""The fast GRU beside Keras's own, with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl.model import gru

NUM_FEATURES, NUM_FRAMES = 5, 12


def clips(num_clips=3):
    rng = np.random.default_rng(0)
    shape = num_clips, NUM_FRAMES, NUM_FEATURES
    return tf.constant(rng.standard_normal(shape), tf.float32)


def padding(lengths):
    """A mask, or none where no clip is padded."""
    mask = tf.sequence_mask(lengths, NUM_FRAMES)
    return None if min(lengths) == NUM_FRAMES else mask


def pair(**options):
    """Keras's layer and ours, with the same weights."""
    theirs, ours = (kind(8, **options) for kind in (keras.layers.GRU, gru.GRU))
    for layer in (theirs, ours):
        layer.build((None, None, NUM_FEATURES))
    rng = np.random.default_rng(3)
    weights = [rng.normal(0, 0.5, w.shape) for w in theirs.get_weights()]
    for layer in (theirs, ours):
        layer.set_weights(weights)
    return theirs, ours


@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 7, 1)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_states_and_gradients_are_those_of_keras(lengths, training, sequences):
    inputs, mask, results = clips(), padding(lengths), []
    for layer in pair(return_sequences=sequences):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            states = layer(inputs, mask=mask, training=training)
            # No state has the gradient of another.
            weights = tf.reshape(
                tf.range(tf.size(states), dtype="float32"), states.shape
            )
            loss = tf.reduce_sum(tf.sin(weights) * states)
        gradients = tape.gradient(loss, [inputs, *layer.trainable_weights])
        results.append((states, *gradients))
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_weights_of_keras_load_into_ours_and_back():
    theirs, ours = pair()
    for one, other in zip(theirs.weights, ours.weights, strict=True):
        assert (one.name, one.shape) == (other.name, other.shape)
    again = keras.layers.GRU(8)
    again.build((None, None, NUM_FEATURES))
    again.set_weights(ours.get_weights())
    np.testing.assert_array_equal(again(clips()), theirs(clips()))


@pytest.mark.parametrize("sequences", [False, True])
def test_the_layer_is_restored_from_its_config(sequences):
    layer = gru.GRU(3, return_sequences=sequences, name="some")
    again = gru.GRU.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    shape = (2, NUM_FRAMES, NUM_FEATURES)
    expected = keras.layers.GRU(3, return_sequences=sequences)
    assert again.compute_output_shape(shape) == expected.compute_output_shape(shape)


def test_training_in_a_graph_of_unknown_sizes_gives_the_gradients_of_keras():
    def gradient(layer):
        @tf.function(input_signature=[tf.TensorSpec([None, None, NUM_FEATURES])])
        def run(inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(inputs, training=True) ** 2)
            return tape.gradient(loss, layer.trainable_weights)

        return run(clips(2))

    theirs, ours = map(gradient, pair(return_sequences=True))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_xla_compiles_a_training_step():
    _, layer = pair(return_sequences=True)

    def gradient(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs, training=True) ** 2)
        return tape.gradient(loss, layer.trainable_weights)

    compiled = tf.function(gradient, jit_compile=True)
    for one, other in zip(compiled(clips()), gradient(clips()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_graph_of_inference_holds_no_gradient():
    _, layer = pair()
    graph = tf.function(lambda inputs: layer(inputs)).get_concrete_function(clips())
    graph = graph.graph.as_graph_def()
    operations = [n.op for f in graph.library.function for n in f.node_def]
    assert "IdentityN" not in operations + [n.op for n in graph.node]


def test_a_scan_in_two_parts_gives_the_states_of_one():
    _, layer = pair()
    gates = tf.transpose(clips() @ layer.kernel + layer.bias[0], [1, 0, 2])
    weights = tf.convert_to_tensor(layer.recurrent_kernel), layer.bias[1]
    whole = gru.scan(gates, tf.zeros([3, 8]), *weights)
    first = gru.scan(gates[:7], tf.zeros([3, 8]), *weights)
    second = gru.scan(gates[7:], first[-1], *weights)
    np.testing.assert_allclose(tf.concat([first, second], 0), whole, atol=1e-6)
    np.testing.assert_allclose(whole[-1], layer(clips()), atol=1e-6)
