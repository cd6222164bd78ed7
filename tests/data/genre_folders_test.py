"""Folders of genre folders: which files are clips, and why others are skipped."""

import errno
import os
import pathlib

import pytest
from support.collection_files import touch

from genre_tl.data import collection, genre_folders


def test_a_folder_of_genres_may_be_nested_and_mixed(tmp_path):
    touch(tmp_path / "Polka" / "anna" / "one" / "a.flac")
    touch(tmp_path / "Polka" / "anna" / "two" / "b.MP3")
    touch(tmp_path / "Hip Hop" / "c.ogg")
    touch(tmp_path / "Hip Hop" / ".DS_Store")
    touch(tmp_path / ".git" / "d.wav")
    touch(tmp_path / "README.txt")
    table = collection.load("auto", tmp_path)
    assert table.vocabulary == ("Hip Hop", "Polka")
    assert table.paths == (
        "Hip Hop/c.ogg",
        "Polka/anna/one/a.flac",
        "Polka/anna/two/b.MP3",
    )
    assert table.classes.tolist() == [0, 1, 1]
    assert table.groups[1] == table.groups[2] != table.groups[0]
    assert table.skipped == ()


def test_what_a_folder_of_genres_leaves_out_is_reported(tmp_path):
    touch(tmp_path / "a" / "x.wav")
    touch(tmp_path / "b" / "y.wav")
    touch(tmp_path / "b" / "z.mid")
    touch(tmp_path / "b" / "cover")
    touch(tmp_path / "b" / "zero.wav", b"")
    touch(tmp_path / "stray.wav")
    (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    table = genre_folders.load(tmp_path)
    assert table.paths == ("a/x.wav", "b/y.wav")
    assert dict(table.skipped) == {
        "a/gone.wav": "cannot be read: No such file or directory",
        "b/cover": "no file name suffix",
        "b/z.mid": "unsupported format .mid; convert it to FLAC, WAV or MP3",
        "b/zero.wav": "empty file",
        "stray.wav": "not in a folder",
    }


def test_a_folder_that_cannot_be_entered_is_reported(tmp_path, monkeypatch):
    for path in ("a/x.wav", "a/artist/y.wav", "b/z.wav"):
        touch(tmp_path / path)
    scandir = os.scandir

    def closed(path):
        if pathlib.Path(path).name == "artist":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    table = genre_folders.load(tmp_path)
    assert table.paths == ("a/x.wav", "b/z.wav")
    reason = "folder cannot be read; check its permissions"
    assert table.skipped == (("a/artist", reason),)


def test_linked_folders_are_read_once(tmp_path):
    touch(tmp_path / "elsewhere" / "sub" / "x.wav")
    touch(tmp_path / "root" / "a" / "x.wav")
    touch(tmp_path / "root" / "c" / "artist" / "y.wav")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    # The folder itself is read before a link to it.
    (tmp_path / "root" / "a" / "link").symlink_to(tmp_path / "root" / "c" / "artist")
    paths = genre_folders.load(tmp_path / "root").paths
    assert paths == ("a/x.wav", "b/sub/x.wav", "c/artist/y.wav")


def test_too_few_or_empty_genres_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        collection.load("auto", tmp_path / "absent")
    with pytest.raises(ValueError, match="0 genre folders"):
        genre_folders.load(tmp_path)
    touch(tmp_path / "a" / "x.wav")
    with pytest.raises(ValueError, match=r"1 genre folder \(a\)"):
        genre_folders.load(tmp_path)
    touch(tmp_path / "b" / "notes.txt")
    with pytest.raises(ValueError, match=r"1 genre \(b\) without audio files"):
        genre_folders.load(tmp_path)
    with pytest.raises(ValueError, match="'mtt'"):
        collection.load("mtt", tmp_path)


def test_a_part_of_the_real_gtzan_loads(shared):
    table = collection.load("auto", shared / "data" / "gtzan")
    assert (table.name, len(table)) == ("gtzan", 70)
