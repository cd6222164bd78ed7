"""The recurrent backbone, its heads, and how models are kept.

Frames of a clip go in, scores come out:

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> head

With the read-out of all layers a second standardisation stands before the head.

`tagger` has a sigmoid for every tag, `classifier` a softmax over genres; `carry_over`
takes what the one has learned to the other (Song et al. 2017, section 3).
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import textwrap
import zipfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import optimize, special

from genre_tl import params, scattering
from genre_tl.model import gru

HEAD = "head"
_BEFORE_LAYERS, _BEFORE_HEAD = "standardize", "standardize_joined"

_Path = str | os.PathLike[str]


@keras.saving.register_keras_serializable(package="genre_tl")
class Standardize(keras.layers.Layer):
    """Subtracts each feature's mean and divides by its standard deviation.

    The statistics are weights: they travel with the model and are set by
    `standardize`, from training clips alone.

    Input and output: `[..., features]`.
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
        """Sets mean and variance, each `[features]`."""
        self.mean.assign(mean)
        self.stddev.assign(np.maximum(np.sqrt(variance), self._MIN_STDDEV))


def standardize(
    network: keras.Model,
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    is_for_layers: bool = True,
) -> None:
    """Sets the statistics of frames that a network goes by.

    Args:
      network: it is changed.
      mean: of each path, `[paths]`.
      variance: of each path, `[paths]`.
      is_for_layers: whether the recurrent layers go by them too, and not only the
        head where it reads the input.
    """
    layer = network.get_layer(_BEFORE_LAYERS)
    if is_for_layers:
        layer.set_statistics(mean, variance)
    for joined in network.layers:
        if joined.name == _BEFORE_HEAD:
            # It reads the mean of frames that the other has standardised: of frames
            # as they are, float32 would lose too much of paths that hardly vary.
            rest = (0, joined.mean.shape[0] - len(mean))
            shift, ratio = np.zeros(len(mean)), np.ones(len(mean))
            if not is_for_layers:
                shift = (mean - layer.mean.numpy()) / layer.stddev.numpy()
                ratio = variance / np.square(layer.stddev.numpy())
            joined.set_statistics(
                np.pad(shift, rest), np.pad(ratio, rest, constant_values=1)
            )


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
        Standardize(name=_BEFORE_LAYERS),
    ]
    for number in range(1, model.num_layers + 1):
        keeps_all = number < model.num_layers or model.readout != "last"
        name = f"gru_{number}"
        layers.append(gru.GRU(model.num_units, return_sequences=keeps_all, name=name))
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
        if isinstance(layer, (Standardize, gru.GRU)):
            name = f"mean_{len(means)}"
            means.append(keras.layers.GlobalAveragePooling1D(name=name)(hidden))
    joined = keras.layers.Concatenate(name="joined")(means)
    # So a head can go by the statistics of a collection that the layers do not know.
    return Standardize(name=_BEFORE_HEAD)(joined)


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

    They come with the statistics of the frames that they were trained on.

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
        if isinstance(layer, keras.layers.GRU) or layer.name == _BEFORE_LAYERS:
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


