"""Taggers and classifiers: frames of a clip to scores, and their files.

  masking -> standardise -> 5 x (GRU -> dropout) -> read-out -> embedding -> head

With read-out `last` a network is a `keras.Sequential` (Song et al. 2017, section 3).
`transfer` builds classifiers with the backbone of a tagger.
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

STANDARDIZE = "standardize"
"""Name of the layer that standardises the input frames."""

READOUT = "joined"
"""Name of the layer that joins the means over frames, with read-out `all`."""

EMBEDDING, VECTORS = "embedding", "vectors"
"""Names of the layer between read-out and head, and of that for target vectors."""

_PRIORS = 0.002, 0.9  # of a tag; outside, a head would hardly learn
_NEWER = ("input_axes", "output_axes", "quantization_config")  # than Keras 3.12
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
    network.get_layer(STANDARDIZE).set_weights([mean, stddev])


@keras.saving.register_keras_serializable(package="genre_tl")
class Gaussian(keras.layers.Layer):
    """Similarities to fixed points: `exp(-||x - centre||^2)`.

    Input: `[batch, features]`. Output: `[batch, centres]`. The centres are weights,
    so they are saved with the model.
    """

    def __init__(self, num_centres: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_centres = num_centres

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the centres, `[features, centres]`."""
        shape = input_shape[-1], self.num_centres
        self.centres = self.add_weight(shape, "zeros", trainable=False, name="centres")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the similarities."""
        return gaussian(inputs, self.centres)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return super().get_config() | {"num_centres": self.num_centres}


def gaussian(points: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns `exp(-||x - c||^2)` of `[batch, features]` and `[features, centres]`."""
    squares = tf.reduce_sum(points**2, 1, keepdims=True) + tf.reduce_sum(centres**2, 0)
    distances = squares - 2 * tf.matmul(points, centres)
    return tf.exp(-tf.nn.relu(distances))  # Rounding may leave one below zero.


@keras.saving.register_keras_serializable(package="genre_tl")
def calibrated_softmax(logits: tf.Tensor) -> tf.Tensor:
    """Returns calibrated probabilities, `[batch, genres]`; see `calibrated`."""
    centred = logits - tf.reduce_mean(logits, -1, keepdims=True)
    norm = tf.sqrt(tf.reduce_sum(centred**2, -1, keepdims=True))
    ratio = params.CALIBRATION_NORM / tf.maximum(norm, 1e-6)
    return tf.nn.softmax(centred * ratio**params.CALIBRATION_POWER)


