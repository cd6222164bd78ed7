"""Genre tags of music files, read and written with mutagen."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import mutagen
from mutagen import aiff, apev2, flac, id3, mp3, mp4, ogg, wave

from genre_tl.audio import ffmpeg

_ID3_FILES = (mp3.MP3, wave.WAVE, aiff.AIFF)
_KINDS = (*_ID3_FILES, flac.FLAC, ogg.OggFileType, mp4.MP4)
_VORBIS, _MP4, _ID3 = "genre", "\xa9gen", "TCON"
_V23 = (2, 3, 0)


def read(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the genres in the tags of a file; none if there is no tag.

    Raises:
      ValueError: if the format is not supported, or the tags cannot be read.
      OSError: if the system cannot read the file.
    """
    file = _opened(path)
    found = _genres(file)
    return found or _genres_elsewhere(file, path)


def write(path: pathlib.Path, genres: Sequence[str]) -> None:
    """Writes genres into the tags of a file in place, and checks the result.

    Other tags, and the version of an ID3 tag from 2.3 on, stay as they are.

    Raises:
      ValueError: if the format is not supported, the tags cannot be read or written,
        or the audio would change; what is then in the file is undefined.
      OSError: if the system cannot write the file.
    """
    before = _packets(path)
    file = _opened(path)
    try:
        _write(file, path, list(genres))
    except mutagen.MutagenError as error:
        raise _reason(error, path, "written") from error
    written = read(path)
    if written != tuple(genres):
        raise ValueError(f"the tag reads {'; '.join(written)!r} after it was written")
    if _packets(path) != before:
        raise ValueError("writing the tag would change the audio; is it damaged?")


def _opened(path: pathlib.Path) -> Any:
    """Returns an instance of one of `_KINDS`."""
    try:
        file = mutagen.File(path)
    except mutagen.MutagenError as error:
        raise _reason(error, path, "read") from error
    except OSError:
        raise
    except Exception as error:  # mutagen's parsers raise anything on damaged tags.
        raise ValueError(f"its tags cannot be read ({error!r})") from error
    if not isinstance(file, _KINDS):
        kind = "" if file is None else f" of {type(file).__name__} files"
        raise ValueError(f"genre tags{kind} are not supported")
    return file


def _genres(file: Any) -> tuple[str, ...]:
    tags = file.tags
    if isinstance(tags, id3.ID3):
        found = [x for frame in tags.getall(_ID3) for x in frame.genres]
    elif tags is None:
        found = []
    else:
        found = tags.get(_MP4 if isinstance(file, mp4.MP4) else _VORBIS, [])
    return _cleaned(found)


def _genres_elsewhere(file: Any, path: pathlib.Path) -> tuple[str, ...]:
    """Returns genres of other tags that players read: INFO in a WAV, APE in an MP3."""
    if isinstance(file, wave.WAVE):
        with open(path, "rb") as data:
            return _cleaned([ffmpeg.tag(data, "genre")])
    if isinstance(file, mp3.MP3):
        with contextlib.suppress(mutagen.MutagenError):  # There is none.
            return _cleaned(apev2.APEv2(path).get("Genre", []))
    return ()


def _cleaned(genres: Iterable[object]) -> tuple[str, ...]:
    return tuple(text for x in genres if (text := str(x).strip()))


def _write(file: Any, path: pathlib.Path, genres: list[str]) -> None:
    if isinstance(file, _ID3_FILES):
        _write_id3(file, path, genres)
        return
    if file.tags is None:
        file.add_tags()
    file.tags[_MP4 if isinstance(file, mp4.MP4) else _VORBIS] = genres
    file.save()


def _write_id3(file: Any, path: pathlib.Path, genres: list[str]) -> None:
    how: dict[str, Any] = {}
    if file.tags is None:
        file.add_tags()
    elif file.tags.version == _V23:
        # Without `translate`, frames that only 2.3 has are kept. Several values are
        # separated by NUL as in 2.4, since a genre may contain the usual slash.
        file = type(file)(path, translate=False)
        how = {"v2_version": 3, "v23_sep": None}
    is_latin = all(genre.isascii() for genre in genres)
    encoding = id3.Encoding.LATIN1 if is_latin else id3.Encoding.UTF16
    file.tags.setall(_ID3, [id3.TCON(encoding=encoding, text=genres)])
    file.save(**how)


def _packets(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return ffmpeg.packet_digest(file)


def _reason(
    error: mutagen.MutagenError, path: pathlib.Path, done: str
) -> ValueError | OSError:
    """Returns the error of the system that mutagen wraps, or one with a text."""
    cause = error.__context__
    if isinstance(cause, OSError) and cause.errno:
        return cause
    text = str(error).removeprefix(f"{str(path)!r} ") or type(error).__name__
    return ValueError(f"its tags cannot be {done} ({text})")
