"""Analysis of one recording for `tools.explore`: pictures, and scores over time."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from genre_tl import params, scattering
from genre_tl.audio import decoding
from genre_tl.serving import predictor

MAX_SECS = 3600.0

_COLUMNS = 1_000  # of all pictures
_RANGE_DB = 70.0  # from the loudest coefficient to black
_ENVELOPE_HOP = 64

# First-order filters: 8 per octave, a frame every 32 ms, computed in blocks that
# overlap by a margin on either side.
_J, _Q = 9, 8
_BLOCK, _MARGIN = 2**17, 2**13

PIECE_SAMPLES = _BLOCK - 2 * _MARGIN
"""Length of all pieces of a waveform but the last."""


def analyse(path: str, model: predictor.Predictor) -> dict[str, Any]:
    """Returns what the page shows of the first hour of a file as JSON types.

    `envelope` is 0 to 1 `[columns]`, `scaleogram` 0 to 255 `[bands][columns]`, and
    `scores` are `[times][labels]`; a long recording has means of neighbouring times.

    Raises:
      ValueError: if the file cannot be used.
    """
    (result,) = predictor.predict(model, [path], max_secs=MAX_SECS, taggrams=True)
    if result.error:
        raise ValueError(result.error)
    assert result.scores is not None and result.taggram is not None
    envelope, scaleogram = pictures(_pieces(path))
    times, scores = result.taggram
    starts = _starts(len(times))
    counts = np.diff(starts, append=len(times))
    means = np.add.reduceat(scores, starts) / counts[:, np.newaxis]
    is_cut = result.secs >= MAX_SECS
    note = f"only the first {MAX_SECS / 60:.0f} minutes are shown" if is_cut else ""
    return {
        "secs": result.secs,
        "note": "; ".join(filter(None, (result.note, note))),
        "envelope": envelope.round(4).tolist(),
        "scaleogram": scaleogram.tolist(),
        "bands_hz": bands_hz().round(1).tolist(),
        "labels": list(model.labels),
        "times_secs": times[starts].round(3).tolist(),
        "scores": means.round(4).tolist(),
        "mean_scores": result.scores.round(4).tolist(),
    }


def bands_hz() -> np.ndarray:
    """Returns the centre frequencies of the scaleogram's bands, from high to low."""
    return np.asarray(_layer().meta()["xi"])[1:, 0] * params.SAMPLE_RATE_HZ


def pictures(pieces: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the envelope and the scaleogram of a waveform.

    The envelope is the largest magnitudes, 0 to 1 `[columns]`. The scaleogram is
    first-order scattering coefficients as grey values, uint8 `[bands, columns]`: 255 is
    the loudest, 0 is 70 dB below, or less.

    Args:
      pieces: of a waveform at `params.SAMPLE_RATE_HZ`, of `PIECE_SAMPLES` each.
    """
    magnitudes, frames = [], []
    for piece, window in _windows(pieces):
        parts = np.arange(0, len(piece), _ENVELOPE_HOP)
        magnitudes.append(np.maximum.reduceat(np.abs(piece), parts))
        margin = _MARGIN // 2**_J
        coefficients = _layer()(window[np.newaxis])[0, 1:, margin:-margin]
        frames.append(coefficients[:, : -(-len(piece) // 2**_J)])
    largest = _columns(np.concatenate(frames, axis=1))
    decibels = 20 * np.log10(np.maximum(largest, 1e-9))
    shares = 1 + (decibels - decibels.max()) / _RANGE_DB
    scaleogram = (255 * shares.clip(0, 1)).round().astype(np.uint8)
    return _columns(np.concatenate(magnitudes)).clip(0, 1), scaleogram


def _pieces(path: str) -> Iterator[np.ndarray]:
    clips = decoding.read([path], piece_samples=PIECE_SAMPLES, max_secs=MAX_SECS)
    for clip in clips:
        if clip.waveform is None:
            raise ValueError(clip.error)
        yield clip.waveform


def _windows(pieces: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each piece, and a block with it between the ends of its neighbours."""
    before, after = np.zeros(_MARGIN, np.float32), np.zeros(0, np.float32)
    rest = iter(pieces)
    piece = next(rest, None)
    while piece is not None:
        following = next(rest, None)
        end = after if following is None else following[:_MARGIN]
        window = np.concatenate([before, piece, end])
        yield piece, np.pad(window, [0, _BLOCK - len(window)])
        before, piece = piece[-_MARGIN:], following


@functools.cache
def _layer() -> scattering.Scattering1D:
    return scattering.Scattering1D(J=_J, Q=_Q, max_order=1)


def _columns(values: np.ndarray) -> np.ndarray:
    """Reduces `[..., length]` to the largest values of at most `_COLUMNS` parts."""
    return np.maximum.reduceat(values, _starts(values.shape[-1]), axis=-1)


def _starts(length: int) -> np.ndarray:
    """Returns where each of at most `_COLUMNS` equal parts begins."""
    return np.unique(np.linspace(0, length, _COLUMNS, endpoint=False).astype(int))
