"""Pieces of music to sound: the instruments and players of the demo corpus.

A `Piece` names its tempo, groove, bass line, chords, instruments and mix, each an
entry of the tables below; `play` arranges them into notes and synthesises these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy import signal

_TABLE_ROWS, _TABLE_COLUMNS = 16, 512
_STEPS_PER_BEAT = 4
_SWING = (0, 1.33, 2.67, 3.33)  # Where the steps of a swung beat begin.


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A wavetable whose overtones fade at rates of their own.

    Attributes:
      rolloff: harmonics fall as `harmonic ** -rolloff`, unless `partials` say more.
      decay: fading of the note, nepers per second.
      damping: further fading per harmonic, nepers per second.
      attack_secs: rise time.
      vibrato, detune: depth, and distance of a second voice, in semitones.
      breath: noise relative to the tone.
      formant_hz: centre of a resonance; 0 for none.
      partials: amplitudes of the harmonics.
    """

    rolloff: float = 1.0
    decay: float = 0.0
    damping: float = 0.0
    attack_secs: float = 0.005
    vibrato: float = 0.0
    detune: float = 0.0
    breath: float = 0.0
    formant_hz: float = 0.0
    partials: tuple[float, ...] = ()


# fmt: off
INSTRUMENTS: Mapping[str, Instrument] = {
    "piano": Instrument(1.5, 1.2, 0.3),
    "organ": Instrument(partials=(1, .8, .6, .5, 0, .3, 0, .3), attack_secs=0.01),
    "strings": Instrument(1.1, attack_secs=0.12, vibrato=0.25, detune=0.12),
    "flute": Instrument(2.8, attack_secs=0.06, vibrato=0.3, breath=0.08),
    "guitar": Instrument(0.9, 1.0, 0.9),
    "electric guitar": Instrument(0.8, 0.6, 0.15),
    "synth": Instrument(0.9, 0.2, detune=0.2, attack_secs=0.01),
    "brass": Instrument(0.7, attack_secs=0.05, vibrato=0.15, formant_hz=1200),
    "bells": Instrument(partials=(1, 0, 0, .6, 0, 0, 0, 0, 0, .4), decay=1.5),
    "choir": Instrument(1.2, attack_secs=.2, vibrato=.3, detune=.15, formant_hz=700),
    "harpsichord": Instrument(0.4, 2.0, 0.1),
    "upright bass": Instrument(1.8, 1.5, 0.6),
    "electric bass": Instrument(1.3, 0.6, 0.3),
    "synth bass": Instrument(1.0, 0.2, 0.1),
}

# Lowest and highest frequency of a sweep (Hz) and its level, cut-off of the noise
# (Hz, high-passed) and its level, and the time of decay (seconds).
_DRUMS: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "kick": (50, 180, 1.0, 1000, 0.02, 0.10),
    "snare": (180, 260, 0.4, 1200, 0.5, 0.07),
    "rim": (800, 900, 0.5, 2000, 0.2, 0.02),
    "clap": (500, 500, 0.0, 900, 0.6, 0.05),
    "hat": (500, 500, 0.0, 6000, 0.4, 0.02),
    "open": (500, 500, 0.0, 5000, 0.4, 0.12),
    "ride": (3000, 3000, 0.05, 4500, 0.2, 0.2),
}