def calibrated(
    weights: Sequence[np.ndarray], scores: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Makes a head that knows genres by their tags fit for a new collection.

    Its bias is shifted until the clips favour no genre on the whole, and all is
    multiplied with what gives the labels the highest likelihood: how far tags of one
    collection are to be trusted in another is learned, in a single number.

    Args:
      weights: of the head of a classifier, kernel and bias.
      scores: its probabilities of the clips to learn from, `[clips, genres]`.
      labels: of the clips, `[clips, genres]`.

    Returns:
      Its new weights.
    """
    logits = np.log(np.maximum(scores, 1e-7))
    shift = logits.mean(axis=0)
    slope, _ = likeliest_slope(logits - shift, labels)
    kernel, bias = weights
    return [slope * kernel, slope * (bias - shift + shift.mean())]


def likeliest_slope(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns what to multiply logits with, so that the labels are likeliest.

    Args:
      logits: `[clips, genres]`; what is added to all of a clip's has no effect.
      labels: `[clips, genres]`.

    Returns:
      The slope, from 0 to 4, and the mean log loss that is left with it.
    """

    def loss(slope: float) -> float:
        scaled = slope * logits
        return float(np.mean(special.logsumexp(scaled, 1) - (scaled * labels).sum(1)))

    found = optimize.minimize_scalar(loss, bounds=(0, 4), method="bounded")
    return float(found.x), float(found.fun)


def divided(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Divides a network into what recurs, and the head.

    Returns:
      Two models of its very layers: frames to `[batch, units]`, and that to scores,
      by way of the head's own standardisation and dropout.
    """
    has_own = isinstance(network.layers[-3], Standardize)
    layers = network.layers[-3 if has_own else -2 :]
    below = keras.Model(network.inputs[0], layers[0].input, name="below")
    scores = vectors = keras.layers.Input(layers[0].input.shape[1:], name="vectors")
    for layer in layers:
        scores = layer(scores)
    return below, keras.Model(vectors, scores, name="above")


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


def redraw(network: keras.Model, seed: int) -> None:
    """Draws the weights of all recurrent layers anew, as Keras spreads them.

    Takes a fraction of the time that Keras's own initializers take.

    Args:
      network: it is changed; its head is not.
      seed: all that the weights depend on.
    """
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.GRU)]
    for number, layer in enumerate(layers):
        cell, key = layer.cell, tf.constant([seed, 2 * number], tf.int64)
        bound = math.sqrt(6 / sum(cell.kernel.shape))  # Glorot and Bengio 2010.
        cell.kernel.assign(
            tf.random.stateless_uniform(cell.kernel.shape, key, -bound, bound)
        )
        cell.recurrent_kernel.assign(
            _orthonormal_rows(cell.recurrent_kernel.shape, key + [0, 1])
        )
        cell.bias.assign(tf.zeros_like(cell.bias))


def _orthonormal_rows(shape: tuple[int, int], key: tf.Tensor) -> tf.Tensor:
    """Draws a matrix of orthonormal rows, any as likely (Saxe et al. 2014)."""
    rows = tf.random.stateless_normal(shape, key)
    triangle = tf.linalg.cholesky(tf.matmul(rows, rows, transpose_b=True))
    return tf.linalg.triangular_solve(triangle, rows)


def uncompiled(network: keras.Model, *, is_portable: bool = False) -> keras.Model:
    """Returns a copy without optimizer, all of whose layers can be trained.

    Args:
      network: the model; it stays as it is.
      is_portable: for inference on any device. Keras puts cuDNN operations into a
        graph that is traced where a GPU is in sight; such a graph does not run
        without one.
    """
    config = network.get_config()
    for layer in config["layers"]:
        if is_portable and layer["class_name"] == "GRU":
            layer["config"]["use_cudnn"] = False
    copy = type(network).from_config(config)
    copy.set_weights(network.get_weights())
    copy.trainable = True
    return copy


def save(network: keras.Model, path: _Path) -> None:
    """Writes a `.keras` file, whole or not at all.

    Args:
      network: the model.
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


def load(path: _Path) -> keras.Model:
    """Reads what `save` wrote: every weight must be there, and no other.

    Args:
      path: a `.keras` file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a model of this package, or does not fit.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model; train one first")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        # Keras may print a whole configuration.
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        message = f"{path}: not a complete model file{_of_version(path)}: {reason}"
        raise ValueError(message) from error


def _of_version(path: _Path) -> str:
    """Returns which Keras wrote a file that does not load, if it was another."""
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        return ""
    if version == keras.__version__:
        return ""
    return (
        f", or not for Keras {keras.__version__} (it was written by {version}: "
        f"`pip install keras=={version}`, or train anew)"
    )
