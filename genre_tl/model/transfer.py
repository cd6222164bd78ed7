"""Transfer: the backbone of a tagger under a head for genres.

The sigmoid head is popped and a softmax put on. With read-out `all` the new head reads
the clip's mean frame and the logits of its tags.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from scipy import special
from sklearn.metrics import pairwise

from genre_tl.model import networks

SCALE, SIMILARITY = "scale", "similarity"
"""Names of the layers between a kept backbone and the head."""

LOGITS = "tag_logits"
"""Name of the layer of the popped head without its sigmoid."""

FEATURES = "features"
"""Name of the layer that joins what a new head reads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A trained head: `softmax(kernel^T similarity((x - mean) / stddev) + bias)`.

    Attributes:
      mean: of the features, `[features]`.
      stddev: of the features, `[features]`.
      kernel: `[features, genres]`, or `[centres, genres]`.
      bias: `[genres]`.
      centres: standardised features of clips, `[centres, features]`, that a Gaussian
        kernel compares with; None for a linear head.
    """

    mean: np.ndarray
    stddev: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    centres: np.ndarray | None = None

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns the probabilities of genres, `[clips, genres]`."""
        vectors = (features - self.mean) / self.stddev
        if self.centres is not None:
            vectors = pairwise.rbf_kernel(vectors, self.centres, gamma=1)
        return special.softmax(vectors @ self.kernel + self.bias, axis=1)


def backbone(tagger: keras.Model, *, seed: int = 0) -> keras.Model:
    """Returns a copy of a network without its head: frames -> features of a clip.

    `seed` is that of dropout.
    """
    keras.utils.set_random_seed(seed)
    copy = networks.portable(tagger)
    if isinstance(copy, keras.Sequential):
        copy.pop()
        return copy
    head, names = copy.get_layer(networks.HEAD), {x.name for x in copy.layers}
    if networks.READOUT not in names:
        return keras.Model(copy.inputs[0], head.input, name="backbone")
    logits = keras.layers.Dense(head.units, name=LOGITS)
    parts = [copy.get_layer("mean_0").output, logits(head.input)]
    logits.set_weights(head.get_weights())
    joined = keras.layers.Concatenate(name=FEATURES)(parts)
    return keras.Model(copy.inputs[0], joined, name="backbone")


def block_sizes(backbone: keras.Model) -> list[int]:
    """Returns the numbers of features that belong together: mean frame, logits."""
    joined = backbone.layers[-1]
    if joined.name != FEATURES:
        return [backbone.output_shape[-1]]
    return [part.shape[-1] for part in joined.input]


def with_head(backbone: keras.Model, head: Head) -> keras.Model:
    """Builds a classifier from a backbone, whose layers it shares, and a head."""
    frames, features = backbone.inputs[0], backbone.outputs[0]
    scale = networks.Standardize(name=SCALE)
    vector = scale(features)
    scale.set_weights([head.mean, head.stddev])
    if head.centres is not None:
        similarity = networks.Gaussian(len(head.centres), name=SIMILARITY)
        vector = similarity(vector)
        similarity.set_weights([head.centres.T])
    softmax = keras.layers.Dense(
        len(head.bias), activation="softmax", name=networks.HEAD
    )
    network = keras.Model(frames, softmax(vector), name="classifier")
    softmax.set_weights([head.kernel, head.bias])
    return network


def copy_backbone(tagger: keras.Model, classifier: keras.Model) -> keras.Model:
    """Copies all weights but the head's to a classifier, and returns it.

    Raises a ValueError if a layer differs.
    """
    for layer in classifier.layers:
        if layer.name != networks.HEAD:
            layer.set_weights(tagger.get_layer(layer.name).get_weights())
    return classifier
