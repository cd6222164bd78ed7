"""Pictures of one recording, against the sound they are of."""

import json

import numpy as np
import pytest
import soundfile
from support import loudness

from genre_tl import params
from genre_tl.serving import recording_analysis

RATE = params.SAMPLE_RATE_HZ
SIZE = recording_analysis.PIECE_SAMPLES


def quiet_then_loud():
    """Two seconds of 400 Hz, softly, then two of 3,200 Hz."""
    time = np.arange(2 * RATE) / RATE
    tones = [0.05 * np.sin(2 * np.pi * 400 * time), np.sin(2 * np.pi * 3200 * time)]
    return np.concatenate(tones).astype(np.float32)


def pictures(waveform):
    starts = range(0, len(waveform), SIZE)
    return recording_analysis.pictures(waveform[x : x + SIZE] for x in starts)


def test_a_tone_is_bright_in_its_band_at_its_time():
    envelope, picture = pictures(quiet_then_loud())
    bands = recording_analysis.bands_hz()
    assert picture.shape == (len(bands), 125)  # a column every 512 samples
    for column, hz in ((30, 400), (95, 3200)):
        found = bands[picture[:, column].argmax()]
        assert found == pytest.approx(hz, rel=0.06)
    assert envelope[:490].max() == pytest.approx(0.05, rel=0.01)
    assert envelope[510:].min() == pytest.approx(1, rel=0.2)


def test_blocks_of_the_scaleogram_leave_no_seam():
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    whole = pictures(noise)[1].astype(int)
    seams = [i * SIZE // 512 for i in (1, 2)]
    steps = np.abs(np.diff(whole, axis=1)).mean(axis=0)
    for seam in seams:
        assert steps[seam - 1] < steps.mean() + 4 * steps.std()


def test_silence_and_one_sample_have_a_picture(tmp_path):
    for samples in (np.zeros(1, np.float32), np.zeros(RATE, np.float32)):
        soundfile.write(tmp_path / "a.wav", samples, RATE)
        model = loudness.Model(tmp_path / "model")
        facts = recording_analysis.analyse(str(tmp_path / "a.wav"), model)
        assert len(facts["scaleogram"]) == len(facts["bands_hz"])
        json.dumps(facts, allow_nan=False)


def test_a_long_recording_is_done_whole_with_means_of_its_scores(tmp_path):
    waveform = np.tile(quiet_then_loud(), 15)  # a minute: 9,600 frames of the model
    soundfile.write(tmp_path / "a.wav", waveform, RATE)
    model = loudness.Model(tmp_path / "model")
    facts = recording_analysis.analyse(str(tmp_path / "a.wav"), model)
    assert facts["secs"] == 60 and facts["note"] == ""
    assert len(facts["times_secs"]) == len(facts["scores"]) == 1000
    assert len(facts["envelope"]) == len(facts["scaleogram"][0]) == 1000
    whole = facts["mean_scores"]
    np.testing.assert_allclose(np.mean(facts["scores"], axis=0), whole, atol=1e-3)


def test_a_recording_longer_than_an_hour_is_said_to_be_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(recording_analysis, "MAX_SECS", 3.0)
    soundfile.write(tmp_path / "a.wav", quiet_then_loud(), RATE)
    model = loudness.Model(tmp_path / "model")
    facts = recording_analysis.analyse(str(tmp_path / "a.wav"), model)
    assert facts["secs"] == 3 and "only the first" in facts["note"]
