"""Analysis of one recording for `tools.explore`: pictures, scores, neighbours."""

from __future__ import annotations

import functools
import os
import zipfile
from typing import Any

import numpy as np
from sklearn.metrics import pairwise

from genre_tl import files, params, scattering
from genre_tl.audio import decoding
from genre_tl.serving import predictor

_MAX_SECS = 600.0
_COLUMNS = 1_000  # of envelope and scaleogram
_RANGE_DB = 70.0  # from the loudest coefficient to black
_NUM_NEIGHBOURS = 8

# First-order filters: 8 per octave, a frame every 32 ms, computed in blocks that
# overlap by a margin on either side.
_J, _Q = 9, 8
_BLOCK, _MARGIN = 2**17, 2**13


class Collection:
    """Embeddings of recordings: an NPZ file from `predict --embeddings`.

    Raises:
      ValueError: if it is another file.
    """

    def __init__(self, path: files.PathLike) -> None:
        # NumPy's errors for files of another kind, damaged or empty ones.
        wrong = KeyError, ValueError, AttributeError, TypeError, EOFError
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise ValueError("not a regular file")
            with open(path, "rb") as raw, np.load(raw) as table:
                self._ids = table["ids"].tolist()
                self._vectors = table["vectors"].astype(np.float32)
            if self._vectors.ndim != 2 or len(self._ids) != len(self._vectors):
                raise ValueError("not one vector for each id")
            if not np.isfinite(self._vectors).all():
                raise ValueError("vectors that are NaN or infinite")
        except (*wrong, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: holds no embeddings ({error}); create them with "
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
        if not self._ids:
            return []
        cosines = pairwise.cosine_similarity(vector[np.newaxis], self._vectors)[0]
        best = np.argsort(-cosines, kind="stable")[:_NUM_NEIGHBOURS]
        return [(self._ids[row], float(cosines[row])) for row in best]


def analyse(
    path: str, model: predictor.Predictor, collection: Collection | None = None
) -> dict[str, Any]:
    """Returns what the page shows of the first ten minutes of a file as JSON types.

    `envelope` is 0 to 1 `[columns]`, `scaleogram` 0 to 255 `[bands][columns]`, and
    `scores` are `[times][labels]`.

    Raises:
      ValueError: if the file cannot be used.
    """
    (result,) = predictor.predict(model, [path], max_secs=_MAX_SECS, taggrams=True)
    (clip,) = decoding.read([path], max_secs=_MAX_SECS)
    if result.error or clip.waveform is None:
        raise ValueError(result.error or clip.error)
    assert result.scores is not None and result.embedding is not None
    assert result.taggram is not None
    envelope = _columns(np.abs(clip.waveform)).clip(0, 1)
    return {
        "secs": result.secs,
        "note": result.note,
        "envelope": envelope.round(4).tolist(),
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
    return np.asarray(_layer().meta()["xi"])[1:, 0] * params.SAMPLE_RATE_HZ


def scaleogram(waveform: np.ndarray) -> np.ndarray:
    """Returns first-order scattering coefficients as grey values.

    They are uint8 `[bands, columns]`; 255 is the loudest, 0 is 70 dB below, or less.
    """
    hop, step = 2**_J, _BLOCK - 2 * _MARGIN
    margin = _MARGIN // hop
    padded = np.pad(waveform, [_MARGIN, _BLOCK])
    blocks = [
        _layer()(padded[np.newaxis, start : start + _BLOCK])[0, 1:, margin:-margin]
        for start in range(0, len(waveform), step)
    ]
    frames = np.concatenate(blocks, axis=1)[:, : -(-len(waveform) // hop)]
    frames = _columns(frames)
    decibels = 20 * np.log10(np.maximum(frames, 1e-9))
    shares = 1 + (decibels - decibels.max()) / _RANGE_DB
    return (255 * shares.clip(0, 1)).round().astype(np.uint8)


@functools.cache
def _layer() -> scattering.Scattering1D:
    return scattering.Scattering1D(J=_J, Q=_Q, max_order=1)


def _columns(values: np.ndarray) -> np.ndarray:
    """Reduces `[..., length]` to the largest values of at most `_COLUMNS` parts."""
    starts = np.linspace(0, values.shape[-1], _COLUMNS, endpoint=False).astype(int)
    return np.maximum.reduceat(values, np.unique(starts), axis=-1)
