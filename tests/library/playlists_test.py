"""M3U8 playlists."""

import os
import pathlib

import pytest

from genre_tl.library import playlists


def test_paths_are_relative_to_the_playlist_and_none_is_a_comment():
    names = ["/music/a.mp3", "/music/lists/#1.mp3", "/music/ü/b.mp3"]
    text = playlists.text(pathlib.Path("/music/lists"), map(pathlib.Path, names))
    assert text == "#EXTM3U\n../a.mp3\n./#1.mp3\n../ü/b.mp3\n"


@pytest.mark.parametrize("name", ["a\nb.mp3", "a\rb.mp3", os.fsdecode(b"\xff.mp3")])
def test_names_that_no_playlist_can_hold_are_an_error(name):
    with pytest.raises(ValueError, match="a playlist cannot hold its name"):
        playlists.text(pathlib.Path("/"), [pathlib.Path("/", name)])
