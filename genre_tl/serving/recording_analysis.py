"""Analysis of one recording for `tools.explore`: pictures, scores, neighbours."""

from __future__ import annotations

import functools
import itertools
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.metrics import pairwise

from genre_tl import params, scattering
from genre_tl.audio import decoding
from genre_tl.serving import predictor

MAX_SECS = 600.0
"""Longest part of a recording that is analysed."""

_COLUMNS = 1_000  # of envelope and scaleogram
_RANGE_DB = 70.0  # from the loudest coefficient to black
_NUM_NEIGHBOURS = 8

# Errors of NumPy for files of another kind, damaged or empty ones.
_LOAD_ERRORS = (KeyError, ValueError, AttributeError, zipfile.BadZipFile, EOFError)

# First-order filters: 8 per octave, a frame every 32 ms, computed in blocks that
# overlap by a margin on either side.
_J, _Q = 9, 8
_BLOCK, _MARGIN = 2**17, 2**13


class Collection:
    """Embeddings of recordings, to find neighbours in.

    Args:
      path: NPZ file of `ids` and `vectors` from `predict --embeddings`.

    Raises:
      ValueError: if it is another file.
      OSError: if it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            with np.load(path) as table:
                self.ids = table["ids"].tolist()
                self._vectors = table["vectors"].astype(np.float32)
        except _LOAD_ERRORS as error:
            raise ValueError(
                f"{os.fspath(path)}: holds no embeddings ({error}); create them with "
                "predict --embeddings"
            ) from error

    def nearest(self, vector: np.ndarray) -> list[tuple[str, float]]:
        """Returns the most similar recordings and their cosine, best first.

        Raises:
          ValueError: if the vector is of another model than the collection.
        """
        if self._vectors.shape[1:] != vector.shape:
            raise ValueError(
                f"the collection's embeddings have {self._vectors.shape[1]} numbers, "
                f"the model's {len(vector)}; create them again with this model"
            )
        if not self.ids:
            return []
        cosines = pairwise.cosine_similarity(vector[np.newaxis], self._vectors)[0]
        best = np.argsort(-cosines, kind="stable")[:_NUM_NEIGHBOURS]
        return [(self.ids[row], float(cosines[row])) for row in best]


def analyse(
    path: str, model: predictor.Predictor, collection: Collection | None = None
) -> dict[str, Any]:
    """Returns everything that the page shows about an audio file, fit for JSON.

    Returns:
      `secs`, `note`; `envelope` `[columns]`, 0 to 1; `scaleogram` `[bands][columns]`,
      0 to 255, and `bands_hz`, from high to low; `labels`, `times_secs`, `scores`
      `[times][labels]`; `mean_scores` `[labels]`; `neighbours`.

    Raises:
      ValueError: if the file cannot be used.
    """
    (result,) = predictor.predict(
        model, [path], max_secs=MAX_SECS, embeddings=True, taggrams=True
    )
    (clip,) = decoding.read([path], max_secs=MAX_SECS)
    if result.error or clip.waveform is None:
        raise ValueError(result.error or clip.error)
    assert result.scores is not None and result.embedding is not None
    assert result.taggram is not None
    return {
        "secs": result.secs,
        "note": result.note,
        "envelope": _envelope(clip.waveform).round(4).tolist(),
        "scaleogram": scaleogram(clip.waveform).tolist(),
        "bands_hz": bands_hz().round(1).tolist(),
        "labels": list(model.labels),
        "times_secs": result.taggram.times_secs.round(3).tolist(),
        "scores": result.taggram.scores.round(4).tolist(),
        "mean_scores": result.scores.round(4).tolist(),
        "neighbours": collection.nearest(result.embedding) if collection else [],
    }


def bands_hz() -> np.ndarray:
    """Returns the centre frequencies of the scaleogram's bands, from high to low."""
    meta = _layer().meta()
    return np.asarray(meta["xi"])[meta["order"] == 1, 0] * params.SAMPLE_RATE_HZ


def scaleogram(waveform: np.ndarray) -> np.ndarray:
    """Returns first-order scattering coefficients as grey values.

    Args:
      waveform: float32 `[samples]`.

    Returns:
      uint8 `[bands, columns]`; 255 is the loudest, 0 is 70 dB below, or less.
    """
    hop, step = 2**_J, _BLOCK - 2 * _MARGIN
    padded = np.pad(waveform, [_MARGIN, _BLOCK])
    blocks = [
        _transform(padded[np.newaxis, start : start + _BLOCK]).numpy()[0]
        for start in range(0, max(len(waveform), 1), step)
    ]
    inner = [block[:, _MARGIN // hop : (_MARGIN + step) // hop] for block in blocks]
    frames = np.concatenate(inner, axis=1)[:, : -(-len(waveform) // hop)]
    frames = _columns(frames[np.asarray(_layer().meta()["order"]) == 1], np.mean)
    decibels = 20 * np.log10(np.maximum(frames, 1e-9))
    shares = 1 + (decibels - decibels.max(initial=-180)) / _RANGE_DB
    return (255 * shares.clip(0, 1)).round().astype(np.uint8)


@functools.cache
def _layer() -> scattering.Scattering1D:
    return scattering.Scattering1D(J=_J, Q=_Q, max_order=1)


@tf.function(input_signature=[tf.TensorSpec([1, _BLOCK], tf.float32)])
def _transform(block: tf.Tensor) -> tf.Tensor:
    return _layer()(block)


def _envelope(waveform: np.ndarray) -> np.ndarray:
    return _columns(np.abs(waveform)[np.newaxis], np.max)[0].clip(0, 1)


def _columns(values: np.ndarray, combine: Callable[..., np.ndarray]) -> np.ndarray:
    """Reduces `[rows, length]` to at most `_COLUMNS` columns."""
    bounds = np.linspace(0, values.shape[1], _COLUMNS + 1).astype(int)
    parts = [values[:, a:b] for a, b in itertools.pairwise(bounds) if b > a]
    return np.stack([combine(part, axis=1) for part in parts], axis=1)
