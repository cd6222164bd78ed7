"""Alterations of recordings."""

import numpy as np
import pytest

from genre_tl.audio import decoding
from tools import robustness

RATE_HZ = 16_000
WAVEFORM = np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE_HZ).astype("float32")


@pytest.mark.parametrize("name", robustness.alterations())
def test_every_alteration_writes_a_file_that_is_read_back(name, tmp_path):
    robustness.alterations()[name](WAVEFORM, tmp_path / "clip")
    (clip,) = decoding.read([str(tmp_path / "clip")])
    assert not clip.error and not clip.note
    changed = len(clip.waveform) != len(WAVEFORM)
    assert changed or np.abs(clip.waveform - WAVEFORM).max() > 0.01


def test_gain_and_silence_are_those_named(tmp_path):
    def altered(name):
        robustness.alterations()[name](WAVEFORM, tmp_path / "clip")
        (clip,) = decoding.read([str(tmp_path / "clip")])
        return clip.waveform

    np.testing.assert_allclose(altered("-20 dB"), WAVEFORM / 10, atol=1e-4)
    assert len(altered("5 s of silence before")) == 7 * RATE_HZ
    assert not altered("5 s of silence before")[: 5 * RATE_HZ].any()
    assert len(altered("first 0.5 s cut off")) == 1.5 * RATE_HZ
