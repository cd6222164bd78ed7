"""What `benchmark training` measures: a training step, beside Keras's own layers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from . import timing

if TYPE_CHECKING:
    import keras

_BATCH, _PATHS, _TAGS = 32, 643, 188


def run(repeats: int) -> None:
    """Prints the times of a step of pre-training with the default preset."""
    from genre_tl import params
    from genre_tl.model import networks

    preset = params.PRESETS["default"]
    ours = networks.tagger(preset.model, _PATHS, _TAGS)
    theirs = _stock(ours)
    for network in (ours, theirs):
        network.compile("adam", "binary_crossentropy", jit_compile=False)
    rows = []
    for frames in (preset.pretrain.crop_frames, preset.frontend.segment_frames):
        clips = np.random.default_rng(0).standard_normal([_BATCH, frames, _PATHS])
        batch = clips.astype(np.float32), np.eye(_TAGS, dtype=np.float32)[:_BATCH]
        calls = [
            functools.partial(each.train_on_batch, *batch) for each in (ours, theirs)
        ]
        secs = timing.seconds(calls, repeats)
        ratio = timing.median(secs[1]) / timing.median(secs[0])
        cells = [str(frames), *map(timing.milliseconds, secs), f"{ratio:.2f}"]
        rows.append(cells)
    head = ["frames", "genre_tl", "Keras's layers and loop", "times as fast"]
    timing.table(f"A training step of {_BATCH} clips", head, rows)


def _stock(network: keras.Model) -> keras.Model:
    """Returns the same network of Keras's own GRU layers, with the same weights."""
    import keras

    from genre_tl.model import gru

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, gru.GRU):
            return type(layer).from_config(layer.get_config())
        return keras.layers.GRU.from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=stock)
    copy.set_weights(network.get_weights())
    return copy
