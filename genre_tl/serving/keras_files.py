"""Trained networks as Keras files that begin with waveforms."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np

from genre_tl import features, params
from genre_tl.model import networks
from genre_tl.serving import checks, saved_model


def write(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: pathlib.Path,
    on_check: Callable[[str], None],
) -> None:
    """Writes `classifier.keras`, `backbone.keras` and `labels.txt`.

    The first takes waveforms `[batch, segment_samples]`, the second frames `[batch,
    frames, paths]`. Both load with `keras.saving.load_model` once `genre_tl.model`
    is imported.

    Args, Raises: as for `tflite.write`.
    """
    network = networks.portable(network)
    waveform = keras.layers.Input((frontend.segment_samples,), name="waveform")
    frames_of = features.LogScattering.from_params(frontend)
    classifier = keras.Model(waveform, network(frames_of(waveform)))
    backbone = keras.Model(network.input, network.layers[-1].input, name="backbone")
    folder.mkdir()
    networks.save(classifier, folder / "classifier.keras")
    networks.save(backbone, folder / "backbone.keras")
    saved_model.write_labels(labels, folder)

    clips = checks.reference_clips(frontend)[:2]
    rows = np.concatenate([checks.padded(clip, frontend) for clip in clips])
    loaded = networks.load(folder / "classifier.keras")
    found = loaded(rows, training=False).numpy()
    expected = checks.keras_scores(network, frontend, clips)
    what = "scores of classifier.keras, reloaded, differ from the trained model's"
    on_check(checks.check_difference(found, expected, what))
    vectors = networks.load(folder / "backbone.keras")(frames_of(rows))
    found = network.layers[-1](vectors).numpy()
    what = "scores of what backbone.keras, reloaded, gives to the head differ from them"
    on_check(checks.check_difference(found, expected, what))
