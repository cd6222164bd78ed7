"""The demo corpus: small tagged and genre collections, synthesised from a seed.

A clip is a `_Piece` (tempo, groove, bass line, chords, instruments, mix), which one
small synthesiser plays. Each genre is a `_Style`: the choices typical of it. The
tagged part mixes the choices of all styles and names what sounds, so what is learned
there (timbre, rhythm, harmony, tempo) serves to tell the genres apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import wave
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import signal

from genre_tl import datasets, params

GENRE_RATE_HZ = 22_050
"""Sample rate of the genre part: GTZAN's."""

_RECIPE = 1  # To be raised with every change of the sound.
_MANIFEST = "corpus.json"
_CLIPS_PER_RECORDING = 2
# Folder f, the paper's validation set, gets two shares lest it be tiny.
_FOLDERS = "0123456789abcdef" + "f"
_TABLE_ROWS, _TABLE_COLUMNS = 16, 512
_STEPS_PER_BEAT = 4


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What to synthesise.

    Attributes:
      num_tagged: clips of the tagged part.
      clips_per_genre: clips of each of the ten genres.
      clip_secs: length of every clip, 1 to 60.
      seed: the same seed gives the same corpus.
      difficulty: 0 (every genre keeps to its style) to 1 (half of its choices are
        borrowed from any style, the mix varies more, and there is more noise).
    """

    num_tagged: int = 320
    clips_per_genre: int = 12
    clip_secs: float = 10.0
    seed: int = 0
    difficulty: float = 0.3

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_tagged", 1, 100_000),
            ("clips_per_genre", 1, 100_000),
            ("clip_secs", 1, 60),
            ("seed", 0, 2**63),
            ("difficulty", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class _Instrument:
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


@dataclasses.dataclass(frozen=True)
class _Style:
    """The choices typical of a genre, each an entry of the tables below."""

    bpm: tuple[int, int]
    drive: tuple[float, float]
    groove: tuple[str, ...]
    bass: tuple[str, ...]
    rhythm: tuple[str, ...]
    chords: tuple[str, ...]
    lead: tuple[str, ...]
    harmony: tuple[str, ...]


# fmt: off
_INSTRUMENTS: Mapping[str, _Instrument] = {
    "piano": _Instrument(1.5, 1.2, 0.3),
    "organ": _Instrument(partials=(1, .8, .6, .5, 0, .3, 0, .3), attack_secs=0.01),
    "strings": _Instrument(1.1, attack_secs=0.12, vibrato=0.25, detune=0.12),
    "flute": _Instrument(2.8, attack_secs=0.06, vibrato=0.3, breath=0.08),
    "guitar": _Instrument(0.9, 1.0, 0.9),
    "electric guitar": _Instrument(0.8, 0.6, 0.15),
    "synth": _Instrument(0.9, 0.2, detune=0.2, attack_secs=0.01),
    "brass": _Instrument(0.7, attack_secs=0.05, vibrato=0.15, formant_hz=1200),
    "bells": _Instrument(partials=(1, 0, 0, .6, 0, 0, 0, 0, 0, .4), decay=1.5),
    "choir": _Instrument(1.2, attack_secs=.2, vibrato=.3, detune=.15, formant_hz=700),
    "harpsichord": _Instrument(0.4, 2.0, 0.1),
    "upright bass": _Instrument(1.8, 1.5, 0.6),
    "electric bass": _Instrument(1.3, 0.6, 0.3),
    "synth bass": _Instrument(1.0, 0.2, 0.1),
}

# One character a sixteenth of a bar of 4/4 (or 3/4: twelve); x loud, o soft.
_BACKBEAT, _EIGHTHS = "....x.......x...", "x.x.x.x.x.x.x.x."
_OFFBEATS, _QUARTERS = "..x...x...x...x.", "x...x...x...x..."
_GROOVES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "none in three": {},
    "waltz": {"kick": "x...........", "snare": "....o...o..."},
    "shuffle": {"kick": "x.....o.x.....o.", "snare": _BACKBEAT, "hat": _EIGHTHS},
    "swing": {"kick": "o.......o.......", "ride": "x...x.x.x...x.x.", "hat": _BACKBEAT},
    "brushes": {"kick": "x.......x.......", "snare": "o.o.x.ooo.o.x.o."},
    "train": {"kick": _QUARTERS, "snare": "oooxooxooooxooxo"},
    "disco": {"kick": _QUARTERS, "snare": _BACKBEAT, "open": _OFFBEATS},
    "boom bap": {"kick": "x......x..x.....", "snare": _BACKBEAT, "hat": _EIGHTHS},
    "trap": {"kick": "x.....x...x..x..", "clap": "........x.......", "hat": "x" * 16},
    "double kick": {"kick": "x" * 16, "snare": _BACKBEAT, "ride": _QUARTERS},
    "gallop": {"kick": "x.xxx.xxx.xxx.xx", "snare": _BACKBEAT, "open": _QUARTERS},
    "rock": {"kick": "x.......x.x.....", "snare": _BACKBEAT, "open": _EIGHTHS},
    "pop": {"kick": "x.....x.x.....o.", "clap": _BACKBEAT, "hat": _EIGHTHS},
    "one drop": {"kick": "........x.......", "rim": _BACKBEAT, "hat": _EIGHTHS},
    "steppers": {"kick": _QUARTERS, "rim": "..x....x..x....x", "hat": _EIGHTHS},
}
_SWUNG = frozenset(["shuffle", "swing", "brushes"])
_IN_THREE = frozenset(["none in three", "waltz"])

# Chord tones of the bass: 1 root, 3 third, 5 fifth, 8 octave.
_BASSES: Mapping[str, tuple[str, str]] = {
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
_RHYTHMS: Mapping[str, str] = {
    "held": "X...............",
    "halves": "X.......X.......",
    "quarters": "x...x...x...x...",
    "eighths": "X.X.X.X.X.X.X.X.",
    "chick": _BACKBEAT,
    "skank": _OFFBEATS,
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
_HARMONIES: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
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
_STYLES: Mapping[str, _Style] = {
    "blues": _Style(
        (65, 120), (0, 0.5), ("shuffle", "shuffle", "brushes"), ("walking", "boogie"),
        ("quarters", "chick"), ("organ", "piano", "guitar", "electric guitar"),
        ("electric guitar", "guitar", "piano"), ("long blues", "quick blues")),
    "classical": _Style(
        (60, 130), (0, 0), ("none", "none in three"), ("none", "held"),
        ("held", "arpeggio", "halves", "fast arpeggio"),
        ("strings", "piano", "harpsichord", "choir"),
        ("strings", "flute", "none"), ("cadence", "minor cadence")),
    "country": _Style(
        (90, 150), (0, 0), ("train", "train", "waltz"), ("halves",),
        ("chick", "skank", "eighths"), ("guitar", "guitar", "piano"),
        ("guitar", "strings"), ("three chords",)),
    "disco": _Style(
        (108, 132), (0, 0), ("disco",), ("octaves", "eighths", "sequence"),
        ("syncopated", "skank", "held"), ("strings", "synth", "guitar"),
        ("strings", "brass", "synth"), ("funk", "sad")),
    "hiphop": _Style(
        (70, 104), (0, 0), ("boom bap", "boom bap", "trap"), ("sparse",),
        ("held", "charleston", "arpeggio"), ("piano", "organ", "bells"),
        ("none", "bells", "synth"), ("loop", "sad")),
    "jazz": _Style(
        (100, 220), (0, 0), ("swing", "swing", "brushes"), ("walking",),
        ("comping", "charleston"), ("piano", "guitar", "bells"),
        ("brass", "brass", "flute", "piano"), ("two five", "minor jazz")),
    "metal": _Style(
        (110, 190), (0.7, 1), ("double kick", "gallop"), ("chug", "eighths"),
        ("chug", "sixteenths", "eighths"), ("electric guitar",),
        ("none", "electric guitar"), ("dark", "riff")),
    "pop": _Style(
        (92, 130), (0, 0), ("pop", "pop", "disco"), ("sequence", "eighths"),
        ("eighths", "arpeggio", "syncopated"), ("synth", "piano", "guitar"),
        ("synth", "choir", "bells"), ("pop", "sad")),
    "reggae": _Style(
        (62, 92), (0, 0), ("one drop", "one drop", "steppers"), ("dub",),
        ("skank",), ("organ", "guitar", "piano"),
        ("none", "brass", "organ"), ("roots", "minor roots")),
    "rock": _Style(
        (100, 160), (0.2, 0.7), ("rock",), ("eighths",),
        ("eighths", "syncopated", "halves"), ("electric guitar", "organ"),
        ("electric guitar", "none"), ("rock", "riff", "three chords")),
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class _Piece:
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


def _tags(piece: _Piece) -> dict[str, bool]:
    """Says of every tag, in alphabetical order, whether it can be heard."""
    beat, line = _GROOVES[piece.groove], _BASSES[piece.bass][1]
    heard = {
        "arpeggio": "arpeggio" in piece.rhythm,
        "bass": bool(line),
        "dance": piece.groove == "disco",
        "distorted": piece.drive > 0.2,
        "drums": bool(beat),
        "fast": piece.bpm > 130,
        "no beat": not beat,
        "offbeat": _RHYTHMS[piece.rhythm] == _OFFBEATS,
        "slow": piece.bpm < 85,
        "solo": not beat and not line and piece.lead in ("none", piece.chords),
        "swing": piece.groove in _SWUNG,
        "waltz": piece.groove in _IN_THREE,
    }
    for mode, _, _ in _HARMONIES.values():
        heard[mode] = mode == _HARMONIES[piece.harmony][0]
    for name in _INSTRUMENTS:
        if "bass" not in name:
            heard[name] = name in (piece.chords, piece.lead)
    return dict(sorted(heard.items()))


def write(root: str | os.PathLike[str], corpus: Corpus) -> None:
    """Writes the corpus: `tagged` in MagnaTagATune's layout, `genres` in GTZAN's.

    The folder appears whole or not at all. If this very corpus is there, nothing is
    done.

    Raises:
      FileExistsError: if something else is there.
    """
    root = pathlib.Path(root).absolute()
    manifest = {"recipe": _RECIPE, **dataclasses.asdict(corpus)}
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _read_manifest(root) == manifest:
            return
        raise FileExistsError(
            f"{root}: something other than this demo corpus is there; remove it or "
            "name another folder"
        )
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        _write_tagged(partial / "tagged", corpus)
        _write_genres(partial / "genres", corpus)
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        os.replace(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_manifest(root: pathlib.Path) -> object:
    try:
        return json.loads((root / _MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def _write_tagged(root: pathlib.Path, corpus: Corpus) -> None:
    """Writes the clips, two of each recording, and their table."""
    lines = []
    for index in range(corpus.num_tagged):
        recording, part = divmod(index, _CLIPS_PER_RECORDING)
        rng = np.random.default_rng([corpus.seed, 0, recording])
        style = list(_STYLES)[recording % len(_STYLES)]
        piece = _vary(_compose(style, 0.6, corpus.difficulty, rng), rng)
        start, end = (int(k * corpus.clip_secs) for k in (part, part + 1))
        album, track = divmod(recording, 10)
        path = (
            f"{_FOLDERS[recording % len(_FOLDERS)]}/demo_band-album_{album:03d}-"
            f"{track:02d}-piece_{recording:05d}-{start}-{end}.wav"
        )
        player = np.random.default_rng([corpus.seed, 1, index])
        waveform = _play(piece, corpus.clip_secs, params.SAMPLE_RATE_HZ, player)
        _write_wav(root / path, waveform, params.SAMPLE_RATE_HZ)
        heard = _tags(piece)
        lines.append([str(index + 1), *(str(int(x)) for x in heard.values()), path])
    rows = [["clip_id", *heard, "mp3_path"], *lines]
    text = "".join("\t".join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    (root / datasets.ANNOTATIONS).write_text(text, encoding="utf-8")


def _write_genres(root: pathlib.Path, corpus: Corpus) -> None:
    for number, genre in enumerate(_STYLES):
        for index in range(corpus.clips_per_genre):
            rng = np.random.default_rng([corpus.seed, 2, number, index])
            piece = _compose(genre, corpus.difficulty / 2, corpus.difficulty, rng)
            waveform = _play(piece, corpus.clip_secs, GENRE_RATE_HZ, rng)
            path = root / "genres_original" / genre / f"{genre}.{index:05d}.wav"
            _write_wav(path, waveform, GENRE_RATE_HZ)


def _write_wav(path: pathlib.Path, waveform: np.ndarray, rate_hz: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())


def _compose(
    genre: str, borrow: float, difficulty: float, rng: np.random.Generator
) -> _Piece:
    """Draws a piece of `genre`, each choice taken elsewhere with chance `borrow`."""

    def options(field: str) -> tuple:
        other = list(_STYLES)[rng.integers(len(_STYLES))]
        return getattr(_STYLES[other if rng.random() < borrow else genre], field)

    names = ("groove", "bass", "rhythm", "chords", "lead", "harmony")
    chosen = {name: str(rng.choice(options(name))) for name in names}
    is_electric = chosen["chords"] == "electric guitar"
    return _Piece(
        bpm=rng.uniform(*options("bpm")),
        drive=rng.uniform(*options("drive")) * is_electric,
        **chosen,
        key=int(rng.integers(12)),
        levels=tuple(np.exp(rng.normal(0, 0.1 + 0.4 * difficulty, 4)).tolist()),
        tilt=rng.uniform(0, 0.8 * difficulty),
        echo=rng.uniform(0, 0.4),
        noise=10 ** rng.uniform(-4, -3 + 2 * difficulty),
        peak=10 ** rng.uniform(-0.9, -0.05),
    )


def _vary(piece: _Piece, rng: np.random.Generator) -> _Piece:
    """Spreads the tags: silences some players, deals instruments out evenly."""
    tuneful = [name for name in _INSTRUMENTS if "bass" not in name]
    changes: dict[str, Any] = {
        part: tuneful[rng.integers(len(tuneful))]
        for part in ("chords", "lead")
        if rng.random() < 0.5
    }
    for part in ("groove", "bass", "lead"):
        if rng.random() < 0.25:
            changes[part] = "none"
    if rng.random() < 0.15:
        changes["drive"] = rng.uniform(0.3, 1)
    return dataclasses.replace(piece, **changes)


def _play(
    piece: _Piece, clip_secs: float, rate_hz: int, rng: np.random.Generator
) -> np.ndarray:
    """Renders a piece: float32 `[clip_secs * rate_hz]`, within -1 and 1."""
    stage = _Stage(piece, round(clip_secs * rate_hz), rate_hz, rng)
    tracks = [stage.drums(), stage.bass(), stage.chords(), stage.lead()]
    drums, bass, chords, lead = (
        gain * track for gain, track in zip(piece.levels, tracks, strict=True)
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


class _Stage:
    """The players of one clip: each gives its track, float32 `[samples]`."""

    def __init__(
        self, piece: _Piece, num_samples: int, rate_hz: int, rng: np.random.Generator
    ) -> None:
        self._piece, self._rate_hz, self._rng = piece, rate_hz, rng
        self._num_samples = num_samples
        self._step_samples = rate_hz * 60 / piece.bpm / _STEPS_PER_BEAT
        self._bar_steps = 12 if piece.groove in _IN_THREE else 16
        self._first_bar = int(rng.integers(16))
        _, bars, self._scale = _HARMONIES[piece.harmony]
        self._bars = [bar.split(":") for bar in bars.split()]
        self._notes: dict[tuple[str, int, int], np.ndarray] = {}

    def drums(self) -> np.ndarray:
        track = self._silence()
        for voice, pattern in _GROOVES[self._piece.groove].items():
            sound = _drum(voice, self._rate_hz, self._rng)
            for step, hit, _ in self._onsets(pattern):
                self._add(track, sound, step, 0.4 if hit == "o" else 1.0)
        return track

    def bass(self) -> np.ndarray:
        name, line = _BASSES[self._piece.bass]
        track = self._silence()
        for step, degree, steps in self._onsets(line):
            root, tones = self._chord(step)
            third = tones[1] if tones[1] < 7 else 12
            interval = {"1": 0, "3": third, "5": 7, "8": 12}[degree]
            note = self._note(name, 33 + (root + 3) % 12 + interval, steps)
            self._add(track, note, step, 0.5)
        return track

    def chords(self) -> np.ndarray:
        track = self._silence()
        for step, kind, steps in self._onsets(_RHYTHMS[self._piece.rhythm]):
            root, tones = self._chord(step)
            if kind == "a":
                tones = (tones[step // max(steps, 1) % len(tones)],)
            length = min(steps, 2) if kind == "x" else max(steps, 2)
            for tone in tones:
                pitch = 52 + (root + tone - 4) % 12 + 12 * (kind == "a")
                note = self._note(self._piece.chords, pitch, length)
                self._add(track, note, step, 0.5 / len(tones) ** 0.5)
        return track

    def lead(self) -> np.ndarray:
        track = self._silence()
        if self._piece.lead == "none":
            return track
        degree, step = int(self._rng.integers(7, 14)), 0
        while step < self._num_steps():
            steps = (1, 2, 2, 2, 3, 4, 4, 6, 8)[self._rng.integers(9)]
            if self._rng.random() < 0.8:
                degree = min(max(degree + int(self._rng.integers(-2, 3)), 4), 16)
                octave, index = divmod(degree, len(self._scale))
                pitch = 55 + self._piece.key + 12 * octave + self._scale[index]
                note = self._note(self._piece.lead, pitch, steps)
                self._add(track, note, step, 0.4)
            step += steps
        return track

    def _silence(self) -> np.ndarray:
        return np.zeros(self._num_samples, np.float32)

    def _num_steps(self) -> int:
        return int(self._num_samples / self._step_samples)

    def _onsets(self, pattern: str) -> Iterator[tuple[int, str, int]]:
        """Yields step, character and steps until the next onset."""
        bar = pattern[: self._bar_steps]
        hits = [step for step, mark in enumerate(bar) if mark != "."]
        ends = [*hits[1:], self._bar_steps + hits[0]] if hits else []
        for start in range(0, self._num_steps(), self._bar_steps):
            for hit, end in zip(hits, ends, strict=True):
                yield start + hit, bar[hit], end - hit

    def _chord(self, step: int) -> tuple[int, tuple[int, ...]]:
        """Returns the root (semitones above C) and the intervals that sound."""
        bar = self._first_bar + step // self._bar_steps
        root, kind = self._bars[bar % len(self._bars)]
        return (self._piece.key + int(root)) % 12, _CHORDS[kind]

    def _note(self, name: str, pitch: int, steps: int) -> np.ndarray:
        key = (name, pitch, steps)
        if key not in self._notes:
            samples = int(steps * self._step_samples)
            self._notes[key] = _tone(_INSTRUMENTS[name], pitch, samples, self._rate_hz)
        return self._notes[key]

    def _add(
        self, track: np.ndarray, sound: np.ndarray, step: float, gain: float
    ) -> None:
        """Adds `sound` at `step`: swung, and neither quite in time nor quite even."""
        beat, part = divmod(int(step), _STEPS_PER_BEAT)
        if self._piece.groove in _SWUNG:
            step = beat * _STEPS_PER_BEAT + (0, 1.33, 2.67, 3.33)[part]
        position = step * self._step_samples
        start = max(0, round(position + self._rng.normal(0, 0.004) * self._rate_hz))
        end = min(start + len(sound), len(track))
        if start < end:
            gain *= self._rng.uniform(0.7, 1.0)
            track[start:end] += gain * sound[: end - start]


def _tone(
    instrument: _Instrument, pitch: int, num_samples: int, rate_hz: int
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
        sound = (
            sound + _look_up(table, row, cycles * 2 ** (instrument.detune / 12))
        ) / 2
    if instrument.breath:
        noise = np.random.default_rng(pitch).standard_normal(num_samples)
        sound = sound + instrument.breath * noise.astype(np.float32)
    rise = np.minimum(1, secs / instrument.attack_secs)
    fall = np.minimum(1, (num_samples / rate_hz - secs) / 0.02)
    return (sound * rise * fall * np.exp(-instrument.decay * secs)).astype(np.float32)


def _levels(instrument: _Instrument, harmonics: np.ndarray, hz: float) -> np.ndarray:
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
    # Lowest and highest frequency of a sweep and its level, cut-off of the noise
    # (high-passed) and its level, and the time of decay.
    low_hz, high_hz, tone, cut_hz, hiss, decay_secs = {
        "kick": (50, 180, 1.0, 1000, 0.02, 0.10),
        "snare": (180, 260, 0.4, 1200, 0.5, 0.07),
        "rim": (800, 900, 0.5, 2000, 0.2, 0.02),
        "clap": (500, 500, 0.0, 900, 0.6, 0.05),
        "hat": (500, 500, 0.0, 6000, 0.4, 0.02),
        "open": (500, 500, 0.0, 5000, 0.4, 0.12),
        "ride": (3000, 3000, 0.05, 4500, 0.2, 0.2),
    }[voice]
    secs = np.arange(round(5 * decay_secs * rate_hz)) / rate_hz
    tuning = rng.uniform(0.85, 1.2)
    hz = tuning * (low_hz + (high_hz - low_hz) * np.exp(-secs / 0.03))
    sweep = tone * np.sin(2 * np.pi * np.cumsum(hz) / rate_hz)
    high_pass = signal.butter(2, cut_hz * tuning, "highpass", fs=rate_hz)
    noise = signal.lfilter(*high_pass, rng.standard_normal(len(secs)))
    fading = np.exp(-secs / (decay_secs * rng.uniform(0.7, 1.3)))
    return ((sweep + hiss * noise) * fading).astype(np.float32)