# One character a sixteenth of a bar of 4/4 (or 3/4: twelve); x loud, o soft.
_BACKBEAT, _EIGHTHS = "....x.......x...", "x.x.x.x.x.x.x.x."
OFFBEATS, _QUARTERS = "..x...x...x...x.", "x...x...x...x..."
GROOVES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "none in three": {},
    "waltz": {"kick": "x...........", "snare": "....o...o..."},
    "shuffle": {"kick": "x.....o.x.....o.", "snare": _BACKBEAT, "hat": _EIGHTHS},
    "swing": {"kick": "o.......o.......", "ride": "x...x.x.x...x.x.", "hat": _BACKBEAT},
    "brushes": {"kick": "x.......x.......", "snare": "o.o.x.ooo.o.x.o."},
    "train": {"kick": _QUARTERS, "snare": "oooxooxooooxooxo"},
    "disco": {"kick": _QUARTERS, "snare": _BACKBEAT, "open": OFFBEATS},
    "boom bap": {"kick": "x......x..x.....", "snare": _BACKBEAT, "hat": _EIGHTHS},
    "trap": {"kick": "x.....x...x..x..", "clap": "........x.......", "hat": "x" * 16},
    "double kick": {"kick": "x" * 16, "snare": _BACKBEAT, "ride": _QUARTERS},
    "gallop": {"kick": "x.xxx.xxx.xxx.xx", "snare": _BACKBEAT, "open": _QUARTERS},
    "rock": {"kick": "x.......x.x.....", "snare": _BACKBEAT, "open": _EIGHTHS},
    "pop": {"kick": "x.....x.x.....o.", "clap": _BACKBEAT, "hat": _EIGHTHS},
    "one drop": {"kick": "........x.......", "rim": _BACKBEAT, "hat": _EIGHTHS},
    "steppers": {"kick": _QUARTERS, "rim": "..x....x..x....x", "hat": _EIGHTHS},
}
SWUNG = frozenset(["shuffle", "swing", "brushes"])
IN_THREE = frozenset(["none in three", "waltz"])

# Chord tones of the bass: 1 root, 3 third, 5 fifth, 8 octave.
BASSES: Mapping[str, tuple[str, str]] = {
    "none": ("upright bass", ""),
    "held": ("upright bass", "1..............."),
    "halves": ("upright bass", "1.......5......."),
    "walking": ("upright bass", "1...3...5...8..."),
    "boogie": ("electric bass", "1.1.3.3.5.5.8.5."),
    "eighths": ("electric bass", "1.1.1.1.1.1.1.1."),
    "octaves": ("electric bass", "1.8.1.8.1.8.1.8."),
    "chug": ("electric bass", "1.111.111.111.11"),
    "dub": ("electric bass", "1..1..5...3.1..."),
    "sparse": ("synth bass", "1......1..5....."),
    "sequence": ("synth bass", "1.1.1.1.5.5.8.5."),
}
# X rings until the next, x is short, a is one tone of the chord after another.
RHYTHMS: Mapping[str, str] = {
    "held": "X...............",
    "halves": "X.......X.......",
    "quarters": "x...x...x...x...",
    "eighths": "X.X.X.X.X.X.X.X.",
    "chick": _BACKBEAT,
    "skank": OFFBEATS,
    "charleston": "x.....x.........",
    "comping": "..x......x....x.",
    "chug": "x.xxx.xxx.xxx.xx",
    "sixteenths": "x" * 16,
    "syncopated": "X..X..X...X..X..",
    "arpeggio": "a.a.a.a.a.a.a.a.",
    "fast arpeggio": "a" * 16,
}
_CHORDS: Mapping[str, tuple[int, ...]] = {
    "": (0, 4, 7), "m": (0, 3, 7), "5": (0, 7, 12),
    "7": (0, 4, 7, 10), "M7": (0, 4, 7, 11), "m7": (0, 3, 7, 10),
}
_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_BLUES, _FIVE = (0, 3, 5, 6, 7, 10), (0, 3, 5, 7, 10)
# Mode, chords (semitones above the key:kind, one a bar) and scale of the lead.
HARMONIES: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "long blues": ("blues", "0:7 5:7 0:7 0:7 5:7 5:7 0:7 0:7 7:7 5:7", _BLUES),
    "quick blues": ("blues", "0:7 5:7 0:7 7:7", _BLUES),
    "cadence": ("major", "0: 5: 7: 0: 9:m 2:m 7: 0:", _MAJOR),
    "minor cadence": ("minor", "0:m 5:m 7: 0:m 8: 3: 7: 0:m", _MINOR),
    "three chords": ("major", "0: 0: 5: 7:", _MAJOR),
    "pop": ("major", "0: 7: 9:m 5:", _MAJOR),
    "sad": ("minor", "0:m 8: 3: 10:", _MINOR),
    "two five": ("major", "2:m7 7:7 0:M7 9:m7", _MAJOR),
    "minor jazz": ("minor", "0:m7 5:m7 2:m7 7:7", _MINOR),
    "rock": ("major", "0: 10: 5: 0:", _MAJOR),
    "riff": ("minor", "0:5 3:5 5:5 0:5", _FIVE),
    "dark": ("minor", "0:5 1:5 0:5 8:5", _MINOR),
    "funk": ("minor", "0:m7 0:m7 5:7 10:7", _MINOR),
    "loop": ("minor", "0:m7 8:M7 0:m7 7:m7", _FIVE),
    "roots": ("major", "0: 2:m 0: 2:m", _MAJOR),
    "minor roots": ("minor", "0:m 5:m 0:m 10:", _MINOR),
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Piece:
    """A recording before it is played: one choice of everything.

    `drive` is 0 (clean) to 1; `levels` are the gains of drums, bass, chords and lead;
    `tilt` is 0 (bright) to 1 (dull); `noise` is relative to `peak`, this to full scale.
    """

    bpm: float
    drive: float
    groove: str
    bass: str
    rhythm: str
    chords: str
    lead: str
    harmony: str
    key: int
    levels: tuple[float, ...]
    tilt: float
    echo: float
    noise: float
    peak: float


