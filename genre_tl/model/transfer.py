"""Transfer: weights from a tagger to a classifier, and the head trained alone."""

from __future__ import annotations

import keras
import numpy as np

from genre_tl.model import networks


def copy_backbone(source: keras.Model, network: keras.Model) -> None:
    """Copies all weights but those of the head; ValueError if a layer differs."""
    for layer in network.layers:
        if layer.name != networks.HEAD:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def backbone(network: keras.Model) -> keras.Model:
    """Returns frames -> the vector that the head reads; layers are shared."""
    return keras.Model(network.inputs[0], network.get_layer(networks.HEAD).input)


def probe(vector_size: int, num_genres: int, l2: float) -> keras.Model:
    """Builds a linear model from vectors to genres; `l2` is its penalty."""
    head = keras.layers.Dense(
        num_genres,
        activation="softmax",
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(l2),
        name=networks.HEAD,
    )
    return keras.Sequential([keras.Input((vector_size,)), head], name="probe")


def set_head(
    network: keras.Model, probe: keras.Model, mean: np.ndarray, stddev: np.ndarray
) -> None:
    """Gives a network the head of a probe, for vectors that are not standardised.

    The probe was trained on vectors minus `mean`, divided by `stddev`, both
    `[vector_size]`.
    """
    kernel, bias = probe.get_layer(networks.HEAD).get_weights()
    kernel = kernel.astype(np.float64) / stddev[:, np.newaxis]
    network.get_layer(networks.HEAD).set_weights([kernel, bias - mean @ kernel])
