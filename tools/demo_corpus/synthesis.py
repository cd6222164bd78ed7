"""Synthesises a `Piece`: a choice of instruments, drum patterns, chords and tempo."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from scipy import signal

_TABLE_SIZE = 512
_BAR_STEPS = 16  # A step is a sixteenth note.

# Voice, start in steps, gain, MIDI pitch (tuning of a drum), steps.
_Note = tuple[str, int, float, int, int]

# fmt: off
# Harmonic n has the amplitude n ** -rolloff. Rolloff, decay (nepers per second) and
# attack (seconds).
INSTRUMENTS: Mapping[str, tuple[float, float, float]] = {
    "piano": (1.5, 1.2, 0.005),
    "organ": (0.5, 0.0, 0.005),
    "strings": (1.1, 0.0, 0.12),
    "flute": (2.8, 0.0, 0.06),
    "guitar": (1.2, 2.0, 0.005),
    "electric guitar": (0.8, 0.6, 0.005),
    "brass": (0.7, 0.0, 0.05),
    "bass": (1.5, 1.0, 0.005),
}

# Frequency of a falling sine (Hz) and its level; cut-off of high-passed noise (Hz) and
# its level; time of decay (seconds).
_DRUMS: Mapping[str, tuple[float, float, float, float, float]] = {
    "kick": (180, 1.0, 1000, 0.02, 0.10),
    "snare": (260, 0.4, 1200, 0.5, 0.07),
    "hat": (500, 0.0, 6000, 0.4, 0.02),
    "open": (500, 0.0, 5000, 0.4, 0.12),
}

# One character is a step of a bar; x is loud, o is soft.
_BACKBEAT, _EIGHTHS = "....x.......x...", "x.x.x.x.x.x.x.x."
OFFBEATS, _QUARTERS = "..x...x...x...x.", "x...x...x...x..."
GROOVES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "shuffle": {"kick": "x.....o.x.....o.", "snare": _BACKBEAT, "hat": "x..xx..x" * 2},
    "swing": {"kick": "o.......o.......", "open": "x...x..xx...x..x"},
    "disco": {"kick": _QUARTERS, "snare": _BACKBEAT, "open": OFFBEATS},
    "boom bap": {"kick": "x......x..x.....", "snare": _BACKBEAT, "hat": _EIGHTHS},
    "double kick": {"kick": "x" * 16, "snare": _BACKBEAT, "open": _QUARTERS},
    "rock": {"kick": "x.......x.x.....", "snare": _BACKBEAT, "open": _EIGHTHS},
    "one drop": {"kick": "........x.......", "snare": OFFBEATS, "hat": _EIGHTHS},
}
# Chord tones: 1 root, 3 third, 5 fifth, 8 octave.
BASSES: Mapping[str, str] = {
    "none": "",
    "halves": "1.......5.......",
    "walking": "1...3...5...8...",
    "eighths": "1.1.1.1.1.1.1.1.",
    "octaves": "1.8.1.8.1.8.1.8.",
    "dub": "1..1..5...3.1...",
}
# X rings until the next, x is short.
RHYTHMS: Mapping[str, str] = {
    "held": "X...............",
    "quarters": "x...x...x...x...",
    "eighths": "X.X.X.X.X.X.X.X.",
    "skank": OFFBEATS,
    "comping": "..x......x....x.",
}
_CHORDS: Mapping[str, tuple[int, ...]] = {
    "": (0, 4, 7), "m": (0, 3, 7), "5": (0, 7, 12), "7": (0, 4, 7, 10),
}
# A chord for each bar (semitones above the key:kind).
HARMONIES: Mapping[str, str] = {
    "blues": "0:7 5:7 0:7 7:7",
    "pop": "0: 7: 9:m 5:",
    "sad": "0:m 8: 3: 10:",
    "two five": "2:m 7:7 0: 9:7",
    "riff": "0:5 3:5 5:5 0:5",
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Piece:
    """Everything that is chosen for a piece. Key 0 is C."""

    bpm: float
    groove: str
    bass: str
    rhythm: str
    chords: str
    lead: str
    harmony: str
    key: int


def play(
    piece: Piece, clip_secs: float, rate_hz: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the waveform of a piece: float32 `[clip_secs * rate_hz]`, -1 to 1."""
    player = _Player(piece, clip_secs, rate_hz, rng)
    parts = player.drums(), player.bass(), player.chords(), player.lead()
    drums, bass, chords, lead = map(player.record, parts)
    if piece.chords == "electric guitar":
        chords = 0.5 * np.tanh(10 * chords)  # Distortion.
    mix = drums + bass + chords + lead
    mix /= np.max(np.abs(mix)) + 1e-9
    mix += 1e-3 * rng.standard_normal(len(mix), dtype=np.float32)
    return np.clip(0.7 * mix, -1, 1).astype(np.float32)


