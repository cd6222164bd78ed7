"""A stand-in for an exported model: its scores are how loud a clip is.

What an export does with segments is tested in `serving_test.py`; here it is done in
NumPy, with segments so short that a file of seconds is a long one.
"""

import json
import pathlib

import numpy as np

from genre_tl import params

RATE = params.SAMPLE_RATE_HZ
HOP = 100
SEGMENT = 8 * HOP


class Model:
    """Has what `serving.Predictor` has."""

    labels = ("quiet", "loud")

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        card = self.folder / "assets.extra" / "model_card.json"
        card.parent.mkdir(parents=True, exist_ok=True)
        facts = {"hop_samples": HOP, "segment_samples": SEGMENT}
        card.write_text(json.dumps({"frontend": facts}))
        self.calls = 0

    def scores(self, waveforms):
        self.calls += 1
        means = [_mean(waveform) for waveform in waveforms]
        return np.array(means, np.float32).reshape(-1, 2)

    def scores_and_embeddings(self, waveforms):
        vectors = [[len(each), np.abs(each).max(), 1] for each in waveforms]
        return self.scores(waveforms), np.array(vectors, np.float32).reshape(-1, 3)

    def taggram(self, waveform):
        starts = np.arange(0, len(waveform), HOP)
        loud = np.array([np.abs(waveform[x : x + HOP]).mean() for x in starts])
        return starts / RATE, np.stack([1 - loud, loud], 1).astype(np.float32)


def _mean(waveform):
    total, weight = np.zeros(2), 0
    for start in range(0, len(waveform), SEGMENT):
        segment = waveform[start : start + SEGMENT]
        sounding = np.flatnonzero(segment)
        frames = sounding[-1] // HOP + 1 if len(sounding) else 0
        loud = np.abs(segment).mean()
        total += frames * np.array([1 - loud, loud])
        weight += frames
    return total / weight if weight else np.array([1.0, 0.0])
