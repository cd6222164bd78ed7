"""Decodes MP3 and Ogg Vorbis with tensorflow-io, where it is installed and loads."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from genre_tl.audio import ffmpeg, libsndfile

_MAX_SAMPLES_PER_BYTE = 64  # tensorflow-io reserves as much as a header promises


def blocks(
    path: str, source: libsndfile.Source | ffmpeg.Source, max_secs: float
) -> list[np.ndarray]:
    """Returns the float32 `[samples, channels]` of an open file in one block.

    Returns nothing if tensorflow-io cannot decode the file, or if not all of it is
    wanted. It returns no sample rate and no dependable length: `source` has both.
    """
    import tensorflow as tf  # Late: without it, other decoders do.

    decoder, num_samples = _decoders().get(source.codec), source.num_samples
    is_sane = 0 < num_samples < _MAX_SAMPLES_PER_BYTE * os.path.getsize(path)
    if not decoder or not is_sane or num_samples > max_secs * source.rate_hz:
        return []
    try:
        samples = decoder(tf.io.read_file(path)).numpy()
    except tf.errors.OpError:
        return []
    return [samples] if len(samples) == num_samples else []


@functools.cache
def _decoders() -> Mapping[str, Callable[[Any], Any]]:
    """Returns the ops from encoded bytes to float32 `[samples, channels]`, if any."""
    import tensorflow as tf

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorflow_io import audio
            from tensorflow_io.python.ops import core_ops

            core_ops.io_audio_decode_mp3  # noqa: B018  this loads the library
    except (ImportError, NotImplementedError, AttributeError, tf.errors.OpError):
        return {}
    # No FLAC: the op never returns if the stream ends before its stated length.
    mp3 = dict.fromkeys(("mp3float", "MPEG_LAYER_III"), audio.decode_mp3)
    return {**mp3, "vorbis": audio.decode_vorbis}
