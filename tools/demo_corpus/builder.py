"""The demo corpus: small tagged and genre collections, synthesised from a seed.

Each genre is a `_Style`: the choices typical of it, from which a piece is composed.
The tagged part mixes the choices of all styles and names what sounds, so what is
learned there (timbre, rhythm, harmony, tempo) serves to tell the genres apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np

from genre_tl import params
from genre_tl.data import magnatagatune
from tools.demo_corpus import synthesis

GENRE_RATE_HZ = 22_050
"""Sample rate of the genre part: GTZAN's."""

_RECIPE = 2  # To be raised with every change of the sound.
_MANIFEST = "corpus.json"
_CLIPS_PER_RECORDING = 2
_PARTS = ("groove", "bass", "rhythm", "chords", "lead", "harmony")
# Folder f, the paper's validation set, gets two shares lest it be tiny.
_FOLDERS = "0123456789abcdef" + "f"
# Of a piece's choices, how many must be typical of a genre to be tagged with it.
_NUM_TYPICAL = 3


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
class _Style:
    """The choices typical of a genre, each an entry of a table of `synthesis`."""

    bpm: tuple[int, int]
    drive: tuple[float, float]
    groove: tuple[str, ...]
    bass: tuple[str, ...]
    rhythm: tuple[str, ...]
    chords: tuple[str, ...]
    lead: tuple[str, ...]
    harmony: tuple[str, ...]


# fmt: off
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


def _tags(piece: synthesis.Piece) -> dict[str, bool]:
    """Says of every tag, in alphabetical order, whether it can be heard."""
    beat, line = synthesis.GROOVES[piece.groove], synthesis.BASSES[piece.bass][1]
    heard = {
        "arpeggio": "arpeggio" in piece.rhythm,
        "bass": bool(line),
        "dance": piece.groove == "disco",
        "distorted": piece.drive > 0.2,
        "drums": bool(beat),
        "fast": piece.bpm > 130,
        "no beat": not beat,
        "offbeat": synthesis.RHYTHMS[piece.rhythm] == synthesis.OFFBEATS,
        "slow": piece.bpm < 85,
        "solo": not beat and not line and piece.lead in ("none", piece.chords),
        "swing": piece.groove in synthesis.SWUNG,
        "waltz": piece.groove in synthesis.IN_THREE,
    }
    for mode, _, _ in synthesis.HARMONIES.values():
        heard[mode] = mode == synthesis.HARMONIES[piece.harmony][0]
    for name in synthesis.INSTRUMENTS:
        if "bass" not in name:
            heard[name] = name in (piece.chords, piece.lead)
    for genre, style in _STYLES.items():
        typical = (getattr(piece, part) in getattr(style, part) for part in _PARTS)
        heard[genre] = heard.get(genre, False) or sum(typical) >= _NUM_TYPICAL
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
        waveform = synthesis.play(
            piece, corpus.clip_secs, params.SAMPLE_RATE_HZ, player
        )
        _write_wav(root / path, waveform, params.SAMPLE_RATE_HZ)
        heard = _tags(piece)
        lines.append([str(index + 1), *(str(int(x)) for x in heard.values()), path])
    rows = [["clip_id", *heard, "mp3_path"], *lines]
    text = "".join("\t".join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    (root / magnatagatune.ANNOTATIONS).write_text(text, encoding="utf-8")


def _write_genres(root: pathlib.Path, corpus: Corpus) -> None:
    for number, genre in enumerate(_STYLES):
        for index in range(corpus.clips_per_genre):
            rng = np.random.default_rng([corpus.seed, 2, number, index])
            piece = _compose(genre, corpus.difficulty / 2, corpus.difficulty, rng)
            waveform = synthesis.play(piece, corpus.clip_secs, GENRE_RATE_HZ, rng)
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
) -> synthesis.Piece:
    """Draws a piece of `genre`, each choice taken elsewhere with chance `borrow`."""

    def options(field: str) -> tuple:
        other = list(_STYLES)[rng.integers(len(_STYLES))]
        return getattr(_STYLES[other if rng.random() < borrow else genre], field)

    chosen = {name: str(rng.choice(options(name))) for name in _PARTS}
    is_electric = chosen["chords"] == "electric guitar"
    return synthesis.Piece(
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


def _vary(piece: synthesis.Piece, rng: np.random.Generator) -> synthesis.Piece:
    """Spreads the tags: silences some players, deals instruments out evenly."""
    tuneful = [name for name in synthesis.INSTRUMENTS if "bass" not in name]
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
