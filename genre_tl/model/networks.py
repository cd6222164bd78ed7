"""Taggers and classifiers: frames of a clip to scores, and their files.

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> head

With read-out `last` a network is a `keras.Sequential` (Song et al. 2017, section 3).
"""

from __future__ import annotations

import itertools
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
_MIN_STDDEV = 1e-3  # A path that never varies must not be amplified.

PathLike = str | os.PathLike[str]


@keras.saving.register_keras_serializable(package="genre_tl")
class Standardize(keras.layers.Layer):
    """Subtracts each feature's mean and divides by its standard deviation.

    The statistics are weights, so they are saved with the model; `standardize` sets
    them. Input and output: `[..., features]`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the statistics: mean 0 and deviation 1 until they are set."""
        options = {"shape": (input_shape[-1],), "trainable": False}
        self.mean = self.add_weight(name="mean", initializer="zeros", **options)
        self.stddev = self.add_weight(name="stddev", initializer="ones", **options)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the standardised input."""
        return (inputs - self.mean) / self.stddev


def standardize(network: keras.Model, mean: np.ndarray, variance: np.ndarray) -> None:
    """Sets the statistics of the input frames: mean and variance, each `[paths]`."""
    stddev = np.maximum(np.sqrt(variance), _MIN_STDDEV)
    network.get_layer(_STANDARDIZE).set_weights([mean, stddev])


def tagger(
    model: params.Model, num_paths: int, num_tags: int, *, seed: int = 0
) -> keras.Model:
    """Builds a model from frames to independent probabilities `[batch, num_tags]`.

    Frames are `[batch, frames, num_paths]`, padded at the end with
    `features.PAD_VALUE`. Neither padding nor the other clips of a batch have an effect
    on a clip's scores. `seed` is that of weights and dropout.
    """
    return _build("tagger", model, num_paths, (num_tags, "sigmoid"), seed)


def classifier(
    model: params.Model, num_paths: int, num_genres: int, *, seed: int = 0
) -> keras.Model:
    """Builds a model from frames to genre probabilities; see `tagger`."""
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
    numbers = range(1, model.num_layers + 1)
    stack = [_recurrent(model, number) for number in numbers]
    dropouts = [
        keras.layers.Dropout(model.dropout, name=f"dropout_{number}")
        for number in numbers
    ]
    head = keras.layers.Dense(scores[0], activation=scores[1], name=HEAD)
    if model.readout == "last":
        hidden = itertools.chain(*zip(stack, dropouts, strict=True))
        return keras.Sequential([frames, *first, *hidden, head], name=name)
    states = first[1](first[0](frames))
    outputs = [states]
    for layer, dropout in zip(stack, dropouts, strict=True):
        outputs.append(layer(states))
        states = dropout(outputs[-1])
    means = [
        keras.layers.GlobalAveragePooling1D(name=f"mean_{number}")(output)
        for number, output in enumerate(outputs)
    ]
    joined = keras.layers.Concatenate(name="joined")(means)
    last = keras.layers.Dropout(model.dropout, name="dropout_joined")
    return keras.Model(frames, head(last(joined)), name=name)


def _recurrent(model: params.Model, number: int) -> keras.layers.Layer:
    options: dict[str, Any] = {
        "units": model.num_units,
        "return_sequences": number < model.num_layers or model.readout != "last",
        "name": f"{model.cell}_{number}",
    }
    if model.cell == "lstm":
        return keras.layers.LSTM(**options)
    # cuDNN is faster than our loop, and `keras.layers.GRU` is the way to it.
    if model.cell == "gru" and not tf.config.list_physical_devices("GPU"):
        return gru.GRU(**options)
    layer = keras.layers.GRU(**options)
    if model.cell == "gru":
        return layer
    return keras.layers.Bidirectional(layer, name=layer.name)


def portable(network: keras.Model) -> keras.Model:
    """Returns an uncompiled, trainable copy that runs with and without a GPU.

    `keras.layers.GRU` becomes `gru.GRU`: Keras's layer, traced where there is a GPU,
    leaves cuDNN operations in the graph, which run nowhere else.
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
    """Reads a `.keras` file; raises ValueError if it is damaged or incomplete."""
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
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        return ""
    hint = (
        f", or written by Keras {version} (this is {keras.__version__}): "
        f"`pip install keras=={version}`, or train again"
    )
    return hint * (version != keras.__version__)
