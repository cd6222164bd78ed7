"""The beets plugin, with the program `beet` and a library of its own."""

import os
import pathlib
import subprocess
import sys

import pytest
from support import known_scores, sounds

pytest.importorskip("beets", reason="NOT RUN: beets is not installed")
import mediafile
from beets import library

ROOT = pathlib.Path(__file__).resolve().parents[1]
HAS_LISTS = "genres" in library.Item._fields
CONFIG = """
directory: {folder}/library
library: {folder}/library.db
plugins: genre_tl
import: {{copy: yes, write: yes}}
genre_tl:
    model: {model}
    genres: quiet=Ambient,long=Epic
    {options}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return known_scores.export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def beet(tmp_path, model):
    """Runs `beet` with options of the plugin; asserts success, returns its output."""

    def run(*args, options="", model=model):
        text = CONFIG.format(folder=tmp_path, model=model, options=options)
        (tmp_path / "config.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "beets", *args],
            env={**os.environ, "BEETSDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture
def music(tmp_path):
    """Two albums of five files: all WAVs are quiet, and one of them is long too."""
    for number in range(10):
        album = tmp_path / "music" / f"album {number % 2}"
        album.mkdir(parents=True, exist_ok=True)
        path = album / f"{number}.wav"
        known_scores.write_wav(path, 0.125, 96_000 if number == 4 else 8_000)
        if number > 5:
            samples = sounds.music(16_000, secs=1.0) / 8
            path.unlink()
            kind = {6: "FLAC", 7: "OGG", 8: "MP3", 9: "MP3"}[number]
            path = path.with_suffix(f".{kind.lower()}")
            path.write_bytes(sounds.encode(samples, 16_000, kind))
        file = mediafile.MediaFile(path)
        file.title, file.album, file.albumartist = str(number), album.name, "A"
        file.genre = "Dub" if number == 3 else None
        file.save()
    return tmp_path / "music"


def shown(beet, *query):
    """Returns the genres of tracks, or with -a of albums, by name."""
    name = "$album" if "-a" in query else "$title"
    field = "$genres" if HAS_LISTS else "$genre"
    stdout, _ = beet("ls", "-f", f"{name}={field}", *query)
    return dict(line.split("=") for line in stdout.splitlines())


def in_files(folder):
    paths = [path for path in folder.rglob("*.*") if path.is_file()]
    files = [mediafile.MediaFile(path) for path in paths if path.stat().st_size > 200]
    return {file.title: file.genres or [] for file in files}


def digests(folder):
    return {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_an_import_sets_genres_in_the_library_and_in_the_copied_files(
    beet, music, tmp_path
):
    before = digests(music)
    beet("import", "-A", "-q", str(music))
    expected = {str(number): "Ambient" for number in range(10)} | {"3": "Dub"}
    assert shown(beet) == expected
    assert shown(beet, "-a") == {"album 0": "Ambient", "album 1": "Ambient"}
    written = in_files(tmp_path / "library")
    assert written == {title: [genre] for title, genre in expected.items()}
    assert digests(music) == before

    beet("genre_tl", "title:3")
    assert shown(beet, "title:3") == {"3": "Dub"}
    beet("genre_tl", "-f", "title:3")
    assert shown(beet, "title:3") == {"3": "Ambient"}
    assert in_files(tmp_path / "library")["3"] == ["Ambient"]


def test_the_command_sets_genres_where_imports_do_not(beet, music, tmp_path):
    beet("import", "-A", "-q", str(music), options="auto: no")
    assert set(shown(beet).values()) == {"", "Dub"}

    before = digests(tmp_path / "library")
    _, stderr = beet("genre_tl", "-p", "title:4", options="count: 2")
    assert [x for x in stderr.splitlines() if x[:8] == "genre_tl"] == [
        "genre_tl: A - album 0 - 4: Ambient; Epic"
    ]
    assert digests(tmp_path / "library") == before
    assert set(shown(beet).values()) == {"", "Dub"}

    (damaged,) = (tmp_path / "library").rglob("*0.wav")
    damaged.write_bytes(b"RIFF" + bytes(100))
    options = "count: 2\n    min_score: 0.7"
    _, stderr = beet("genre_tl", "title:0", ",", "title:4", options=options)
    assert f"{damaged}: " in stderr
    genres = {str(number): "" for number in range(10)}
    assert shown(beet) == genres | {"3": "Dub", "4": "Ambient"}
    assert in_files(tmp_path / "library")["4"] == ["Ambient"]


def test_a_missing_model_is_an_error_in_one_line(beet, music, tmp_path):
    beet("import", "-A", "-q", str(music), options="auto: no")
    with pytest.raises(AssertionError, match="error: genre_tl: .*model.onnx here"):
        beet("genre_tl", model=tmp_path / "absent")
