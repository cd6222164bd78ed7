"""Changes the sample rate of whole waveforms with core TensorFlow ops."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from genre_tl.audio import streaming


def resample(waveform: Any, rate_in_hz: Any, rate_out_hz: Any) -> tf.Tensor:
    """Resamples a waveform, band-limited and without a delay.

    Sample `k` of the result is at `k / rate_out_hz` seconds; there is silence before
    and after the waveform. The gain is 1 within 1e-6 up to 0.95 of the lower Nyquist
    frequency, and below -120 dB above 1 (overlap-save with FFTs).

    Args:
      waveform: float `[..., samples]`.
      rate_in_hz: its rate, an integer or an integer scalar tensor, positive.
      rate_out_hz: the new rate.

    Returns:
      float32 `[..., ceil(samples * rate_out_hz / rate_in_hz)]`.
    """
    waveform = tf.cast(waveform, tf.float32)
    rate_in_hz = tf.cast(rate_in_hz, tf.int64)
    rate_out_hz = tf.cast(rate_out_hz, tf.int64)
    divisor = _common_divisor(rate_in_hz, rate_out_hz)
    return tf.cond(
        tf.equal(rate_in_hz, rate_out_hz),
        lambda: waveform,
        lambda: _convert(waveform, rate_in_hz // divisor, rate_out_hz // divisor),
    )


def transform_size(rate_in_hz: tf.Tensor, rate_out_hz: int) -> tf.Tensor:
    """Returns the points that `resample` transforms at least, int64; 0 if none."""
    divisor = _common_divisor(rate_in_hz, tf.constant(rate_out_hz, tf.int64))
    num_in, num_out = rate_in_hz // divisor, rate_out_hz // divisor
    guard = -(-streaming.GUARD_SAMPLES // tf.minimum(num_in, num_out))
    size = streaming.BLOCK_GUARDS * guard * (num_in + num_out)
    return tf.where(num_in == num_out, tf.zeros_like(size), size)


def _common_divisor(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda a, b: b > 0, lambda a, b: (b, a % b), (first, second))[
        0
    ]


def _convert(waveform: tf.Tensor, num_in: tf.Tensor, num_out: tf.Tensor) -> tf.Tensor:
    samples, lower = tf.shape(waveform, tf.int64)[-1], tf.minimum(num_in, num_out)
    # Lengths in groups of `num_in` input or `num_out` output samples.
    guard = -(-streaming.GUARD_SAMPLES // lower)
    num_guards = streaming.BLOCK_GUARDS
    step, half_block = (num_guards - 2) * guard, num_guards // 2 * guard
    num_blocks = samples // (step * num_in) + 1
    lead = tf.shape(waveform, tf.int64)[:-1]
    padded = _pad(waveform, -1, 0, num_blocks * step * num_in - samples)
    blocks = tf.reshape(padded, tf.concat([lead, [num_blocks, step * num_in]], 0))
    before = _pad(blocks[..., :-1, -guard * num_in :], -2, 1, 0)
    after = _pad(blocks[..., 1:, : guard * num_in], -2, 0, 1)
    blocks = tf.concat([before, blocks, after], -1)

    num_bins = half_block * lower + 1
    spectrum = tf.signal.rfft(blocks, [tf.cast(2 * half_block * num_in, tf.int32)])
    frequency = tf.linspace(0.0, 1.0, num_bins)  # of the lower Nyquist frequency
    width = streaming.CUTOFF_SD * math.sqrt(2)
    gain = 0.5 * tf.math.erfc((frequency - streaming.CUTOFF) / width)
    gain *= tf.cast(num_out / num_in, tf.float32)
    spectrum = spectrum[..., :num_bins] * tf.cast(gain, tf.complex64)
    blocks = tf.signal.irfft(spectrum, [tf.cast(2 * half_block * num_out, tf.int32)])

    kept = blocks[..., guard * num_out : (guard + step) * num_out]
    result = tf.reshape(kept, tf.concat([lead, [num_blocks * step * num_out]], 0))
    result = result[..., : -(-samples * num_out // num_in)]
    return tf.ensure_shape(result, waveform.shape[:-1] + [None])


def _pad(tensor: tf.Tensor, axis: int, before: Any, after: Any) -> tf.Tensor:
    paddings: list[list[Any]] = [[0, 0]] * tensor.shape.rank
    paddings[axis] = [before, after]
    return tf.pad(tensor, paddings)
