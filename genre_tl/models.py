"""The recurrent backbone, its heads, and how models are kept.

Frames of a clip go in, scores come out:

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> head

`tagger` has a sigmoid for every tag, `classifier` a softmax over genres; `carry_over`
takes what the one has learned to the other (Song et al. 2017, section 3).
"""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import optimize, special

from genre_tl import params, scattering

HEAD = "head"

_Path = str | os.PathLike[str]


@keras.saving.register_keras_serializable(package="genre_tl")
class Standardize(keras.layers.Layer):
    """Subtracts each path's mean and divides by its standard deviation.

    The statistics are weights: they travel with the model and are set by
    `set_statistics`, from training clips alone.

    Input and output: `[batch, frames, paths]`.
    """

    # A path that never varies in training says nothing: do not amplify it.
    _MIN_STDDEV = 1e-3

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the statistics: mean 0 and deviation 1 until they are set."""
        shape = (input_shape[-1],)
        self.mean = self.add_weight(
            name="mean", shape=shape, initializer="zeros", trainable=False
        )
        self.stddev = self.add_weight(
            name="stddev", shape=shape, initializer="ones", trainable=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the standardised frames."""
        return (inputs - self.mean) / self.stddev

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape unchanged."""
        return input_shape

    def set_statistics(self, mean: np.ndarray, variance: np.ndarray) -> None:
        """Sets mean and variance, each `[paths]`."""
        self.mean.assign(mean)
        self.stddev.assign(np.maximum(np.sqrt(variance), self._MIN_STDDEV))


@keras.saving.register_keras_serializable(package="genre_tl")
class GRU(keras.layers.GRU):
    """`keras.layers.GRU` with a faster loop on a CPU; the same weights and results.

    Keras multiplies the input with its kernel, and sums the gradient of either
    kernel, step by step. Here the steps of a sequence do so together, and only the
    recurrence itself is a loop, with its gradient written down. Where cuDNN can be
    used, or with options that the network does not need, Keras's own loop runs.
    """

    def inner_loop(
        self,
        sequences: tf.Tensor,
        initial_state: list[tf.Tensor],
        mask: tf.Tensor | None,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns last output, all outputs and last state, as Keras asks for."""
        if not self._is_plain() or self._finds_cudnn():
            return super().inner_loop(sequences, initial_state, mask, training)
        if mask is None:
            mask = tf.ones(tf.shape(sequences)[:2], tf.bool)
        cell = self.cell
        steps = tf.transpose(sequences, [1, 0, 2])
        gates = tf.tensordot(steps, cell.kernel, 1) + cell.bias[0]
        keep = tf.transpose(mask)[:, :, tf.newaxis]  # [frames, batch, 1]
        # Only what is trained needs the gradient, and an export must not hold it.
        recur = _differentiable(keep) if training else _recur(keep)
        states, *_ = recur(
            gates,
            tf.convert_to_tensor(cell.recurrent_kernel),
            tf.convert_to_tensor(cell.bias[1]),
            initial_state[0],
        )
        return states[-1], tf.transpose(states, [1, 0, 2]), [states[-1]]

    def _is_plain(self) -> bool:
        return (
            self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and self.use_bias
            and self.reset_after
            and not (self.dropout or self.recurrent_dropout or self.go_backwards)
        )

    def _finds_cudnn(self) -> bool:
        return bool(self.use_cudnn and tf.config.list_logical_devices("GPU"))


