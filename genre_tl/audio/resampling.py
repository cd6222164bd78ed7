"""Changes sample rates with core TensorFlow ops: of whole waveforms or streams."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000  # accepted from the header of a file

# The low-pass falls from 1 to 0 like the integral of a Gaussian, five standard
# deviations to either side: from 0.95 to 1 of the lower Nyquist frequency. Its impulse
# response is below 1e-7 after 361 samples of the lower rate.
_CUTOFF, _CUTOFF_SD, _GUARD_SAMPLES = 0.975, 0.005, 400
_BLOCK_GUARDS = 16  # length of a transform; one at either end is not kept


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
    guard = -(-_GUARD_SAMPLES // tf.minimum(num_in, num_out))
    size = _BLOCK_GUARDS * guard * (num_in + num_out)
    return tf.where(num_in == num_out, tf.zeros_like(size), size)


def _common_divisor(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda a, b: b > 0, lambda a, b: (b, a % b), (first, second))[
        0
    ]


# Twice as fast, and parallel in threads.
_resample_in_graph = tf.function(
    resample,
    [tf.TensorSpec([None]), *[tf.TensorSpec([], tf.int64)] * 2],
    autograph=False,
)


def stream(
    blocks: Iterator[np.ndarray],
    rate_in_hz: int,
    rate_out_hz: int,
    piece_samples: int,
    most_samples: int,
) -> Iterator[np.ndarray]:
    """Resamples a waveform block by block, with no more blocks than it needs.

    Yields float32 `[piece_samples]`, the last piece shorter, at most `most_samples` in
    all. The pieces together equal `resample` of the whole, up to rounding.
    """
    divisor = math.gcd(rate_in_hz, rate_out_hz)
    num_in, num_out = rate_in_hz // divisor, rate_out_hz // divisor
    # How far an edge is heard, in groups of `num_in` or `num_out` samples.
    guard = -(-_GUARD_SAMPLES // min(num_in, num_out))
    first, held = 0, np.zeros([0], np.float32)
    for start in range(0, most_samples, piece_samples):
        stop = min(start + piece_samples, most_samples)
        before, first = first, max(start // num_out - guard, 0)
        num_wanted = (-(-stop // num_out) + guard - first) * num_in
        held = _filled(held[(first - before) * num_in :], blocks, num_wanted)
        waveform = held[:num_wanted]
        if rate_in_hz != rate_out_hz:
            waveform = _resample_in_graph(waveform, rate_in_hz, rate_out_hz).numpy()
        piece = waveform[start - first * num_out : stop - first * num_out]
        if len(piece):
            yield piece
        if len(piece) < piece_samples:
            return


def _filled(
    held: np.ndarray, blocks: Iterator[np.ndarray], num_wanted: int
) -> np.ndarray:
    parts, length = [held], len(held)
    while length < num_wanted and (block := next(blocks, None)) is not None:
        parts.append(block)
        length += len(block)
    return np.concatenate(parts)


def _convert(waveform: tf.Tensor, num_in: tf.Tensor, num_out: tf.Tensor) -> tf.Tensor:
    samples, lower = tf.shape(waveform, tf.int64)[-1], tf.minimum(num_in, num_out)
    # Lengths in groups of `num_in` input or `num_out` output samples.
    guard = -(-_GUARD_SAMPLES // lower)
    step, half_block = (_BLOCK_GUARDS - 2) * guard, _BLOCK_GUARDS // 2 * guard
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
    gain = 0.5 * tf.math.erfc((frequency - _CUTOFF) / (_CUTOFF_SD * math.sqrt(2)))
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