class _Player:
    """Yields the notes of each part of a piece, and records them."""

    def __init__(
        self, piece: Piece, clip_secs: float, rate_hz: int, rng: np.random.Generator
    ) -> None:
        self._piece, self._rate_hz, self._rng = piece, rate_hz, rng
        self._num_samples = round(clip_secs * rate_hz)
        self._step_samples = rate_hz * 15 / piece.bpm
        self._num_steps = int(self._num_samples / self._step_samples)

    def drums(self) -> Iterator[_Note]:
        for voice, pattern in GROOVES[self._piece.groove].items():
            for start, hit, _ in self._onsets(pattern):
                gain = 0.4 if hit == "o" else 1.0
                yield voice, start, gain, self._piece.key, 0

    def bass(self) -> Iterator[_Note]:
        for start, degree, steps in self._onsets(BASSES[self._piece.bass]):
            root, tones = self._chord(start)
            interval = {"1": 0, "3": tones[1], "5": 7, "8": 12}[degree]
            pitch = 33 + (root + 3) % 12 + interval
            yield "bass", start, 0.5, pitch, steps

    def chords(self) -> Iterator[_Note]:
        for start, mark, steps in self._onsets(RHYTHMS[self._piece.rhythm]):
            root, tones = self._chord(start)
            length = min(steps, 2) if mark == "x" else steps
            gain = 0.5 / len(tones) ** 0.5
            for tone in tones:
                pitch = 52 + (root + tone - 4) % 12
                yield self._piece.chords, start, gain, pitch, length

    def lead(self) -> Iterator[_Note]:
        """Yields random chord tones."""
        start = 0
        while self._piece.lead != "none" and start < self._num_steps:
            steps = int(self._rng.choice([1, 2, 2, 2, 3, 4, 4, 6, 8]))
            root, tones = self._chord(start)
            pitch = 64 + (root + int(self._rng.choice(tones)) + 8) % 24
            yield self._piece.lead, start, 0.4, pitch, steps
            start += steps

    def _onsets(self, pattern: str) -> Iterator[tuple[int, str, int]]:
        """Yields step, character and steps until the next onset."""
        hits = [step for step, mark in enumerate(pattern) if mark != "."]
        ends = [*hits[1:], _BAR_STEPS + hits[0]] if hits else []
        for start in range(0, self._num_steps, _BAR_STEPS):
            for hit, end in zip(hits, ends, strict=True):
                yield start + hit, pattern[hit], end - hit

    def _chord(self, step: int) -> tuple[int, tuple[int, ...]]:
        """Returns the root (semitones above C) and the intervals of the chord."""
        bars = HARMONIES[self._piece.harmony].split()
        root, kind = bars[step // _BAR_STEPS % len(bars)].split(":")
        return (self._piece.key + int(root)) % 12, _CHORDS[kind]

    def record(self, notes: Iterable[_Note]) -> np.ndarray:
        """Returns the sound of a part, with small deviations in time and loudness."""
        track = np.zeros(self._num_samples, np.float32)
        for voice, step, gain, pitch, steps in notes:
            samples = int(steps * self._step_samples)
            synthesise = drum if voice in _DRUMS else tone
            sound = synthesise(voice, pitch, samples, self._rate_hz)
            late = self._rng.normal(0, 0.004) * self._rate_hz
            start = max(0, round(step * self._step_samples + late))
            there = track[start : start + len(sound)]
            there += gain * self._rng.uniform(0.7, 1.0) * sound[: len(there)]
        return track


@functools.lru_cache(256)
def tone(voice: str, pitch: int, num_samples: int, rate_hz: int) -> np.ndarray:
    """Returns a note of an instrument at a MIDI pitch: float32 `[num_samples]`."""
    rolloff, decay, attack_secs = INSTRUMENTS[voice]
    hz = 440 * 2 ** ((pitch - 69) / 12)
    secs = np.arange(num_samples) / rate_hz
    # All harmonics are below the Nyquist frequency, so nothing aliases.
    harmonics = np.arange(1, max(2, min(_TABLE_SIZE / 2, 0.45 * rate_hz / hz)))
    # Quadratic phases keep the peaks low (Schroeder, 1970).
    phases = np.exp(1j * np.pi * harmonics**2 / len(harmonics))
    table = np.fft.irfft([0, *harmonics**-rolloff * phases], _TABLE_SIZE)
    table /= table.std() * 2**0.5
    sound = table[(hz * secs * _TABLE_SIZE).astype(int) % _TABLE_SIZE]
    rise = np.minimum(1, secs / attack_secs)
    fall = np.minimum(1, (num_samples / rate_hz - secs) / 0.02)
    return (sound * rise * fall * np.exp(-decay * secs)).astype(np.float32)


@functools.lru_cache(256)
def drum(voice: str, tuning: int, _: int, rate_hz: int) -> np.ndarray:
    """Returns a stroke: a sine that falls in pitch, and noise. `tuning` is a seed."""
    high_hz, level, cut_hz, hiss, decay_secs = _DRUMS[voice]
    rng = np.random.default_rng(tuning)
    secs = np.arange(round(5 * decay_secs * rate_hz)) / rate_hz
    hz = rng.uniform(0.85, 1.2) * high_hz * (0.3 + 0.7 * np.exp(-secs / 0.03))
    sweep = level * np.sin(2 * np.pi * np.cumsum(hz) / rate_hz)
    high_pass = signal.butter(2, cut_hz, "highpass", fs=rate_hz)
    noise = hiss * signal.lfilter(*high_pass, rng.standard_normal(len(secs)))
    return ((sweep + noise) * np.exp(-secs / decay_secs)).astype(np.float32)
