"""What counts as sound, and recordings in pieces that begin with it, in NumPy.

`features.framing` is the same for TensorFlow graphs, and documents it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

SILENCE = 2 / 2**15
"""Samples up to this, two steps of 16-bit audio, are silence: dither too."""

LOUDEST = 2.0**31
"""Louder samples are broken; 32-bit integers taken for fractions are not."""

MIN_HEAD = 64
"""Equal samples at the beginning that are skipped like silence."""

_SEARCH_SAMPLES = 2**16  # searched for the first sound at a time


class Piece(NamedTuple):
    """A part of a recording."""

    waveform: np.ndarray  # float32 [samples]
    start: int  # its first sample in the recording
    padding: np.float32  # the first sample of the recording; see `framing.segments`


def pieces(waveforms: Iterable[np.ndarray], piece_samples: int) -> Iterator[Piece]:
    """Cuts a recording, read part by part, into pieces of whole segments.

    The pieces begin at the first sound; one without samples if there is none. Their
    segments, with `starts` of 0, are those of the recording.

    `waveforms` are consecutive parts, float32 `[samples]`; the first has 64 samples or
    more unless it is the only one. `piece_samples` is a multiple of a segment's.
    """
    held, start, value, has_begun = np.zeros(0, np.float32), 0, None, False
    for waveform in waveforms:
        if value is None:
            first, value = waveform[0], _head_value(waveform)
        if not has_begun:
            skipped = _first_sound(waveform, value)
            has_begun = skipped < len(waveform)
            waveform, start = waveform[skipped:], start + skipped
        held = np.concatenate([held, waveform]) if len(held) else waveform
        while len(held) > piece_samples:
            yield Piece(held[:piece_samples], start, first)
            held, start = held[piece_samples:], start + piece_samples
    if value is not None:
        yield Piece(held, start if has_begun else 0, first)


def _head_value(waveform: np.ndarray) -> float:
    """Returns the value that the head repeats, 0 if none."""
    head = waveform[:MIN_HEAD]
    is_constant = len(head) == MIN_HEAD and (head == head[0]).all()
    return float(head[0]) if is_constant else 0.0


def _first_sound(waveform: np.ndarray, head_value: float) -> int:
    for begin in range(0, len(waveform), _SEARCH_SAMPLES):
        block = waveform[begin : begin + _SEARCH_SAMPLES]
        level = np.abs(block)
        is_sound = (level > SILENCE) & (level <= LOUDEST) & (block != head_value)
        if is_sound.any():
            return begin + int(is_sound.argmax())
    return len(waveform)
