"""Batches of waveforms from audio files."""

import itertools
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from genre_tl import params
from genre_tl.audio import decoding
from genre_tl.features import waveforms

RATE = params.SAMPLE_RATE_HZ
LABELS = np.eye(5)


@pytest.fixture
def paths(tmp_path):
    """Files of 500 to 900 samples at 16 kHz; sample n of file f is f + n / 1000."""
    names = [str(tmp_path / f"{number}.wav") for number in range(5)]
    for number, name in enumerate(names):
        samples = (number + np.arange(500 + 100 * number) / 1000) / 8
        soundfile.write(name, samples, RATE, "FLOAT")
    return names


def test_without_a_seed_files_come_once_in_order(paths):
    batches = waveforms.waveform_batches(paths, LABELS, num_samples=600, batch_size=2)
    frames = tf.TensorSpec([None, 600], tf.float32)
    assert batches.element_spec == (frames, tf.TensorSpec([None, 5], tf.float32))
    found, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    np.testing.assert_array_equal(labels, LABELS)
    for number, waveform in enumerate(found):
        expected = (number + np.arange(600) / 1000) / 8
        expected[500 + 100 * number :] = 0
        np.testing.assert_allclose(waveform, expected, atol=1e-6)


def take(paths, seed, num_batches=10, batch_size=3):
    batches = waveforms.waveform_batches(
        paths, LABELS, num_samples=400, batch_size=batch_size, seed=seed
    )
    taken = itertools.islice(batches.as_numpy_iterator(), num_batches)
    return [np.concatenate(each) for each in zip(*taken, strict=True)]


def test_with_a_seed_every_epoch_has_its_own_order_and_excerpts(paths):
    found, labels = take(paths, seed=1)
    assert found.shape == (30, 400)
    orders = labels.argmax(axis=1).reshape(6, 5)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(map(tuple, orders))) > 1
    starts = 1000 * (8 * found[:, 0] - labels.argmax(axis=1))
    assert len(set(starts.round())) > 10
    for waveform, number, start in zip(
        found, labels.argmax(axis=1), starts, strict=True
    ):
        assert -0.1 <= start <= 100 + 100 * number + 0.1
        np.testing.assert_allclose(np.diff(waveform), 1 / 8000, atol=1e-6)


def test_batches_are_a_function_of_the_seed(paths):
    first, again, other = (take(paths, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_other_rates_are_resampled(tmp_path):
    tone = np.sin(np.arange(22_050) / 20).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", tone, 22_050, "FLOAT")
    batches = waveforms.waveform_batches(
        [str(tmp_path / "a.wav")], LABELS[:1], num_samples=RATE, batch_size=1
    )
    ((waveform, _),) = batches
    (clip,) = decoding.read([str(tmp_path / "a.wav")])
    np.testing.assert_array_equal(waveform[0], clip.waveform)


def test_a_file_that_cannot_be_decoded_is_named(paths, tmp_path):
    shutil.copy(__file__, paths[1])
    batches = waveforms.waveform_batches(paths, LABELS, num_samples=600, batch_size=5)
    with pytest.raises(tf.errors.OpError, match=r"1\.wav: .*not audio"):
        list(batches)
