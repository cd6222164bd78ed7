"""Changes the sample rate of a waveform that is read block by block, in NumPy.

The same low-pass as `resampling`, which is for TensorFlow graphs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
from scipy import fft, special

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Sample rates that are accepted from the header of a file."""

# The low-pass falls from 1 to 0 like the integral of a Gaussian, five standard
# deviations to either side: from 0.95 to 1 of the lower Nyquist frequency. Its impulse
# response is below 1e-7 after 361 samples of the lower rate.
CUTOFF, CUTOFF_SD, GUARD_SAMPLES = 0.975, 0.005, 400

BLOCK_GUARDS = 16
"""Length of a transform; one guard at either end is not kept."""


def stream(
    blocks: Iterator[np.ndarray],
    rate_in_hz: int,
    rate_out_hz: int,
    piece_samples: int,
    most_samples: int,
) -> Iterator[np.ndarray]:
    """Resamples a waveform block by block, with no more blocks than it needs.

    Yields float32 `[piece_samples]`, the last piece shorter, at most `most_samples` in
    all. The pieces together equal `resampling.resample` of the whole, up to rounding.
    """
    divisor = math.gcd(rate_in_hz, rate_out_hz)
    num_in, num_out = rate_in_hz // divisor, rate_out_hz // divisor
    # How far an edge is heard, in groups of `num_in` or `num_out` samples.
    guard = -(-GUARD_SAMPLES // min(num_in, num_out))
    first, held = 0, np.zeros([0], np.float32)
    for start in range(0, most_samples, piece_samples):
        stop = min(start + piece_samples, most_samples)
        before, first = first, max(start // num_out - guard, 0)
        num_wanted = (-(-stop // num_out) + guard - first) * num_in
        held = _filled(held[(first - before) * num_in :], blocks, num_wanted)
        waveform = held[:num_wanted]
        if rate_in_hz != rate_out_hz:
            waveform = _convert(waveform, num_in, num_out, guard)
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


def _convert(waveform: np.ndarray, num_in: int, num_out: int, guard: int) -> np.ndarray:
    """Returns `[samples]` at `num_out / num_in` times the rate, by overlap-save."""
    step = (BLOCK_GUARDS - 2) * guard  # in groups of `num_in` or `num_out` samples
    num_blocks = len(waveform) // (step * num_in) + 1
    padded = np.zeros((num_blocks * step + 2 * guard) * num_in, np.float32)
    padded[guard * num_in :][: len(waveform)] = waveform
    length = BLOCK_GUARDS * guard * num_in
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)
    gain = _gain(BLOCK_GUARDS // 2 * guard * min(num_in, num_out) + 1)
    with np.errstate(invalid="ignore", over="ignore"):  # Callers find broken samples.
        spectrum = fft.rfft(windows[:: step * num_in])[:, : len(gain)]
        spectrum *= gain * np.float32(num_out / num_in)
        made = fft.irfft(spectrum, BLOCK_GUARDS * guard * num_out)
    kept = made[:, guard * num_out : (guard + step) * num_out].ravel()
    return kept[: -(-len(waveform) * num_out // num_in)]


@functools.lru_cache(16)
def _gain(num_bins: int) -> np.ndarray:
    frequency = np.linspace(0, 1, num_bins)  # of the lower Nyquist frequency
    gain = 0.5 * special.erfc((frequency - CUTOFF) / (CUTOFF_SD * math.sqrt(2)))
    return gain.astype(np.float32)
