"""Resampling: gain, aliases and time, compared with soxr and with the formula."""

import math

import hypothesis
import numpy as np
import pytest
import soxr
import tensorflow as tf
from hypothesis import strategies

from genre_tl.audio import resampling

RATES = [
    (22_050, 16_000),
    (44_100, 16_000),
    (48_000, 16_000),
    (8_000, 16_000),
    (11_025, 16_000),
    (16_000, 22_050),
    (16_001, 16_000),
]


def sine(frequency_hz, rate_hz, secs=2.0, phase=0.3):
    times = np.arange(round(rate_hz * secs)) / rate_hz
    return np.cos(2 * np.pi * frequency_hz * times + phase).astype(np.float32)


def phasor(waveform, frequency_hz, rate_hz):
    """Complex amplitude at one frequency, away from the edges."""
    edge = len(waveform) // 5
    times = np.arange(len(waveform))[edge:-edge] / rate_hz
    window = np.blackman(len(times))
    turned = np.exp(-2j * np.pi * frequency_hz * times) * waveform[edge:-edge]
    return 2 * (window * turned).sum() / window.sum()


@pytest.mark.parametrize("rates", RATES)
def test_resampling_neither_shifts_nor_colours_up_to_0_95_of_nyquist(rates):
    rate_in, rate_out = rates
    for part in (0.01, 0.2, 0.5, 0.8, 0.9, 0.95):
        frequency = part * min(rates) / 2
        waveform = sine(frequency, rate_in)
        result = resampling.resample(waveform, rate_in, rate_out).numpy()
        gain = phasor(result, frequency, rate_out) / np.exp(0.3j)
        assert abs(gain) == pytest.approx(1, abs=1e-6)
        shift_secs = np.angle(gain) / (2 * np.pi * frequency)
        assert abs(shift_secs * rate_out) < 1e-5


@pytest.mark.parametrize("rates", [x for x in RATES if x[0] > x[1]])
def test_what_is_above_the_new_nyquist_frequency_is_down_by_120_db(rates):
    rate_in, rate_out = rates
    for frequency in np.linspace(rate_out / 2 + 1, 0.999 * rate_in / 2, 5):
        waveform = sine(frequency, rate_in)
        result = resampling.resample(waveform, rate_in, rate_out).numpy()
        edge = len(result) // 5
        assert np.sqrt(2 * np.mean(result[edge:-edge] ** 2)) < 1e-6


