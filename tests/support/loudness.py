"""A stand-in for an exported model: its scores are the loudness of a clip.

Its segments are so short that a file of seconds is a long one.
"""

import json
import pathlib
import types

import numpy as np

from genre_tl import files, params
from genre_tl.audio import sound
from genre_tl.serving import model_card

RATE = params.SAMPLE_RATE_HZ
HOP = 100
SEGMENT = 8 * HOP


class Model:
    """Has the methods of `Predictor`."""

    labels = ("quiet", "loud")
    is_tagger = False

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        card = self.folder / "assets.extra" / "model_card.json"
        card.parent.mkdir(parents=True, exist_ok=True)
        facts = {"hop_samples": HOP, "segment_samples": SEGMENT}
        card.write_text(json.dumps({"frontend": facts}))
        files.write_sums(self.folder, model_card.SUMS)
        self.calls = 0
        self.runtime = types.SimpleNamespace(num_parallel=1)

    def require_own_process(self):
        pass

    def scores(self, waveforms):
        scores, *_ = self.score_pieces([_piece(each) for each in waveforms])
        return scores

    def score_pieces(self, pieces):
        self.calls += 1
        scores, vectors, frames = [], [], []
        for piece in pieces:
            means, weight = _mean(piece.waveform)
            scores.append(means)
            vectors.append(
                [len(piece.waveform), np.abs(piece.waveform).max(initial=0), 1]
            )
            frames.append(weight)
        arrays = (np.array(each, np.float32) for each in (scores, vectors, frames))
        return [*arrays, np.full(len(pieces), np.nan, np.float32)]

    def taggram(self, waveform):
        return self.taggram_of_piece(_piece(waveform))

    def taggram_of_piece(self, piece):
        samples = piece.waveform if len(piece.waveform) else np.zeros(1)
        starts = np.arange(0, len(samples), HOP)
        parts = [np.abs(samples[x : x + HOP]).mean() for x in starts]
        scores = np.reshape([[1 - part, part] for part in parts], [-1, 2])
        scores = scores.astype(np.float32)
        return (starts + piece.start) / RATE, scores


def _piece(waveform):
    sounding = np.flatnonzero(waveform)
    start = sounding[0] if len(sounding) else 0
    return sound.Piece(waveform[start:], start, np.float32(0))


def _mean(waveform):
    total, weight = np.zeros(2), 0
    for start in range(0, len(waveform), SEGMENT):
        segment = waveform[start : start + SEGMENT]
        sounding = np.flatnonzero(segment)
        frames = sounding[-1] // HOP + 1 if len(sounding) else 0
        loud = np.abs(segment).mean()
        total += frames * np.array([1 - loud, loud])
        weight += frames
    return total / weight if weight else np.array([1.0, 0.0]), weight
