"""One recording, as numbers for pictures: envelope, scaleogram, scores, neighbours."""

from __future__ import annotations

import functools
import itertools
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.audio import decoding
from genre_tl.serving import prediction
from genre_tl.serving.predictor import Predictor

MAX_SECS = 600.0
"""How much of a recording is looked at."""

_COLUMNS = 1_000  # of envelope and scaleogram
_RANGE_DB = 70.0  # below the loudest coefficient, what is told from silence
_NUM_NEIGHBOURS = 8

# How NumPy says that a file is something else, cut off, or empty.
_NO_EMBEDDINGS = (
    *(KeyError, ValueError, AttributeError, TypeError),
    *(zipfile.BadZipFile, EOFError),
)

# Filters of the scaleogram: 8 an octave, a column every 32 ms, over blocks that are
# computed with a margin, so that no edge is seen.
_J, _Q = 9, 8
_BLOCK, _MARGIN = 2**17, 2**13


class Collection:
    """Recordings to look for neighbours in.

    Args:
      path: NPZ of `ids` and `vectors`, as `predict --embeddings` writes it.

    Raises:
      ValueError: if it is something else.
      OSError: if it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            with np.load(path) as table:
                self.ids, vectors = table["ids"].tolist(), table["vectors"]
            self._directions = _directions(vectors)
        except _NO_EMBEDDINGS as error:
            raise ValueError(
                f"{os.fspath(path)}: holds no embeddings ({error}); write them with "
                "predict --embeddings"
            ) from error

    def nearest(self, vector: np.ndarray) -> list[tuple[str, float]]:
        """Returns the most similar recordings and their cosine, the best first.

        Raises:
          ValueError: if the vector is of another model than the collection.
        """
        if self._directions.shape[1:] != vector.shape:
            raise ValueError(
                f"the collection's embeddings are {self._directions.shape[1]} numbers "
                f"long, the model's {len(vector)}; write them anew with this model"
            )
        cosines = self._directions @ _directions(vector[np.newaxis])[0]
        best = np.argsort(-cosines, kind="stable")[:_NUM_NEIGHBOURS]
        return [(self.ids[row], float(cosines[row])) for row in best]


def look(
    path: str, predictor: Predictor, collection: Collection | None = None
) -> dict[str, Any]:
    """Returns what there is to see of a recording, fit for JSON.

    Args:
      path: an audio file; its first ten minutes count.
      predictor: names genres or tags.
      collection: where neighbours are looked for, if anywhere.

    Returns:
      `secs`, `note`; `envelope` `[columns]`, 0 to 1; `scaleogram` `[bands][columns]`,
      0 to 255, and `bands_hz`, from high to low; `labels`, `times_secs`, `scores`
      `[times][labels]`; `mean_scores` `[labels]`; `neighbours`.

    Raises:
      ValueError: if the file cannot be used.
    """
    (result,) = prediction.predict(
        predictor, [path], max_secs=MAX_SECS, embeddings=True, taggrams=True
    )
    (clip,) = decoding.read([path], max_secs=MAX_SECS)
    if result.error or clip.waveform is None:
        raise ValueError(result.error or clip.error)
    assert result.scores is not None and result.taggram is not None
    neighbours = []
    if collection and result.embedding is not None:
        neighbours = collection.nearest(result.embedding)
    return {
        "secs": result.secs,
        "note": result.note,
        "envelope": _envelope(clip.waveform).round(4).tolist(),
        "scaleogram": scaleogram(clip.waveform).tolist(),
        "bands_hz": bands_hz().round(1).tolist(),
        "labels": list(predictor.labels),
        "times_secs": result.taggram.times_secs.round(3).tolist(),
        "scores": result.taggram.scores.round(4).tolist(),
        "mean_scores": result.scores.round(4).tolist(),
        "neighbours": neighbours,
    }


def bands_hz() -> np.ndarray:
    """Returns the centre frequencies of the scaleogram's bands, from high to low."""
    layer, _ = _filters()
    meta = layer.meta()
    return np.asarray(meta["xi"])[meta["order"] == 1, 0] * params.SAMPLE_RATE_HZ


def scaleogram(waveform: np.ndarray) -> np.ndarray:
    """Returns first-order scattering coefficients as grey values.

    Args:
      waveform: float32 `[samples]`.

    Returns:
      uint8 `[bands, columns]`; 255 is the loudest, 0 is 70 dB below, or less.
    """
    _, transform = _filters()
    step = _BLOCK - 2 * _MARGIN
    hop, num_frames = 2**_J, -(-len(waveform) // 2**_J)
    padded = np.pad(waveform, [_MARGIN, _BLOCK])
    blocks = [
        transform(padded[np.newaxis, start : start + _BLOCK])[
            0, :, _MARGIN // hop : (_MARGIN + step) // hop
        ]
        for start in range(0, max(len(waveform), 1), step)
    ]
    frames = _columns(np.concatenate(blocks, axis=1)[:, :num_frames], np.mean)
    decibels = 20 * np.log10(np.maximum(frames, 1e-9))
    shares = 1 + (decibels - decibels.max(initial=-180)) / _RANGE_DB
    return (255 * shares.clip(0, 1)).round().astype(np.uint8)


@functools.cache
def _filters() -> tuple[scattering.Scattering1D, Callable[[np.ndarray], np.ndarray]]:
    """Returns a layer and its function: `[1, _BLOCK]` -> `[1, bands, frames]`."""
    layer = scattering.Scattering1D(J=_J, Q=_Q, max_order=1)
    is_band = np.asarray(layer.meta()["order"]) == 1
    traced = tf.function(
        layer, input_signature=[tf.TensorSpec([1, _BLOCK], tf.float32)]
    )
    return layer, lambda block: traced(block).numpy()[:, is_band]


def _envelope(waveform: np.ndarray) -> np.ndarray:
    return _columns(np.abs(waveform)[np.newaxis], np.max)[0].clip(0, 1)


def _columns(values: np.ndarray, combine: Callable[..., np.ndarray]) -> np.ndarray:
    """Reduces `[rows, length]` to at most `_COLUMNS` columns."""
    bounds = np.linspace(0, values.shape[1], _COLUMNS + 1).astype(int)
    parts = [values[:, a:b] for a, b in itertools.pairwise(bounds) if b > a]
    return np.stack([combine(part, axis=1) for part in parts], axis=1)


def _directions(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