@pytest.mark.parametrize("rates", [x for x in RATES if x[0] < x[1]])
def test_raising_the_rate_leaves_no_image_above_120_db(rates):
    rate_in, rate_out = rates
    for part in (0.3, 0.6, 0.9, 0.95):
        frequency = part * rate_in / 2
        waveform = sine(frequency, rate_in)
        result = resampling.resample(waveform, rate_in, rate_out).numpy()
        amplitude = phasor(result, frequency, rate_out)
        times = np.arange(len(result)) / rate_out
        expected = (amplitude * np.exp(2j * np.pi * frequency * times)).real
        edge = len(result) // 5
        rest = (result - expected)[edge:-edge]
        assert np.sqrt(2 * np.mean(rest**2)) < 1e-6


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("kind", ["chirp", "noise"])
def test_resampling_agrees_with_soxr(rates, kind):
    rate_in, rate_out = rates
    times = np.arange(3 * rate_in) / rate_in
    top = 0.7 * min(rates) / 2  # soxr's own passband falls before ours
    if kind == "chirp":
        waveform = np.cos(np.pi * top / 3 * times**2)
    else:
        spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.3, len(times)))
        spectrum[np.fft.rfftfreq(len(times), 1 / rate_in) > top] = 0
        waveform = np.fft.irfft(spectrum, len(times))
    waveform = (waveform * np.sin(np.pi * times / 3) ** 2).astype(np.float32)
    expected = soxr.resample(waveform, rate_in, rate_out, "VHQ")
    result = resampling.resample(waveform, rate_in, rate_out).numpy()[: len(expected)]
    np.testing.assert_allclose(result, expected, atol=3e-5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    rate_in=strategies.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 1_001]),
    rate_out=strategies.sampled_from([16_000, 22_050, 6_000, 999]),
    num_samples=strategies.integers(1, 40_000),
)
def test_every_sample_is_the_convolution_with_the_stated_low_pass(
    rate_in, rate_out, num_samples
):
    hypothesis.assume(rate_in != rate_out)
    rng = np.random.default_rng(num_samples)
    waveform = rng.normal(0, 0.3, num_samples).astype(np.float32)
    result = resampling.resample(waveform, rate_in, rate_out).numpy()
    assert len(result) == math.ceil(num_samples * rate_out / rate_in)
    at = np.unique(np.r_[:9, rng.integers(0, len(result), 90), -9:0] % len(result))
    # The inverse Fourier transform of erfc((f - 0.975) / (0.005 sqrt 2)) / 2, f in
    # lower Nyquist frequencies.
    nyquist = min(rate_in, rate_out) / 2
    lag = at[:, None] / rate_out - np.arange(num_samples) / rate_in
    envelope = np.exp(-2 * (np.pi * 0.005 * nyquist * lag) ** 2)
    response = 2 * 0.975 * nyquist * np.sinc(2 * 0.975 * nyquist * lag) * envelope
    expected = response @ waveform.astype(np.float64) / rate_in
    np.testing.assert_allclose(result[at], expected, atol=2e-6)


@pytest.mark.parametrize("rates", [(22_050, 16_000), (8_000, 16_000), (16_001, 16_000)])
def test_rates_may_be_tensors_and_lengths_unknown(rates):
    waveform = np.random.default_rng(0).normal(0, 0.3, 30_001).astype(np.float32)
    rate_in, rate_out = rates
    expected = resampling.resample(waveform, rate_in, rate_out)

    @tf.function(
        input_signature=[tf.TensorSpec([None]), *[tf.TensorSpec([], tf.int32)] * 2]
    )
    def dynamic(waveform, rate_in, rate_out):
        return resampling.resample(waveform, rate_in, rate_out)

    np.testing.assert_allclose(dynamic(waveform, *rates), expected, atol=1e-6)
    np.testing.assert_array_equal(dynamic(waveform, rate_in, rate_in), waveform)
    dataset = tf.data.Dataset.from_tensors((waveform, *rates)).map(resampling.resample)
    np.testing.assert_allclose(next(iter(dataset)), expected, atol=1e-6)


def test_resampling_a_batch_is_resampling_each():
    batch = np.random.default_rng(0).normal(0, 0.3, [3, 50_000]).astype(np.float32)
    together = resampling.resample(batch, 44_100, 16_000)
    alone = [resampling.resample(x, 44_100, 16_000) for x in batch]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_resampling_is_in_core_ops_alone():
    signature = [tf.TensorSpec([None, None]), *[tf.TensorSpec([], tf.int64)] * 2]
    graph = tf.function(resampling.resample).get_concrete_function(*signature).graph
    functions = graph.as_graph_def().library.function
    ops = {node.op for function in functions for node in function.node_def}
    ops |= {node.op for node in graph.as_graph_def().node}
    assert not {op for op in ops if "PyFunc" in op or ">" in op}


def test_resampling_at_equal_rates_is_the_identity():
    waveform = np.random.default_rng(0).normal(0, 2, 1_000).astype(np.float32)
    np.testing.assert_array_equal(resampling.resample(waveform, 7, 7), waveform)


def test_resampling_nothing_gives_nothing():
    assert resampling.resample(np.zeros([2, 0], np.float32), 22_050, 16_000).shape == [
        2,
        0,
    ]
    rate = tf.constant(22_050)
    assert resampling.resample(np.zeros(0, np.float32), rate, 16_000).shape == [0]