def play(
    piece: Piece, clip_secs: float, rate_hz: int, rng: np.random.Generator
) -> np.ndarray:
    """Renders a piece: float32 `[clip_secs * rate_hz]`, within -1 and 1."""
    stage = _Stage(piece, round(clip_secs * rate_hz), rate_hz, rng)
    parts = (stage.drums(), stage.bass(), stage.chords(), stage.lead())
    drums, bass, chords, lead = (
        level * stage.record(part)
        for level, part in zip(piece.levels, parts, strict=True)
    )
    if piece.drive:
        chords = 0.5 * np.tanh((1 + 20 * piece.drive) * chords)
    mix = drums + bass + chords + lead
    late = round(0.11 * rate_hz)
    mix[late:] += piece.echo * mix[:-late].copy()
    mix = signal.lfilter([1 - piece.tilt], [1, -piece.tilt], mix)
    mix /= np.max(np.abs(mix)) + 1e-9
    mix += piece.noise * rng.standard_normal(len(mix), dtype=np.float32)
    return np.clip(piece.peak * mix, -1, 1).astype(np.float32)


class _Note(NamedTuple):
    """A note of an instrument at a MIDI pitch, or a stroke on a drum.

    It begins at `start` and lasts for `steps`, both in sixteenths.
    """

    voice: str
    start: int
    gain: float
    pitch: int = 0
    steps: int = 0


