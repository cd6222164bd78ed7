"""A trained network as Keras files, from waveforms and from frames."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import keras
import numpy as np

from genre_tl import features
from genre_tl.model import networks
from genre_tl.serving import checks, saved_model
from genre_tl.serving.trained_model import TrainedModel


def write(trained: TrainedModel, folder: pathlib.Path) -> Iterator[str]:
    """Writes `classifier.keras`, `backbone.keras` and `labels.txt`.

    The first takes waveforms `[batch, segment_samples]`, the second frames `[batch,
    frames, paths]`. Both load with `keras.saving.load_model` once `genre_tl.model` is
    imported.

    Args, Yields, Raises: as for `tflite.write`.
    """
    network, frontend = networks.portable(trained.network), trained.frontend
    waveform = keras.layers.Input((frontend.segment_samples,), name="waveform")
    frames_of = features.LogScattering.from_params(frontend)
    classifier = keras.Model(waveform, network(frames_of(waveform)))
    head = network.layers[-1]
    backbone = keras.Model(network.input, head.input, name="backbone")
    networks.save(classifier, folder / "classifier.keras")
    networks.save(backbone, folder / "backbone.keras")
    saved_model.write_labels(trained.labels, folder)

    clips = checks.reference_clips(frontend)[:2]
    rows = np.concatenate([checks.one_segment(clip, frontend) for clip in clips])
    expected = checks.keras_scores(trained, clips)
    loaded = networks.load(folder / "classifier.keras")
    yield checks.check_difference(
        loaded(rows, training=False).numpy(),
        expected,
        "scores of classifier.keras, reloaded, differ from the trained model's",
    )
    vectors = networks.load(folder / "backbone.keras")(frames_of(rows))
    yield checks.check_difference(
        head(vectors).numpy(),
        expected,
        "scores from the vectors of backbone.keras, reloaded, differ from them",
    )
