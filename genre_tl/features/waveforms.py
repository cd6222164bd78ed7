"""Audio files as `tf.data` batches of waveforms, to train end-to-end Keras models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from genre_tl.audio import decoding


def waveform_batches(
    paths: Sequence[str],
    labels: np.ndarray,
    *,
    num_samples: int,
    batch_size: int,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Returns pairs of waveforms `[batch, num_samples]` and labels, float32.

    Files are decoded, resampled to `params.SAMPLE_RATE_HZ`, cut or padded with zeros,
    and batched. Iterating raises an error that names the file if one cannot be decoded.

    Args:
      paths: audio files.
      labels: `[files, num_labels]`.
      num_samples: length of the waveforms.
      batch_size: files in a batch.
      seed: None takes the beginning of each file once, in order. Else the dataset is
        infinite: every epoch has its own random order and excerpts.
    """
    labels = np.asarray(labels, np.float32)

    def read(row: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (clip,) = decoding.read([paths[int(row)]])
        if clip.waveform is None:
            raise ValueError(f"{clip.path}: {clip.error}")
        start = int(place * (max(len(clip.waveform) - num_samples, 0) + 1))
        excerpt = clip.waveform[start : start + num_samples]
        return np.pad(excerpt, [0, num_samples - len(excerpt)]), labels[row]

    def load(*place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = tf.numpy_function(read, place, [tf.float32] * 2)
        shapes = [num_samples], labels.shape[1:]
        return tuple(map(tf.ensure_shape, outputs, shapes))

    return (
        _order(len(paths), seed)
        .map(load, tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=seed is not None)
        .prefetch(tf.data.AUTOTUNE)
    )


def _order(num_files: int, seed: int | None) -> tf.data.Dataset:
    """Returns pairs of a file's number and the place of its excerpt, from 0 to 1."""
    if seed is None:
        beginnings = np.arange(num_files), np.zeros(num_files)
        return tf.data.Dataset.from_tensor_slices(beginnings)

    def places() -> Iterator[tuple[int, float]]:
        for epoch in itertools.count(1):
            generator = np.random.default_rng([seed, epoch])
            order = generator.permutation(num_files)
            yield from zip(order, generator.random(num_files), strict=True)

    signature = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float64)
    return tf.data.Dataset.from_generator(places, output_signature=signature)