class _Stage:
    """The players of one clip, who give notes, and the recording of these.

    All draw from one generator of random numbers, so the order of recording counts.
    """

    def __init__(
        self, piece: Piece, num_samples: int, rate_hz: int, rng: np.random.Generator
    ) -> None:
        self._piece, self._rate_hz, self._rng = piece, rate_hz, rng
        self._num_samples = num_samples
        self._step_samples = rate_hz * 60 / piece.bpm / _STEPS_PER_BEAT
        self._num_steps = int(num_samples / self._step_samples)
        self._bar_steps = 12 if piece.groove in IN_THREE else 16
        self._first_bar = int(rng.integers(16))
        _, bars, self._scale = HARMONIES[piece.harmony]
        self._bars = [bar.split(":") for bar in bars.split()]

    def drums(self) -> Iterator[_Note]:
        for voice, pattern in GROOVES[self._piece.groove].items():
            for start, hit, _ in self._onsets(pattern):
                yield _Note(voice, start, 0.4 if hit == "o" else 1.0)

    def bass(self) -> Iterator[_Note]:
        voice, line = BASSES[self._piece.bass]
        for start, degree, steps in self._onsets(line):
            root, tones = self._chord(start)
            third = tones[1] if tones[1] < 7 else 12
            interval = {"1": 0, "3": third, "5": 7, "8": 12}[degree]
            yield _Note(voice, start, 0.5, 33 + (root + 3) % 12 + interval, steps)

    def chords(self) -> Iterator[_Note]:
        voice = self._piece.chords
        for start, kind, steps in self._onsets(RHYTHMS[self._piece.rhythm]):
            root, tones = self._chord(start)
            if kind == "a":
                tones = (tones[start // steps % len(tones)],)
            length = min(steps, 2) if kind == "x" else max(steps, 2)
            gain = 0.5 / len(tones) ** 0.5
            for tone in tones:
                pitch = 52 + (root + tone - 4) % 12 + 12 * (kind == "a")
                yield _Note(voice, start, gain, pitch, length)

    def lead(self) -> Iterator[_Note]:
        """Wanders up and down the scale, pausing now and then."""
        if self._piece.lead == "none":
            return
        degree, start = int(self._rng.integers(7, 14)), 0
        while start < self._num_steps:
            steps = (1, 2, 2, 2, 3, 4, 4, 6, 8)[self._rng.integers(9)]
            if self._rng.random() < 0.8:
                degree = min(max(degree + int(self._rng.integers(-2, 3)), 4), 16)
                octave, index = divmod(degree, len(self._scale))
                pitch = 55 + self._piece.key + 12 * octave + self._scale[index]
                yield _Note(self._piece.lead, start, 0.4, pitch, steps)
            start += steps

    def record(self, notes: Iterable[_Note]) -> np.ndarray:
        """Plays `notes`, neither quite in time nor quite even: `[samples]`."""
        track = np.zeros(self._num_samples, np.float32)
        sounds: dict[tuple[str, int, int], np.ndarray] = {}
        for note in notes:
            key = (note.voice, note.pitch, note.steps)
            if key not in sounds:
                sounds[key] = self._sound(note)
            late = self._rng.normal(0, 0.004) * self._rate_hz
            start = max(0, round(self._position(note.start) + late))
            end = min(start + len(sounds[key]), len(track))
            if start < end:
                gain = note.gain * self._rng.uniform(0.7, 1.0)
                track[start:end] += gain * sounds[key][: end - start]
        return track

    def _onsets(self, pattern: str) -> Iterator[tuple[int, str, int]]:
        """Yields step, character and steps until the next onset."""
        bar = pattern[: self._bar_steps]
        hits = [step for step, mark in enumerate(bar) if mark != "."]
        ends = [*hits[1:], self._bar_steps + hits[0]] if hits else []
        for start in range(0, self._num_steps, self._bar_steps):
            for hit, end in zip(hits, ends, strict=True):
                yield start + hit, bar[hit], end - hit

    def _chord(self, step: int) -> tuple[int, tuple[int, ...]]:
        """Returns the root (semitones above C) and the intervals that sound."""
        bar = self._first_bar + step // self._bar_steps
        root, kind = self._bars[bar % len(self._bars)]
        return (self._piece.key + int(root)) % 12, _CHORDS[kind]

    def _position(self, step: int) -> float:
        """Returns where a step begins, in samples, swung if the groove is."""
        beat, part = divmod(step, _STEPS_PER_BEAT)
        if self._piece.groove in SWUNG:
            return (beat * _STEPS_PER_BEAT + _SWING[part]) * self._step_samples
        return step * self._step_samples

    def _sound(self, note: _Note) -> np.ndarray:
        if note.voice in _DRUMS:
            return _drum(note.voice, self._rate_hz, self._rng)
        num_samples = int(note.steps * self._step_samples)
        return _tone(INSTRUMENTS[note.voice], note.pitch, num_samples, self._rate_hz)


def _tone(
    instrument: Instrument, pitch: int, num_samples: int, rate_hz: int
) -> np.ndarray:
    """Synthesises a note of MIDI `pitch`: float32 `[num_samples]`."""
    hz = 440 * 2 ** ((pitch - 69) / 12)
    secs = np.arange(num_samples, dtype=np.float32) / rate_hz
    rows = np.linspace(0, num_samples / rate_hz, _TABLE_ROWS)[:, np.newaxis]
    # Harmonics end below the Nyquist frequency, so nothing aliases.
    harmonics = np.arange(1, max(2, min(_TABLE_COLUMNS / 2, 0.45 * rate_hz / hz)))
    spectrum = np.zeros((_TABLE_ROWS, _TABLE_COLUMNS // 2 + 1), np.complex128)
    levels = _levels(instrument, harmonics, hz)
    fading = np.exp(-rows * instrument.damping * (harmonics - 1))
    # Phases that grow as a square keep the crest factor low.
    phases = np.exp(1j * np.pi * harmonics**2 / len(harmonics))
    spectrum[:, 1 : len(harmonics) + 1] = levels * fading * phases
    # By Parseval's theorem the first row has an effective value of 1/sqrt(2).
    scale = _TABLE_COLUMNS / 2 / np.sqrt(np.sum(levels**2) + 1e-12)
    table = (scale * np.fft.irfft(spectrum)).astype(np.float32)
    row = (secs * (_TABLE_ROWS * rate_hz / num_samples)).astype(np.int32)
    sway = instrument.vibrato / 12 * np.log(2) / (2 * np.pi * 5.5)
    cycles = hz * (secs + np.float32(sway) * np.sin(np.float32(2 * np.pi * 5.5) * secs))
    sound = _look_up(table, row, cycles)
    if instrument.detune:
        second = _look_up(table, row, cycles * 2 ** (instrument.detune / 12))
        sound = (sound + second) / 2
    if instrument.breath:
        noise = np.random.default_rng(pitch).standard_normal(num_samples)
        sound = sound + instrument.breath * noise.astype(np.float32)
    rise = np.minimum(1, secs / instrument.attack_secs)
    fall = np.minimum(1, (num_samples / rate_hz - secs) / 0.02)
    return (sound * rise * fall * np.exp(-instrument.decay * secs)).astype(np.float32)


def _levels(instrument: Instrument, harmonics: np.ndarray, hz: float) -> np.ndarray:
    levels = harmonics ** -float(instrument.rolloff)
    if instrument.partials:
        padded = np.pad(instrument.partials, (0, len(harmonics)))
        levels = padded[: len(harmonics)]
    if instrument.formant_hz:
        octaves = np.log2(harmonics * hz / instrument.formant_hz)
        levels = levels * (0.1 + np.exp(-2 * octaves**2))
    return levels


def _look_up(table: np.ndarray, row: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    column = (cycles * _TABLE_COLUMNS).astype(np.int32) % _TABLE_COLUMNS
    return table.ravel().take(row * _TABLE_COLUMNS + column)


def _drum(voice: str, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Synthesises one stroke, tuned a little differently each time."""
    low_hz, high_hz, tone, cut_hz, hiss, decay_secs = _DRUMS[voice]
    secs = np.arange(round(5 * decay_secs * rate_hz)) / rate_hz
    tuning = rng.uniform(0.85, 1.2)
    hz = tuning * (low_hz + (high_hz - low_hz) * np.exp(-secs / 0.03))
    sweep = tone * np.sin(2 * np.pi * np.cumsum(hz) / rate_hz)
    high_pass = signal.butter(2, cut_hz * tuning, "highpass", fs=rate_hz)
    noise = signal.lfilter(*high_pass, rng.standard_normal(len(secs)))
    fading = np.exp(-secs / (decay_secs * rng.uniform(0.7, 1.3)))
    return ((sweep + hiss * noise) * fading).astype(np.float32)
