"""Taggers and classifiers: frames of a clip to scores, and their files.

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> head

With read-out `last` a network is a `keras.Sequential`. `tagger` has a sigmoid for
every tag, `classifier` a softmax over genres (Song et al. 2017, section 3).
"""

from __future__ import annotations

import json
import os
import pathlib
import textwrap
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import features, files, params
from genre_tl.model import gru

HEAD = "head"
"""Name of the layer that gives the scores."""

_STANDARDIZE = "standardize"

PathLike = str | os.PathLike[str]


@keras.saving.register_keras_serializable(package="genre_tl")
class Standardize(keras.layers.Layer):
    """Subtracts each feature's mean and divides by its standard deviation.

    The statistics are weights, so they are saved with the model; `standardize` sets
    them. Input and output: `[..., features]`.
    """

    MIN_STDDEV = 1e-3
    """Lower bound of a deviation: what never varies must not be amplified."""

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
        """Returns the standardised input."""
        return (inputs - self.mean) / self.stddev

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape unchanged."""
        return input_shape

    def set_statistics(self, mean: np.ndarray, variance: np.ndarray) -> None:
        """Sets mean and variance, each `[features]`."""
        self.mean.assign(mean)
        self.stddev.assign(np.maximum(np.sqrt(variance), self.MIN_STDDEV))


def standardize(network: keras.Model, mean: np.ndarray, variance: np.ndarray) -> None:
    """Sets the statistics of the input frames: mean and variance, each `[paths]`."""
    network.get_layer(_STANDARDIZE).set_statistics(mean, variance)


def tagger(
    model: params.Model, num_paths: int, num_tags: int, *, seed: int = 0
) -> keras.Model:
    """Builds frames -> `[batch, num_tags]` independent probabilities.

    Args:
      model: sizes, cell, dropout and read-out.
      num_paths: features of a frame.
      num_tags: number of scores.
      seed: random seed of weights and dropout.

    Returns:
      A model of `[batch, frames, num_paths]`, padded at the end with
      `features.PAD_VALUE`. Neither padding nor the other clips of a batch have an
      effect on a clip's scores.
    """
    return _build("tagger", model, num_paths, (num_tags, "sigmoid"), seed)


def classifier(
    model: params.Model, num_paths: int, num_genres: int, *, seed: int = 0
) -> keras.Model:
    """Builds frames -> `[batch, num_genres]` probabilities; see `tagger`."""
    return _build("classifier", model, num_paths, (num_genres, "softmax"), seed)


def _build(
    name: str, model: params.Model, num_paths: int, scores: tuple[int, str], seed: int
) -> keras.Model:
    keras.utils.set_random_seed(seed)
    frames = keras.Input((None, num_paths), name="frames")
    first = [
        keras.layers.Masking(features.PAD_VALUE, name="masking"),
        Standardize(name=_STANDARDIZE),
    ]
    stack = [_recurrent(model, number) for number in range(1, model.num_layers + 1)]
    dropouts = [
        keras.layers.Dropout(model.dropout, name=f"dropout_{number}")
        for number in range(1, model.num_layers + 1)
    ]
    head = keras.layers.Dense(scores[0], activation=scores[1], name=HEAD)
    if model.readout == "last":
        pairs = zip(stack, dropouts, strict=True)
        hidden = [layer for pair in pairs for layer in pair]
        return keras.Sequential([frames, *first, *hidden, head], name=name)
    states = first[1](first[0](frames))
    means = [keras.layers.GlobalAveragePooling1D(name="mean_0")(states)]
    for number, layer in enumerate(stack, start=1):
        states = layer(states)
        pool = keras.layers.GlobalAveragePooling1D(name=f"mean_{number}")
        means.append(pool(states))
        states = dropouts[number - 1](states)
    joined = keras.layers.Concatenate(name="joined")(means)
    last = keras.layers.Dropout(model.dropout, name="dropout_joined")
    return keras.Model(frames, head(last(joined)), name=name)


def _recurrent(model: params.Model, number: int) -> keras.layers.Layer:
    options: dict[str, Any] = {
        "units": model.num_units,
        "return_sequences": number < model.num_layers or model.readout != "last",
    }
    name = f"{model.cell}_{number}"
    if model.cell == "lstm":
        return keras.layers.LSTM(**options, name=name)
    # cuDNN is faster than our loop, and `keras.layers.GRU` is the way to it.
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if model.cell == "gru" and not has_gpu:
        return gru.GRU(**options, name=name)
    layer = keras.layers.GRU(**options, name=name)
    return (
        layer if model.cell == "gru" else keras.layers.Bidirectional(layer, name=name)
    )


def portable(network: keras.Model) -> keras.Model:
    """Returns an uncompiled, trainable copy that runs with and without a GPU.

    `keras.layers.GRU` becomes `gru.GRU`: a graph of Keras's layer that was traced
    beside a GPU holds cuDNN operations and runs nowhere else.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer) is keras.layers.GRU:
            return gru.GRU(layer.units, layer.return_sequences, name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=clone)
    copy.set_weights(network.get_weights())
    copy.trainable = True
    return copy


def save(network: keras.Model, path: PathLike) -> None:
    """Writes a portable copy as a `.keras` file, atomically."""
    target = pathlib.Path(path)
    # Keras insists on the suffix.
    partial = target.with_name(f"{target.stem}.partial.keras")
    try:
        portable(network).save(partial)
        with files.whole(target) as unfinished:
            os.replace(partial, unfinished)
    finally:
        partial.unlink(missing_ok=True)


def load(path: PathLike) -> keras.Model:
    """Reads a `.keras` file; every weight must be there, and no other.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, or not a model of this package.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model; train one first")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        # Keras may print a whole configuration.
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        message = f"{path}: not a complete model file{_version_hint(path)}: {reason}"
        raise ValueError(message) from error


def _version_hint(path: PathLike) -> str:
    """Returns a remedy where another version of Keras wrote the file, else ''."""
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        return ""
    if version == keras.__version__:
        return ""
    return (
        f", or written by Keras {version} (this is {keras.__version__}): "
        f"`pip install keras=={version}`, or train again"
    )