def calibrated(network: keras.Model, scale: float) -> keras.Model:
    """Returns a portable copy of a classifier that gives calibrated probabilities.

    `scale` is from `calibration.fit`. It becomes part of the head's weights.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name == HEAD:
            config["activation"] = calibrated_softmax
        return type(layer).from_config(config)

    plain = portable(network)
    copy = keras.models.clone_model(plain, clone_function=clone)
    copy.set_weights(plain.get_weights())
    head = copy.get_layer(HEAD)
    # The activation takes most of a scale away again.
    factor = scale ** (1 / (1 - params.CALIBRATION_POWER))
    head.set_weights([factor * weight for weight in head.get_weights()])
    return copy


def set_prior(network: keras.Model, mean: np.ndarray) -> None:
    """Sets the biases of a tagger's head to the log-odds of the tags' mean values.

    A bias moves by less than the learning rate in a step: rare tags would take long.
    """
    kernel, _ = network.get_layer(HEAD).get_weights()
    mean = np.clip(np.nan_to_num(mean), *_PRIORS)
    network.get_layer(HEAD).set_weights([kernel, np.log(mean / (1 - mean))])


def mean(network: keras.Model) -> np.ndarray:
    """Returns the mean that is subtracted from the input frames, `[paths]`."""
    return network.get_layer(STANDARDIZE).get_weights()[0]


def tagger(
    model: params.Model,
    num_paths: int,
    num_tags: int,
    *,
    num_vector_dims: int = 0,
    seed: int = 0,
) -> keras.Model:
    """Builds a model from frames to independent probabilities `[batch, num_tags]`.

    Frames are `[batch, frames, num_paths]`, padded at the end with
    `features.PAD_VALUE`. Neither padding nor the other clips of a batch have an effect
    on a clip's scores. `seed` is that of weights and dropout. With `num_vector_dims`,
    so many linear outputs follow the probabilities, to learn target vectors by;
    `without_vectors` removes them after training.
    """
    network = _build(model, num_paths, (num_tags, "sigmoid"), seed)
    if num_vector_dims:
        head = network.get_layer(HEAD)
        vectors = keras.layers.Dense(num_vector_dims, name=VECTORS)(head.input)
        outputs = keras.layers.Concatenate(name="outputs")([head.output, vectors])
        network = keras.Model(network.inputs[0], outputs, name="tagger")
    return network


def classifier(
    model: params.Model, num_paths: int, num_genres: int, *, seed: int = 0
) -> keras.Model:
    """Builds a model from frames to genre probabilities; see `tagger`."""
    return _build(model, num_paths, (num_genres, "softmax"), seed)


def without_vectors(network: keras.Model) -> keras.Model:
    """Returns a tagger that gives only the scores; layers are shared."""
    if network.layers[-1].name == HEAD:
        return network
    return keras.Model(network.inputs[0], network.get_layer(HEAD).output, name="tagger")


def embedder(network: keras.Model) -> keras.Model:
    """Returns frames -> embedding, or what is read of a clip if there is none."""
    # The last dropout follows the read-out.
    last = [x for x in network.layers if isinstance(x, keras.layers.Dropout)][-1:]
    named = [x for x in network.layers if x.name == EMBEDDING]
    tensor = (named or last)[0].output
    return keras.Model(network.inputs[0], tensor, name="backbone")


def _build(
    model: params.Model, num_paths: int, scores: tuple[int, str], seed: int
) -> keras.Model:
    keras.utils.set_random_seed(seed)
    name = {"sigmoid": "tagger", "softmax": "classifier"}[scores[1]]
    frames = keras.Input((None, num_paths), name="frames")
    first = [
        keras.layers.Masking(features.PAD_VALUE, name="masking"),
        Standardize(name=STANDARDIZE),
    ]
    numbers = range(1, model.num_layers + 1)
    stack = [_recurrent(model, number) for number in numbers]
    dropouts = [
        keras.layers.Dropout(model.dropout, name=f"dropout_{number}")
        for number in numbers
    ]
    last = [keras.layers.Dense(scores[0], activation=scores[1], name=HEAD)]
    if model.embedding_units:
        last.insert(0, keras.layers.Dense(model.embedding_units, name=EMBEDDING))
    if model.readout == "last":
        hidden = itertools.chain(*zip(stack, dropouts, strict=True))
        return keras.Sequential([frames, *first, *hidden, *last], name=name)
    states = first[1](first[0](frames))
    outputs = [states]
    for layer, dropout in zip(stack, dropouts, strict=True):
        outputs.append(layer(states))
        states = dropout(outputs[-1])
    vector = keras.layers.Concatenate(name=READOUT)(
        [
            keras.layers.GlobalAveragePooling1D(name=f"mean_{number}")(output)
            for number, output in enumerate(outputs)
        ]
    )
    for layer in [keras.layers.Dropout(model.dropout, name="dropout_joined"), *last]:
        vector = layer(vector)
    return keras.Model(frames, vector, name=name)


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


def to_half(network: keras.Model) -> keras.Model:
    """Returns a portable copy whose weights are rounded to half precision."""
    copy = portable(network)
    weights = [weight.astype(np.float16) for weight in network.get_weights()]
    copy.set_weights([weight.astype(np.float32) for weight in weights])
    return copy


def save(network: keras.Model, path: PathLike) -> None:
    """Writes a portable copy as a `.keras` file, atomically."""
    target = pathlib.Path(path)
    # Keras insists on the suffix.
    partial = target.with_name(f"{target.stem}.partial.keras")
    try:
        with files.named(target):
            portable(network).save(partial)
        with files.whole(target) as unfinished:
            _copy_for_older_keras(partial, unfinished)
    finally:
        partial.unlink(missing_ok=True)


def _copy_for_older_keras(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a `.keras` file without settings that are off and newer than Keras 3.12.

    Keras refuses a setting that it does not know, though it be None.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename == "config.json":
                content = json.dumps(json.loads(content, object_hook=_known)).encode()
            new.writestr(member, content)


def _known(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in _NEWER or v is not None}


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
