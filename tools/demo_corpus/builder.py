"""Writes the demo corpus: a tagged and a genre collection, synthesised from a seed.

Each genre is a `_Style`: its typical choices. The tagged part mixes the choices of all
styles. Its tags, such as instruments, tempo and style, help to tell the genres apart.
"""

from __future__ import annotations

import collections
import io
import json
import pathlib

import numpy as np
import soundfile

from genre_tl import files, params
from genre_tl.data import collection, gtzan, magnatagatune

from . import synthesis

_GENRE_RATE_HZ = 22_050  # That of GTZAN.
_RECIPE = 4  # Increase it whenever the sound changes.
_MANIFEST = collection.DEMO_MANIFEST
# A range of tempo, and the choices for each part, separated by commas.
_Style = collections.namedtuple("_Style", "bpm groove bass rhythm chords lead harmony")
_PARTS = _Style._fields[1:]
# Folder f, the paper's validation set, gets two shares so that it is not too small.
_FOLDERS = "0123456789abcdef" + "f"
# The probability that a choice is from any style.
_BORROWED_TAGGED, _BORROWED_GENRES = 0.6, 0.1
# A piece with this many choices that are typical of a genre is tagged with it.
_NUM_TYPICAL = 3


# fmt: off
_STYLES = dict(zip(gtzan.GENRES, (
    _Style((65, 120), "shuffle", "walking", "quarters",
           "organ,piano,guitar", "electric guitar,guitar", "blues"),
    _Style((60, 130), "none", "none", "held",
           "strings,piano", "strings,flute,none", "pop,sad"),
    _Style((90, 150), "rock", "halves", "skank,eighths",
           "guitar", "guitar,strings", "pop"),
    _Style((108, 132), "disco", "octaves,eighths", "held",
           "strings,organ", "strings,brass", "sad"),
    _Style((70, 104), "boom bap", "dub", "held,comping",
           "piano,organ", "none,flute", "sad"),
    _Style((100, 220), "swing", "walking", "comping",
           "piano,guitar", "brass,flute,piano", "two five"),
    _Style((110, 190), "double kick", "eighths", "eighths",
           "electric guitar", "none,electric guitar", "riff"),
    _Style((92, 130), "rock,disco", "octaves,eighths", "eighths",
           "piano,guitar", "flute,guitar", "pop,sad"),
    _Style((62, 92), "one drop", "dub", "skank",
           "organ,guitar,piano", "none,brass,organ", "pop"),
    _Style((100, 160), "rock", "eighths", "eighths,held",
           "electric guitar,organ", "electric guitar,none", "riff,pop"),
), strict=True))
# fmt: on


def write(
    root: str, *, num_tagged: int, clips_per_genre: int, clip_secs: float, seed: int
) -> None:
    """Writes `tagged`, laid out as MagnaTagATune, and `genres`, laid out as GTZAN.

    The folder is written atomically; one that holds this corpus is left unchanged. The
    same seed gives the same corpus.

    Raises:
      FileExistsError: if the folder holds something else.
    """
    names = "recipe", "num_tagged", "clips_per_genre", "clip_secs", "seed"
    numbers = _RECIPE, num_tagged, clips_per_genre, clip_secs, seed
    manifest = dict(zip(names, numbers, strict=True))
    folder = pathlib.Path(root).absolute()
    found = folder / _MANIFEST
    if found.is_file() and json.loads(found.read_text()) == manifest:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: holds something other than this demo corpus")
    with files.whole_folder(folder) as unfinished:
        _write_tagged(unfinished / "tagged", num_tagged, clip_secs, seed)
        genres = unfinished / "genres" / "genres_original"
        _write_genres(genres, clips_per_genre, clip_secs, seed)
        files.write_json(unfinished / _MANIFEST, manifest)


def _write_tagged(root: pathlib.Path, count: int, secs: float, seed: int) -> None:
    rows = []
    for index in range(count):
        recording, part = divmod(index, 2)  # Two clips per recording.
        rng = np.random.default_rng([seed, 0, recording])
        genre = gtzan.GENRES[recording % len(gtzan.GENRES)]
        piece = _compose(genre, _BORROWED_TAGGED, rng)
        folder = _FOLDERS[recording % len(_FOLDERS)]
        name = f"demo_band-album_{recording // 10:03d}-{recording % 10:02d}-piece"
        span = f"{int(part * secs)}-{int((part + 1) * secs)}"
        path = f"{folder}/{name}_{recording:05d}-{span}.wav"
        player = np.random.default_rng([seed, 1, index])
        waveform = synthesis.play(piece, secs, params.SAMPLE_RATE_HZ, player)
        _write_wav(root / path, waveform, params.SAMPLE_RATE_HZ)
        tags = _tags(piece)
        rows.append([str(index + 1), *(str(int(x)) for x in tags.values()), path])
    table = [["clip_id", *tags, "mp3_path"], *rows]
    lines = ["\t".join(f'"{cell}"' for cell in row) + "\n" for row in table]
    files.write_text(root / magnatagatune.ANNOTATIONS, "".join(lines))


def _write_genres(root: pathlib.Path, count: int, secs: float, seed: int) -> None:
    for number, genre in enumerate(gtzan.GENRES):
        for index in range(count):
            rng = np.random.default_rng([seed, 2, number, index])
            piece = _compose(genre, _BORROWED_GENRES, rng)
            waveform = synthesis.play(piece, secs, _GENRE_RATE_HZ, rng)
            path = root / genre / f"{genre}.{index:05d}.wav"
            _write_wav(path, waveform, _GENRE_RATE_HZ)


def _write_wav(path: pathlib.Path, waveform: np.ndarray, rate_hz: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # soundfile does not say that a disk is full.
    soundfile.write(content, waveform, rate_hz, subtype="PCM_16", format="WAV")
    with files.named(path):
        path.write_bytes(content.getvalue())


def _compose(genre: str, borrowed: float, rng: np.random.Generator) -> synthesis.Piece:
    """Draws a piece; each choice is from any style with probability `borrowed`."""

    def style() -> _Style:
        other = gtzan.GENRES[rng.integers(len(gtzan.GENRES))]
        return _STYLES[other if rng.random() < borrowed else genre]

    chosen = {part: str(rng.choice(_options(style(), part))) for part in _PARTS}
    bpm, key = rng.uniform(*style().bpm), int(rng.integers(12))
    return synthesis.Piece(bpm=bpm, key=key, **chosen)


def _options(style: _Style, part: str) -> list[str]:
    return getattr(style, part).split(",")


def _tags(piece: synthesis.Piece) -> dict[str, bool]:
    """Returns for every tag, in alphabetical order, whether the piece has it."""
    tags = {
        "bass": piece.bass != "none",
        "drums": piece.groove != "none",
        "fast": piece.bpm > 130,
        "offbeat": piece.rhythm == "skank",
        "slow": piece.bpm < 85,
    }
    for name in synthesis.INSTRUMENTS.keys() - {"bass"}:
        tags[name] = name in (piece.chords, piece.lead)
    for genre, style in _STYLES.items():
        typical = (getattr(piece, part) in _options(style, part) for part in _PARTS)
        tags[genre] = sum(typical) >= _NUM_TYPICAL
    return dict(sorted(tags.items()))
