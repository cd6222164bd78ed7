"""The layers of a trained network as TensorFlow functions, for exports.

Same results as the Keras model, but faster on a clip: its frames pass through the
GRU layers in blocks, so one layer works on a block while the next works on the block
before. Two cores score one clip about twice as fast.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from genre_tl import features
from genre_tl.model import gru, networks, transfer

# More blocks keep the layers busier, but each costs a loop of its own.
_BLOCK_FRAMES = 15

_IDLE = "InputLayer", "Masking", "Dropout", "GlobalAveragePooling1D", "Concatenate"
_OTHER_CELLS = (keras.layers.GRU, keras.layers.LSTM, keras.layers.Bidirectional)
_KNOWN = (keras.layers.Dense, networks.Standardize, networks.Gaussian)
_ACTIVATIONS = {
    "softmax": tf.nn.softmax,
    "calibrated_softmax": networks.calibrated_softmax,
    "sigmoid": tf.sigmoid,
}

# Blocks of [frames, batch, features] and the mask [batch, frames] -> blocks.
_Recurrence = Callable[[list[tf.Tensor], tf.Tensor], list[tf.Tensor]]


class Network(tf.Module):
    """A tagger or classifier for inference, as variables and functions.

    With `half`, variables are stored in half precision and computed with in single.

    Attributes:
      num_labels: number of scores.
      num_units: length of an embedding.

    Raises:
      ValueError: if a layer is of a kind that `networks` does not use.
    """

    def __init__(self, network: keras.Model, *, half: bool = False) -> None:
        super().__init__()
        self._type = tf.float16 if half else tf.float32
        self._weights: list[tf.Variable] = []  # in the order of the layers
        self._recurrences: list[_Recurrence] = []
        self._layers: dict[str, list[tf.Variable]] = {}
        self._reads_all = False
        for layer in network.layers:
            self._add(layer)
        head = network.get_layer(networks.HEAD)
        self._activation = _ACTIVATIONS[head.activation.__name__]
        self.num_labels = head.units
        # Of a classifier with a kernel the head's input would be similarities.
        named = self._layers.get(networks.EMBEDDING)
        self.num_units = named[1].shape[0] if named else self._num_states

    def _add(self, layer: keras.layers.Layer) -> None:
        if isinstance(layer, gru.GRU):
            weights = self._variables(layer)
            self._recurrences.append(lambda blocks, _: _run(weights, blocks))
        elif isinstance(layer, _OTHER_CELLS):
            copy = _with_sequences(layer)
            self._weights += [weight.value for weight in copy.weights]
            is_last = not layer.return_sequences
            self._recurrences.append(functools.partial(_run_keras, copy, is_last))
        elif isinstance(layer, _KNOWN):
            self._layers[layer.name] = self._variables(layer)
        elif type(layer).__name__ not in _IDLE:
            raise ValueError(
                f"cannot export layer {layer.name!r} ({type(layer).__name__}): build "
                "the network with genre_tl.model.networks"
            )
        if layer.name == networks.READOUT:
            self._reads_all = True
        if self._recurrences and not self._layers.keys() - {networks.STANDARDIZE}:
            self._num_states = layer.output.shape[-1]

    def _variables(self, layer: keras.layers.Layer) -> list[tf.Variable]:
        weights = layer.get_weights()
        variables = [tf.Variable(tf.constant(weight, self._type)) for weight in weights]
        self._weights += variables
        return variables

    def states(self, frames: tf.Tensor) -> tf.Tensor:
        """Returns the state of every frame, `[batch, frames, units]`.

        With read-out `all` that is the standardised frame joined with all layers'
        states, else the last layer's state. Padded frames have meaningless values.
        `frames` is `[batch, frames, paths]` with a static number of frames.
        """
        mask = tf.not_equal(frames[:, :, 0], features.PAD_VALUE)
        mean, stddev = map(_read, self._layers[networks.STANDARDIZE])
        steps = (tf.transpose(frames, [1, 0, 2]) - mean) / stddev
        count = math.ceil(steps.shape[0] / _BLOCK_FRAMES)
        size = math.ceil(steps.shape[0] / count)
        blocks = [steps[at : at + size] for at in range(0, steps.shape[0], size)]
        read = [steps]
        for recurrence in self._recurrences:
            blocks = recurrence(blocks, mask)
            read.append(tf.concat(blocks, 0))
        joined = tf.concat(read, 2) if self._reads_all else read[-1]
        return tf.transpose(joined, [1, 0, 2])

    def read_out(self, states: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Returns what the network reads of a clip, `[batch, units]`.

        `counts` are the valid frames of each clip, float32 `[batch]`, at least 1.
        """
        if not self._reads_all:
            return tf.gather(states, tf.cast(counts, tf.int32) - 1, batch_dims=1)
        is_valid = tf.sequence_mask(counts, states.shape[1], tf.float32)
        total = tf.reduce_sum(states * is_valid[:, :, tf.newaxis], 1)
        return total / counts[:, tf.newaxis]

    def local(self, states: tf.Tensor, counts: tf.Tensor, reach: int) -> tf.Tensor:
        """Returns what it reads around each frame, `[batch, frames, units]`.

        With read-out `all` it is the mean of the valid states up to `reach` frames
        away, else the state.
        """
        if not self._reads_all:
            return states
        frames = tf.range(states.shape[1])
        is_near = tf.abs(frames[:, tf.newaxis] - frames) <= reach
        is_valid = tf.sequence_mask(counts, states.shape[1])[:, tf.newaxis]
        weights = tf.cast(is_near & is_valid, tf.float32)
        total = tf.reduce_sum(weights, 2, keepdims=True)
        return tf.math.divide_no_nan(weights, total) @ states

    def scores(self, vectors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores `[..., labels]` and embeddings of what `read_out` returns."""
        rows = tf.reshape(vectors, [-1, vectors.shape[-1]])
        embedding = self._dense(networks.EMBEDDING, rows)
        features = embedding
        if transfer.LOGITS in self._layers:
            num_paths = self._layers[networks.STANDARDIZE][0].shape[0]
            logits = self._dense(transfer.LOGITS, embedding)
            features = tf.concat([rows[:, :num_paths], logits], 1)
        if transfer.SCALE in self._layers:
            mean, stddev = map(_read, self._layers[transfer.SCALE])
            features = (features - mean) / stddev
        if transfer.SIMILARITY in self._layers:
            (centres,) = map(_read, self._layers[transfer.SIMILARITY])
            features = networks.gaussian(features, centres)
        found = self._activation(self._dense(networks.HEAD, features))
        shape = tf.shape(vectors)[:-1]
        return (
            tf.reshape(found, tf.concat([shape, [self.num_labels]], 0)),
            tf.reshape(embedding, tf.concat([shape, [self.num_units]], 0)),
        )

    def _dense(self, name: str, rows: tf.Tensor) -> tf.Tensor:
        """Returns the output of a layer; `rows` if the network does not have it."""
        if name not in self._layers:
            return rows
        kernel, bias = map(_read, self._layers[name])
        return rows @ kernel + bias


def _read(variable: tf.Variable) -> tf.Tensor:
    return tf.cast(variable, tf.float32)


def _run(weights: list[tf.Variable], blocks: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the states of a GRU layer, in blocks like its input."""
    # Read once, not in every round of a loop.
    kernel, recurrent_kernel, biases = map(_read, weights)
    input_bias, bias = tf.unstack(biases)
    state = tf.zeros([tf.shape(blocks[0])[1], recurrent_kernel.shape[0]])
    results = []
    for block in blocks:
        gates = tf.tensordot(block, kernel, 1) + input_bias
        results.append(gru.scan(gates, state, recurrent_kernel, bias))
        state = results[-1][-1]
    return results


def _run_keras(
    layer: keras.layers.Layer, is_last: bool, blocks: list[tf.Tensor], mask: tf.Tensor
) -> list[tf.Tensor]:
    clips = tf.transpose(tf.concat(blocks, 0), [1, 0, 2])
    states = layer(clips, mask=mask, training=False)
    if is_last and isinstance(layer, keras.layers.Bidirectional):
        # The backward layer's last state is at the first frame.
        forward, backward = tf.split(states, 2, 2)
        backward = tf.repeat(backward[:, :1], states.shape[1], 1)
        states = tf.concat([forward, backward], 2)
    return [tf.transpose(states, [1, 0, 2])]


def _with_sequences(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a copy that returns all states and does without cuDNN."""
    config = layer.get_config()
    parts = [config[part]["config"] for part in config if part.endswith("layer")]
    for part in parts or [config]:  # Bidirectional has two layers inside.
        part |= {"return_sequences": True, "use_cudnn": False}
    copy = type(layer).from_config(config)
    copy.build_from_config(layer.get_build_config())
    copy.set_weights(layer.get_weights())
    return copy
