"""Files to scores with a model whose scores are known; long files as short ones."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import soundfile

from genre_tl import params, prediction, serving

RATE = params.SAMPLE_RATE_HZ
HOP, FRAMES = 100, 8
SEGMENT = HOP * FRAMES


@dataclasses.dataclass
class Loudness:
    """Scores a segment by its mean magnitude and a clip as an export does.

    What an export does is in `tests/serving_test.py`; here it is done in NumPy.
    """

    folder: pathlib.Path
    labels: tuple[str, ...] = ("quiet", "loud")
    calls: int = 0

    def scores(self, waveforms):
        self.calls += 1
        return np.array([self._mean(waveform) for waveform in waveforms], np.float32)

    def embeddings(self, waveforms):
        return np.array([[len(w), np.abs(w).max()] for w in waveforms], np.float32)

    def taggram(self, waveform):
        times = np.arange(0, len(waveform), HOP) / RATE
        loud = [
            np.abs(waveform[i : i + HOP]).mean() for i in range(0, len(waveform), HOP)
        ]
        return times, np.stack([1 - np.array(loud), loud], 1).astype(np.float32)

    def _mean(self, waveform):
        total, weight = np.zeros(2), 0
        for start in range(0, len(waveform), SEGMENT):
            segment = waveform[start : start + SEGMENT]
            last = np.flatnonzero(segment)
            frames = last[-1] // HOP + 1 if len(last) else 0
            loud = np.abs(segment).mean()
            total += frames * np.array([1 - loud, loud])
            weight += frames
        return total / weight if weight else np.array([1.0, 0.0])


@pytest.fixture
def predictor(tmp_path):
    card = tmp_path / "model" / serving.CARD
    card.parent.mkdir(parents=True)
    facts = {"hop_samples": HOP, "segment_samples": SEGMENT}
    card.write_text(json.dumps({"frontend": facts}))
    return Loudness(tmp_path / "model")


@pytest.fixture
def write(tmp_path):
    def write_(name, samples):
        soundfile.write(tmp_path / name, samples, RATE, "FLOAT")
        return str(tmp_path / name)

    return write_


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)


# In pieces of ten segments: less than one, one, and several with all that can happen.
CLIPS = {
    "short": noise(300),
    "one piece": noise(10 * SEGMENT),
    "long": noise(37 * SEGMENT + 123),
    "gaps": np.concatenate([noise(9_000), np.zeros(21_000), noise(2_345)]),
    "silent end": np.concatenate([noise(12_345), np.zeros(30_000)]),
    "silent start": np.concatenate([np.zeros(30_000), noise(100)]),
    "silent": np.zeros(25_000),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_long_file_has_the_scores_of_the_whole(predictor, write, name):
    waveform = CLIPS[name].astype(np.float32)
    (result,) = prediction.predict(predictor, [write("a.wav", waveform)])
    (expected,) = predictor.scores([waveform])
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-6)
    assert result.secs == len(waveform) / RATE


def test_scores_over_time_run_through_the_pieces(predictor, write):
    path = write("a.wav", CLIPS["long"])
    (result,) = prediction.predict(predictor, [path], taggrams=True)
    times, scores = predictor.taggram(CLIPS["long"])
    np.testing.assert_allclose(result.taggram.times_secs, times, atol=1e-9)
    np.testing.assert_allclose(result.taggram.scores, scores, atol=1e-6)


def test_results_come_in_order_with_reasons_notes_and_embeddings(
    predictor, write, tmp_path
):
    (tmp_path / "bad.wav").write_bytes(b"no sound" * 9)
    paths = [write("b.wav", noise(500)), str(tmp_path / "bad.wav")]
    paths += [write("a.wav", noise(900)), str(tmp_path / "absent.wav")]
    results = list(prediction.predict(predictor, paths, embeddings=True))
    assert [result.path for result in results] == paths
    assert [result.scores is None for result in results] == [False, True] * 2
    assert "not audio" in results[1].error and "No such file" in results[3].error
    assert [r.embedding[0] for r in results if not r.error] == [500, 900]


def test_a_list_begun_at_any_group_gives_the_same_results(
    predictor, write, monkeypatch
):
    monkeypatch.setattr(prediction, "GROUP_FILES", 2)
    paths = [write(f"{i}.wav", noise(200 + i, i)) for i in range(7)]
    results = list(prediction.predict(predictor, paths))
    assert predictor.calls == 4  # files of one group go together, no others
    for start in (2, 4, 6):
        others = prediction.predict(predictor, paths[start:])
        for one, other in zip(results[start:], others, strict=True):
            assert np.array_equal(one.scores, other.scores)


def test_max_secs_is_kept_to_in_long_files(predictor, write):
    path = write("a.wav", CLIPS["long"])
    (result,) = prediction.predict(predictor, [path], max_secs=1.5)
    assert result.secs == 1.5
    (expected,) = predictor.scores([CLIPS["long"][: RATE * 3 // 2]])
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-6)
