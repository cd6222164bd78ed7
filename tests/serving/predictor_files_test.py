"""`predict` on files, with a stand-in model whose scores are known."""

import numpy as np
import pytest
import soundfile
from support import loudness
from support.loudness import RATE, SEGMENT

from genre_tl.serving import predictor


@pytest.fixture
def model(tmp_path):
    return loudness.Model(tmp_path / "model")


@pytest.fixture
def write(tmp_path):
    def write_(name, samples):
        soundfile.write(tmp_path / name, samples, RATE, "FLOAT")
        return str(tmp_path / name)

    return write_


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)


# In pieces of 16 segments: less than one, one, and several with all that can happen.
CLIPS = {
    "short": noise(300),
    "one piece": noise(16 * SEGMENT),
    "long": noise(37 * SEGMENT + 123),
    "gaps": np.concatenate([noise(18_000), np.zeros(42_000), noise(4_690)]),
    "silent end": np.concatenate([noise(24_690), np.zeros(60_000)]),
    "silent start": np.concatenate([np.zeros(60_000), noise(100)]),
    "silent": np.zeros(50_000),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_long_file_has_the_scores_of_the_whole(model, write, name):
    waveform = CLIPS[name].astype(np.float32)
    (result,) = predictor.predict(model, [write("a.wav", waveform)])
    (expected,) = model.scores([waveform])
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-6)
    assert result.secs == len(waveform) / RATE


def test_scores_over_time_run_through_the_pieces(model, write):
    path = write("a.wav", CLIPS["long"])
    (result,) = predictor.predict(model, [path], taggrams=True)
    times, scores = model.taggram(CLIPS["long"])
    np.testing.assert_allclose(result.taggram.times_secs, times, atol=1e-9)
    np.testing.assert_allclose(result.taggram.scores, scores, atol=1e-6)


def test_results_come_in_order_with_reasons_notes_and_embeddings(
    model, write, tmp_path
):
    (tmp_path / "bad.wav").write_bytes(b"no sound" * 9)
    paths = [write("b.wav", noise(500)), str(tmp_path / "bad.wav")]
    paths += [write("a.wav", noise(900)), str(tmp_path / "absent.wav")]
    results = list(predictor.predict(model, paths))
    assert [result.path for result in results] == paths
    assert [result.scores is None for result in results] == [False, True] * 2
    assert "not audio" in results[1].error and "No such file" in results[3].error
    assert [r.embedding[0] for r in results if not r.error] == [500, 900]


def test_a_list_begun_at_any_group_gives_the_same_results(model, write, monkeypatch):
    monkeypatch.setattr(predictor, "GROUP_FILES", 2)
    paths = [write(f"{i}.wav", noise(200 + i, i)) for i in range(7)]
    results = list(predictor.predict(model, paths))
    assert model.calls == 4  # files of one group go together, no others
    for start in (2, 4, 6):
        others = predictor.predict(model, paths[start:])
        for one, other in zip(results[start:], others, strict=True):
            assert np.array_equal(one.scores, other.scores)


def test_max_secs_is_kept_to_in_long_files(model, write):
    path = write("a.wav", CLIPS["long"])
    (result,) = predictor.predict(model, [path], max_secs=1.5)
    assert result.secs == 1.5
    (expected,) = model.scores([CLIPS["long"][: RATE * 3 // 2]])
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-6)
