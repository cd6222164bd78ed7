"""Genre tags of all formats, read back, and what else must stay as it is."""

import struct

import mutagen
import pytest
from mutagen import apev2, id3
from support import sounds, tagged_files

from genre_tl.library import tags

GENRES = ("Pop/Rock", "Drum & Bass", "Ünïcode")


@pytest.mark.parametrize("name", tagged_files.NAMES)
def test_genres_are_read_back_and_the_audio_is_the_same(tmp_path, name):
    (path,) = tagged_files.write(tmp_path, [name])
    audio = tagged_files.packets(path)
    assert tags.read(path) == ()
    for genres in (GENRES, ("Rock",)):
        tags.write(path, genres)
        assert tags.read(path) == genres
        easy = mutagen.File(path, easy=True)
        kind = easy if name not in ("wav", "aiff") else {"genre": easy["TCON"].genres}
        assert tuple(kind["genre"]) == genres
        assert tagged_files.packets(path) == audio


def test_all_other_tags_and_the_audio_stay(tmp_path):
    for path in tagged_files.write_tagged(tmp_path):
        audio, before = tagged_files.packets(path), mutagen.File(path)
        assert tags.read(path) == (), path
        tags.write(path, GENRES)
        after = mutagen.File(path)
        assert tags.read(path) == GENRES, path
        for name, value in before.tags.items():
            assert after.tags[name] == value, (path, name)
        assert len(after.tags.keys()) == len(before.tags.keys()) + 1
        assert getattr(after, "pictures", 0) == getattr(before, "pictures", 0)
        assert tagged_files.packets(path) == audio


def test_an_id3_tag_of_version_2_3_keeps_version_and_frames(tmp_path):
    path, *_ = tagged_files.write_tagged(tmp_path)
    before = tagged_files.frames(path)
    tags.write(path, GENRES)
    after = tagged_files.frames(path)
    assert id3.ID3(path).version == (2, 3, 0)
    assert {"TYER", "TDAT"} < set(before)
    assert after.pop("TCON") and after == before


@pytest.mark.parametrize(
    "value, expected",
    [("(17)", ("Rock",)), ("17", ("Rock",)), ("(17)(8)", ("Rock", "Jazz")), (" ", ())],
)
def test_numbers_of_old_tags_are_genres_and_blanks_are_none(tmp_path, value, expected):
    (path,) = tagged_files.write(tmp_path, ["mp3"])
    written = id3.ID3()
    written.add(id3.TCON(encoding=0, text=[value]))
    written.save(path)
    assert tags.read(path) == expected


def test_genres_in_other_places_of_a_file_count_as_genres(tmp_path):
    mp3, wav = tagged_files.write(tmp_path, ["mp3", "wav"])
    tag = apev2.APEv2()
    tag["Genre"] = "Dub"
    tag.save(mp3)
    genre = b"INFOIGNR" + struct.pack("<I", 4) + b"Dub\0"
    data = wav.read_bytes() + b"LIST" + struct.pack("<I", len(genre)) + genre
    wav.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    assert tags.read(mp3) == tags.read(wav) == ("Dub",)
    tags.write(wav, GENRES)
    assert tags.read(wav) == GENRES


def test_tags_of_an_unknown_version_are_an_error(tmp_path):
    path = tagged_files.with_unknown_version(tmp_path / "a.mp3")
    with pytest.raises(ValueError, match=r"tags cannot be read \(ID3v2\.5 not supp"):
        tags.read(path)


def test_formats_without_genre_tags_are_an_error(tmp_path):
    wma, text = tmp_path / "a.wma", tmp_path / "a.txt"
    wma.write_bytes(sounds.encode_with_ffmpeg(sounds.music(44_100), 44_100, ".wma"))
    text.write_text("no audio")
    with pytest.raises(ValueError, match="genre tags of ASF files are not supported"):
        tags.read(wma)
    with pytest.raises(ValueError, match="genre tags are not supported"):
        tags.read(text)
    with pytest.raises(FileNotFoundError):
        tags.read(tmp_path / "absent.mp3")


@pytest.mark.parametrize("name", tagged_files.NAMES)
def test_damaged_files_are_an_error_or_keep_their_audio(tmp_path, name):
    data = tagged_files.audio(name)
    for number in range(40):
        path = tmp_path / f"{number}.{name}"
        start = number * 7 % 200
        damaged = data[:start] + bytes([number] * 9) + data[start + 9 :]
        path.write_bytes(damaged[: len(damaged) - number * 500])
        copy = path.with_name(f"copy.{name}")
        copy.write_bytes(path.read_bytes())
        try:
            tags.write(path, GENRES)
        except (ValueError, OSError):
            continue
        assert tags.read(path) == GENRES
        assert tagged_files.packets(path) == tagged_files.packets(copy)
