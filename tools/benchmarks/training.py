"""Time of a training step, beside `keras.layers.GRU` without cuDNN."""

from __future__ import annotations

import functools

import keras
import numpy as np

from genre_tl import params
from genre_tl.model import gru, networks

from . import timing

_BATCH, _PATHS, _TAGS = 32, 545, 188


def speed(repeats: int) -> None:
    """Prints the time of a pre-training step with the default preset."""
    preset = params.PRESETS["default"]
    ours = networks.tagger(preset.model, _PATHS, _TAGS)
    theirs = keras.models.clone_model(ours, clone_function=_with_plain_gru)
    theirs.set_weights(ours.get_weights())
    for network in (ours, theirs):
        network.compile("adam", "binary_crossentropy", jit_compile=False)
    rows = []
    lengths = {*preset.pretrain.crop_frames, preset.frontend.segment_frames}
    for frames in sorted(lengths):
        clips = np.random.default_rng(0).standard_normal([_BATCH, frames, _PATHS])
        batch = clips.astype(np.float32), np.eye(_TAGS, dtype=np.float32)[:_BATCH]
        calls = [functools.partial(x.train_on_batch, *batch) for x in (ours, theirs)]
        secs = timing.seconds(calls, repeats)
        ratio = timing.median(secs[1]) / timing.median(secs[0])
        rows.append([str(frames), *map(timing.milliseconds, secs), f"{ratio:.2f}"])
    head = ["frames", "genre_tl", "keras.layers.GRU", "speed-up"]
    timing.table(f"A training step of {_BATCH} clips", head, rows)


def _with_plain_gru(layer: keras.layers.Layer) -> keras.layers.Layer:
    if not isinstance(layer, gru.GRU | keras.layers.GRU):
        return type(layer).from_config(layer.get_config())
    return keras.layers.GRU(
        layer.units, return_sequences=layer.return_sequences, use_cudnn=False
    )