def _recur(keep: tf.Tensor) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Returns the loop over frames (Cho et al. 2014, with `reset_after`).

    The loop takes the input's part of the gates `[frames, batch, 3 units]`, the
    recurrent kernel `[units, 3 units]`, its bias `[3 units]` and the first state
    `[batch, units]`. It returns, each `[frames, batch, ...]`, the states, update
    and reset gates together, candidates, and the candidates' recurrent part.

    Args:
      keep: bool `[frames, batch, 1]`; where false, the state stays as it was.
    """

    def loop(
        gates: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        units = kernel.shape[0]

        def step(
            frame: tf.Tensor, state: tf.Tensor, *kept: tf.TensorArray
        ) -> tuple[Any, ...]:
            given, recurrent = gates[frame], tf.matmul(state, kernel) + bias
            opened = tf.sigmoid(given[:, : 2 * units] + recurrent[:, : 2 * units])
            recurrent = recurrent[:, 2 * units :]
            candidate = tf.tanh(given[:, 2 * units :] + opened[:, units:] * recurrent)
            new = candidate + opened[:, :units] * (state - candidate)
            new = tf.where(keep[frame], new, state)
            values = (new, opened, candidate, recurrent)
            written = (a.write(frame, v) for a, v in zip(kept, values, strict=True))
            return frame + 1, new, *written

        frames = tf.shape(gates)[0]
        arrays = [tf.TensorArray(gates.dtype, frames) for _ in range(4)]
        last = tf.while_loop(
            lambda frame, *_: frame < frames, step, (0, state, *arrays)
        )
        return tuple(array.stack() for array in last[2:])

    return loop


def _differentiable(keep: tf.Tensor) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Returns the loop of `_recur` with a gradient, of the states alone."""

    @tf.custom_gradient
    def loop(
        gates: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, state: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor, ...]]]:
        saved = _recur(keep)(gates, kernel, bias, state)
        states, opened, candidate, recurrent = saved

        def gradient(upstream: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            before = tf.concat([state[tf.newaxis], states[:-1]], axis=0)
            update, reset = tf.split(opened, 2, axis=2)
            # Of the state after a frame, by each gate; nothing flows where padded.
            valid = tf.cast(keep, gates.dtype)
            by_update = valid * (before - candidate) * update * (1 - update)
            by_candidate = valid * (1 - update) * (1 - candidate**2)
            by_reset = by_candidate * recurrent * reset * (1 - reset)
            slopes = tf.concat([by_update, by_reset, by_candidate * reset], axis=2)
            carried = tf.where(keep, update, 1)
            total, of_first = _backward(upstream, slopes, carried, kernel)
            total = tf.tile(total, [1, 1, 3])
            # All frames and clips in one product, where Keras adds up by frame.
            of_recurrent = tf.reshape(total * slopes, [-1, kernel.shape[1]])
            before = tf.reshape(before, [-1, kernel.shape[0]])
            return (
                total * tf.concat([by_update, by_reset, by_candidate], axis=2),
                tf.matmul(before, of_recurrent, transpose_a=True),
                tf.reduce_sum(of_recurrent, axis=0),
                of_first,
            )

        return saved, gradient

    return loop


def _backward(
    upstream: tf.Tensor, slopes: tf.Tensor, carried: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs back through the frames.

    Args:
      upstream: gradient of each state by what follows the layer.
      slopes: of the state by the recurrent part, `[frames, batch, 3 units]`.
      carried: share of the state before that stays, `[frames, batch, units]`.
      kernel: the recurrent kernel, `[units, 3 units]`.

    Returns:
      Gradients of every state, all that follows considered, and of the first one.
    """
    frames = tf.shape(upstream)[0]

    def step(
        frame: tf.Tensor, gradient: tf.Tensor, totals: tf.TensorArray
    ) -> tuple[Any, ...]:
        total = gradient + upstream[frame]
        gates = tf.tile(total, [1, 3]) * slopes[frame]
        # In this order the product takes a CPU a third of the time.
        product = tf.transpose(tf.matmul(kernel, gates, transpose_b=True))
        return frame - 1, total * carried[frame] + product, totals.write(frame, total)

    totals = tf.TensorArray(upstream.dtype, frames)
    begin = (frames - 1, tf.zeros_like(upstream[0]), totals)
    _, first, totals = tf.while_loop(lambda frame, *_: frame >= 0, step, begin)
    return totals.stack(), first


def backbone(model: params.Model, num_paths: int, *, seed: int = 0) -> keras.Model:
    """Builds frames -> vector, without a head.

    Args:
      model: sizes, dropout and read-out.
      num_paths: features of a frame.
      seed: of initial weights and dropout; the same seed gives the same model.

    Returns:
      `[batch, frames, num_paths]`, padded with `scattering.PAD_VALUE`, to
      `[batch, num_units]`, or with read-out `all` to
      `[batch, num_paths + num_layers * num_units]`. What is padded, and the other
      clips of the batch, have no effect.

    Raises:
      ValueError: if the read-out is unknown.
    """
    if model.readout not in ("all", "mean", "last"):
        raise ValueError(
            f"readout must be 'all', 'mean' or 'last', got {model.readout!r}"
        )
    keras.utils.set_random_seed(seed)
    frames = keras.layers.Input((None, num_paths), name="frames")
    layers: list[keras.layers.Layer] = [
        keras.layers.Masking(scattering.PAD_VALUE, name="masking"),
        Standardize(name="standardize"),
    ]
    for number in range(1, model.num_layers + 1):
        keeps_all = number < model.num_layers or model.readout != "last"
        name = f"gru_{number}"
        layers.append(GRU(model.num_units, return_sequences=keeps_all, name=name))
        if number < model.num_layers:
            layers.append(_dropout(model, number))
    last = _dropout(model, model.num_layers)
    if model.readout == "all":
        return keras.Model(frames, last(_joined_means(frames, layers)), name="backbone")
    if model.readout == "mean":
        layers.append(keras.layers.GlobalAveragePooling1D(name="mean"))
    return keras.Sequential([frames, *layers, last], name="backbone")


def _dropout(model: params.Model, number: int) -> keras.layers.Layer:
    return keras.layers.Dropout(model.dropout, name=f"dropout_{number}")


def _joined_means(frames: tf.Tensor, layers: list[keras.layers.Layer]) -> tf.Tensor:
    means: list[tf.Tensor] = []
    hidden = frames
    for layer in layers:
        hidden = layer(hidden)
        if isinstance(layer, (Standardize, GRU)):
            name = f"mean_{len(means)}"
            means.append(keras.layers.GlobalAveragePooling1D(name=name)(hidden))
    return keras.layers.Concatenate(name="joined")(means)


def tagger(
    model: params.Model, num_paths: int, num_tags: int, *, seed: int = 0
) -> keras.Model:
    """Builds frames -> `[batch, num_tags]` independent probabilities."""
    network = backbone(model, num_paths, seed=seed)
    return _with_head(network, "tagger", num_tags, "sigmoid")


def classifier(
    model: params.Model, num_paths: int, num_genres: int, *, seed: int = 0
) -> keras.Model:
    """Builds frames -> `[batch, num_genres]` probabilities, from random weights."""
    network = backbone(model, num_paths, seed=seed)
    return _with_head(network, "classifier", num_genres, "softmax")


def carry_over(
    tagger: keras.Model,
    network: keras.Model,
    *,
    tags: Sequence[str] = (),
    genres: Sequence[str] = (),
) -> None:
    """Gives a classifier the recurrent layers of a tagger.

    Args:
      tagger: the pre-trained model.
      network: of the same layers; it is changed.
      tags: what the tagger's head names.
      genres: what the classifier's head names. One that is also a tag takes over
        the tag's weights; the others keep theirs.

    Raises:
      ValueError: if a layer is missing or has another size.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.GRU):
            layer.set_weights(tagger.get_layer(layer.name).get_weights())
    source, target = (each.get_layer(HEAD).get_weights() for each in (tagger, network))
    columns = {_plain(tag): column for column, tag in enumerate(tags)}
    for column, genre in enumerate(genres):
        if _plain(genre) in columns:
            for theirs, ours in zip(source, target, strict=True):
                ours[..., column] = theirs[..., columns[_plain(genre)]]
    network.get_layer(HEAD).set_weights(target)


def _plain(name: str) -> str:
    """Returns `hiphop` of `Hip Hop` and `hip-hop`."""
    return "".join(filter(str.isalnum, name.lower()))


def calibrate(network: keras.Model, scores: np.ndarray, labels: np.ndarray) -> None:
    """Makes a head that knows genres by their tags fit for a new collection.

    Its bias is shifted until the clips favour no genre on the whole, and all is
    multiplied with what gives the labels the highest likelihood: how far tags of one
    collection are to be trusted in another is learned, in a single number.

    Args:
      network: a classifier; its head is changed.
      scores: its probabilities of the clips to learn from, `[clips, genres]`.
      labels: of the clips, `[clips, genres]`.
    """
    scores = np.log(np.maximum(scores, 1e-7))
    shift = scores.mean(axis=0)

    def cost(slope: float) -> float:
        logits = slope * (scores - shift)
        return float(np.mean(special.logsumexp(logits, 1) - (logits * labels).sum(1)))

    slope = optimize.minimize_scalar(cost, bounds=(0, 4), method="bounded").x
    kernel, bias = network.get_layer(HEAD).get_weights()
    bias = bias - shift + shift.mean()
    network.get_layer(HEAD).set_weights([slope * kernel, slope * bias])


def divided(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Divides a network into what the head reads, and the head.

    Returns:
      Two models of its very layers: frames to `[batch, units]`, without dropout,
      and that to scores, with dropout.
    """
    dropout, head = network.layers[-2:]
    below = keras.Model(network.inputs, dropout.input, name="below")
    vectors = keras.layers.Input(dropout.input.shape[1:], name="vectors")
    return below, keras.Model(vectors, head(dropout(vectors)), name="above")


def _with_head(
    network: keras.Model, name: str, num_labels: int, activation: str
) -> keras.Model:
    head = keras.layers.Dense(num_labels, activation=activation, name=HEAD)
    if isinstance(network, keras.Sequential):
        network.add(head)
        network.name = name
        return network
    return keras.Model(network.input, head(network.output), name=name)


def reseed(network: keras.Model, seed: int, layers: Sequence[Any] = ()) -> None:
    """Sets the state of dropout layers, all or those given, by `seed` alone."""
    for number, layer in enumerate(network.layers):
        is_wanted = not layers or layer in layers
        if is_wanted and isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
            state = np.random.SeedSequence([seed, number]).generate_state(2)
            layer.seed_generator.state.assign(state)


def portable(network: keras.Model) -> keras.Model:
    """Returns a copy for inference that runs on any device.

    Keras puts cuDNN operations into a graph that is traced where a GPU is in
    sight; such a graph does not run without one.
    """
    config = network.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "GRU":
            layer["config"]["use_cudnn"] = False
    copy = type(network).from_config(config)
    copy.set_weights(network.get_weights())
    return copy


def save(network: keras.Model, path: _Path) -> None:
    """Writes a `.keras` file, whole or not at all.

    Args:
      network: the model, with its optimizer if it is compiled.
      path: ends in `.keras`.
    """
    target = pathlib.Path(path)
    # Keras goes by the suffix, so the mark of what is unfinished stands before it.
    partial = target.with_name(f"{target.stem}.partial.keras")
    try:
        network.save(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: _Path, *, compiled: bool = False) -> keras.Model:
    """Reads what `save` wrote: every weight must be there, and no other.

    Args:
      path: a `.keras` file.
      compiled: also restore the optimizer, to go on training.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a model of this package, or does not fit.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model; train one first")
    try:
        return keras.saving.load_model(path, compile=compiled)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a complete model file: {error}") from error
