"""A trained network as plain functions of its weights, for exports.

The numbers are those of the Keras model; what differs is how fast they come and
what is left in a graph. Keras runs each GRU over the whole clip before the next one
starts. Here a clip's frames go through the layers in blocks, so that one layer works
on a block while the next works on the block before: on one clip, a processor with two
cores is about twice as fast.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from genre_tl.model import networks

# Frames that a layer passes on at a time. More of them keep fewer layers waiting;
# each costs a loop of its own.
_BLOCK_FRAMES = 15

# Layers that do nothing here: padding is left out otherwise.
_IDLE = (keras.layers.InputLayer, keras.layers.Masking, keras.layers.Dropout)

_ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid}


class _Gru(NamedTuple):
    """Weights of one layer: as Keras has them, `[.., update | reset | candidate]`."""

    kernel: tf.Variable
    recurrent_kernel: tf.Variable
    bias: tf.Variable


class Network(tf.Module):
    """A tagger or classifier of `models`, for inference.

    Attributes:
      num_labels: scores of a clip.
      num_units: length of the vector that the head reads.

    Args:
      network: as `models.tagger` and `models.classifier` build them.

    Raises:
      ValueError: if a layer is of a kind that `models` does not use.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        self._grus: list[_Gru] = []
        self._statistics: list[list[tf.Variable]] = []
        self._reads_mean = self._reads_all = False
        for layer in network.layers:
            self._take(layer)
        self.num_units, self.num_labels = self._head[0].shape

    def _take(self, layer: keras.layers.Layer) -> None:
        if isinstance(layer, networks.Standardize):
            self._statistics.append([tf.Variable(w) for w in layer.get_weights()])
        elif isinstance(layer, keras.layers.GRU) and _is_plain(layer):
            self._grus.append(_Gru(*map(tf.Variable, layer.get_weights())))
        elif isinstance(layer, keras.layers.GlobalAveragePooling1D):
            self._reads_mean = True
        elif isinstance(layer, keras.layers.Concatenate):
            self._reads_all = True
        elif layer.name == networks.HEAD and layer.activation.__name__ in _ACTIVATIONS:
            self._head = [tf.Variable(w) for w in layer.get_weights()]
            self._activation = _ACTIVATIONS[layer.activation.__name__]
        elif not isinstance(layer, _IDLE):
            raise ValueError(
                f"layer {layer.name!r} is of a kind ({type(layer).__name__}) that an "
                "export does not know: give a network as genre_tl.models builds it"
            )

    def states(self, frames: tf.Tensor) -> tf.Tensor:
        """Returns what the head reads the mean or last of, `[batch, frames, units]`.

        The last layer's states, or the standardised frames and all layers' states
        joined and standardised as the head wants them. What is padding must be at the
        end of a clip: states before it do not depend on it, and those of it mean
        nothing.

        Args:
          frames: float32 `[batch, frames, paths]`, the number of frames static.
        """
        # [frames, batch, paths]: a loop takes a frame of all clips.
        frames = tf.transpose(frames, [1, 0, 2])
        (mean, stddev), *of_head = self._statistics
        frames = (frames - mean) / stddev
        count = math.ceil(frames.shape[0] / _BLOCK_FRAMES)
        size = math.ceil(frames.shape[0] / count)
        blocks = [frames[at : at + size] for at in range(0, frames.shape[0], size)]
        read = [frames]
        for gru in self._grus:
            blocks = _run(gru, blocks)
            read.append(tf.concat(blocks, 0))
        joined = tf.concat(read, 2) if self._reads_all else read[-1]
        for mean, stddev in of_head:
            joined = (joined - mean) / stddev
        return tf.transpose(joined, [1, 0, 2])

    def read_out(self, states: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Returns what the head reads of a clip, `[batch, units]`.

        Args:
          states: `[batch, frames, units]`.
          counts: frames of each clip that are not padding, float32 `[batch]`, at
            least 1.
        """
        if not self._reads_mean:
            last = tf.cast(counts, tf.int32) - 1
            return tf.gather(states, last, batch_dims=1)
        is_valid = tf.sequence_mask(counts, states.shape[1], tf.float32)
        total = tf.reduce_sum(states * is_valid[:, :, tf.newaxis], 1)
        return total / counts[:, tf.newaxis]

    def local(self, states: tf.Tensor, counts: tf.Tensor, reach: int) -> tf.Tensor:
        """Returns what the head reads around each frame, `[batch, frames, units]`.

        Args:
          states: `[batch, frames, units]`.
          counts: as for `read_out`.
          reach: frames on either side that a mean is taken of, as far as they are
            not padding. Where the read-out is the last state, this is each state.
        """
        if not self._reads_mean:
            return states
        frames = tf.range(states.shape[1])
        is_near = tf.abs(frames[:, tf.newaxis] - frames) <= reach
        is_valid = tf.sequence_mask(counts, states.shape[1])[:, tf.newaxis]
        weights = tf.cast(is_near & is_valid, tf.float32)
        weights = tf.math.divide_no_nan(
            weights, tf.reduce_sum(weights, 2, keepdims=True)
        )
        return weights @ states

    def scores(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns `[..., labels]` of `[..., units]`."""
        weights, bias = self._head
        rows = tf.reshape(vectors, [-1, self.num_units]) @ weights + bias
        shape = tf.concat([tf.shape(vectors)[:-1], [self.num_labels]], 0)
        return tf.reshape(self._activation(rows), shape)


def _is_plain(layer: keras.layers.GRU) -> bool:
    activations = (layer.activation, layer.recurrent_activation)
    is_usual = activations == (keras.activations.tanh, keras.activations.sigmoid)
    return is_usual and layer.reset_after and layer.use_bias


def _run(gru: _Gru, blocks: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns a layer's states, in blocks `[frames, batch, units]` like its input."""
    # Read once, not in every round of a loop.
    kernel, weights = tf.identity(gru.kernel), tf.identity(gru.recurrent_kernel)
    input_bias, bias = tf.unstack(gru.bias)
    num_units = weights.shape[0]
    state = tf.zeros([tf.shape(blocks[0])[1], num_units])
    results = []
    for block in blocks:
        rows = tf.reshape(block, [-1, block.shape[2]]) @ kernel + input_bias
        shape = [block.shape[0], tf.shape(block)[1], 3 * num_units]
        states, state = _scan(tf.reshape(rows, shape), state, weights, bias)
        results.append(tf.ensure_shape(states, [block.shape[0], None, num_units]))
    return results


def _scan(
    inputs: tf.Tensor, state: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    num_frames, num_units = inputs.shape[0], weights.shape[0]

    def step(
        number: tf.Tensor, state: tf.Tensor, states: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        given, kept = inputs[number], state @ weights + bias
        gates = tf.sigmoid(given[:, : 2 * num_units] + kept[:, : 2 * num_units])
        update, reset = tf.split(gates, 2, 1)
        candidate = given[:, 2 * num_units :] + reset * kept[:, 2 * num_units :]
        candidate = tf.tanh(candidate)
        state = candidate + update * (state - candidate)
        return number + 1, state, states.write(number, state)

    states = tf.TensorArray(tf.float32, num_frames, element_shape=state.shape)
    _, state, states = tf.while_loop(
        lambda number, *_: number < num_frames, step, (0, state, states)
    )
    return states.stack(), state
