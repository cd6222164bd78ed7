"""The recurrent backbone, its heads, and how models are kept.

A model is one Keras `Sequential`: frames of a clip go in, scores come out.

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> head

`tagger` has a sigmoid for every tag; `swap_head` pops it and puts a softmax over
genres in its place (Song et al. 2017, section 3).
"""

from __future__ import annotations

import os
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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


def backbone(model: params.Model, num_paths: int, *, seed: int = 0) -> keras.Sequential:
    """Builds frames -> vector, without a head.

    Args:
      model: sizes, dropout and read-out.
      num_paths: features of a frame.
      seed: of initial weights and dropout; the same seed gives the same model.

    Returns:
      `[batch, frames, num_paths]`, padded with `scattering.PAD_VALUE`, to
      `[batch, num_units]`. What is padded, and the other clips of the batch,
      have no effect.

    Raises:
      ValueError: if the read-out is unknown.
    """
    if model.readout not in ("mean", "last"):
        raise ValueError(f"readout must be 'mean' or 'last', got {model.readout!r}")
    keras.utils.set_random_seed(seed)
    layers: list[keras.layers.Layer] = [
        keras.layers.Input((None, num_paths), name="frames"),
        keras.layers.Masking(scattering.PAD_VALUE, name="masking"),
        Standardize(name="standardize"),
    ]
    for number in range(1, model.num_layers + 1):
        is_last = number == model.num_layers
        layers.append(
            keras.layers.GRU(
                model.num_units,
                return_sequences=not is_last or model.readout == "mean",
                name=f"gru_{number}",
            )
        )
        if is_last and model.readout == "mean":
            layers.append(keras.layers.GlobalAveragePooling1D(name="mean"))
        layers.append(keras.layers.Dropout(model.dropout, name=f"dropout_{number}"))
    return keras.Sequential(layers, name="backbone")


def tagger(
    model: params.Model, num_paths: int, num_tags: int, *, seed: int = 0
) -> keras.Sequential:
    """Builds frames -> `[batch, num_tags]` independent probabilities."""
    network = backbone(model, num_paths, seed=seed)
    return _with_head(network, "tagger", num_tags, "sigmoid")


def classifier(
    model: params.Model, num_paths: int, num_genres: int, *, seed: int = 0
) -> keras.Sequential:
    """Builds frames -> `[batch, num_genres]` probabilities, from random weights."""
    network = backbone(model, num_paths, seed=seed)
    return _with_head(network, "classifier", num_genres, "softmax")


def swap_head(
    network: keras.Sequential, num_genres: int, *, seed: int = 0
) -> keras.Sequential:
    """Pops the head and puts a fresh softmax over genres in its place.

    Args:
      network: a tagger or classifier; it is changed.
      num_genres: outputs of the new head.
      seed: of the new head's weights.

    Returns:
      `network`, now a classifier that keeps the backbone's weights.

    Raises:
      ValueError: if the last layer is not a head.
    """
    if network.layers[-1].name != HEAD:
        raise ValueError(
            f"the last layer of {network.name!r} is {network.layers[-1].name!r}, not "
            f"{HEAD!r}: give a tagger or a classifier"
        )
    keras.utils.set_random_seed(seed)
    network.pop()
    return _with_head(network, "classifier", num_genres, "softmax")


def _with_head(
    network: keras.Sequential, name: str, num_labels: int, activation: str
) -> keras.Sequential:
    network.add(keras.layers.Dense(num_labels, activation=activation, name=HEAD))
    network.name = name
    return network


def reseed(network: keras.Sequential, seed: int) -> None:
    """Sets the state of every dropout layer as a function of `seed` alone."""
    for number, layer in enumerate(network.layers):
        if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
            state = np.random.SeedSequence([seed, number]).generate_state(2)
            layer.seed_generator.state.assign(state)


def portable(network: keras.Sequential) -> keras.Sequential:
    """Returns a copy for inference that runs on any device.

    Keras puts cuDNN operations into a graph that is traced where a GPU is in
    sight; such a graph does not run without one.
    """
    config = network.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "GRU":
            layer["config"]["use_cudnn"] = False
    copy = keras.Sequential.from_config(config)
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


def load(path: _Path, *, compiled: bool = False) -> keras.Sequential:
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
