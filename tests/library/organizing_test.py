"""Tags, genre folders and playlists together; kills at every moment."""

import os
import pathlib
import signal
import warnings

import pytest
from support import tagged_files

from genre_tl.library import changes, journal, organizing, tags

ALL = organizing.Options(tag=True, sort_into="sorted", how="move", playlists="lists")
GENRES = ("Pop/Rock", "Blues")


@pytest.fixture
def music(tmp_path, monkeypatch):
    """The current folder, with `music`: all formats, also in a folder below."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("music/old").mkdir(parents=True)
    tagged_files.write(pathlib.Path("music"))
    tagged_files.write_tagged(pathlib.Path("music/old"))
    return pathlib.Path("music")


def items(folder, options, genres=GENRES):
    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    return organizing.items([(str(path), genres, "") for path in paths], options)


def organize(todo, options):
    log = journal.Journal("undo.jsonl")
    if log.is_done or not log.run:
        log.begin(items=organizing.to_record(todo), playlists=options.playlists)
    todo = organizing.from_record(log.run["items"])
    changes.clean(log, organizing.folders(todo, options))
    outcomes = list(organizing.organize(todo, options, log))
    log.finish()
    return outcomes


def undo():
    log = journal.Journal("undo.jsonl")
    if not log.run:
        return
    todo = organizing.from_record(log.run["items"])
    changes.clean(log, organizing.folders(todo, ALL))
    assert not [reason for _, reason in changes.undo(log) if reason]
    log.drop()


def state(folder="."):
    found = tagged_files.digests(pathlib.Path(folder))
    return {name: x for name, x in found.items() if "undo.jsonl" not in name}


def errors(outcomes):
    return {pathlib.Path(x.path).name: x.error for x in outcomes if x.error}


def test_every_format_is_tagged_sorted_and_listed_and_undo_restores_every_byte(music):
    before, todo = state(), items(music, ALL)
    audio = {path.name: tagged_files.packets(path) for path in music.rglob("*.*")}
    shown = list(organizing.organize(todo, ALL, None))
    assert state() == before
    assert organize(todo, ALL) == shown and not errors(shown)
    found = sorted(pathlib.Path("sorted/Pop-Rock").rglob("*.*"))
    assert {path.name for path in found} == set(audio)
    assert all(tags.read(path) == GENRES for path in found)
    assert {path.name: tagged_files.packets(path) for path in found} == audio
    for name in ("Pop-Rock", "Blues"):
        lines = pathlib.Path(f"lists/{name}.m3u8").read_text("utf-8").splitlines()
        listed = {pathlib.Path("lists", line).resolve() for line in lines[1:]}
        assert listed == {path.resolve() for path in found}
    undo()
    assert state() == before and not os.path.exists("undo.jsonl")


def test_only_empty_tags_are_written_unless_asked(music):
    options = organizing.Options(tag=True)
    (first, *_), paths = items(music, options), [pathlib.Path("music/0.mp3")]
    organize([first], options)
    other = organizing.items([(str(paths[0]), ("Jazz",), "")], options)
    assert [x.lines for x in organize(other, options)] == [()]
    assert tags.read(paths[0]) == GENRES
    replace = organizing.Options(tag=True, replace=True)
    (outcome,) = organize(other, replace)
    assert outcome.lines == ("genre: Pop/Rock; Blues -> Jazz",)
    assert tags.read(paths[0]) == ("Jazz",)


def test_one_bad_file_never_stops_the_others(music):
    tagged_files.with_unknown_version(music / "0.mp3")
    os.chmod(music / "1.flac", 0o444)
    (music / "2.ogg").write_bytes(b"no audio")
    options = organizing.Options(tag=True, playlists="lists")
    todo = items(music, options)
    taken = pathlib.Path("lists/Blues.m3u8")
    taken.mkdir(parents=True)
    with open(music / "3.opus", "ab"):
        found = errors(organize(todo, options))
    assert found.pop("0.mp3").startswith("its tags cannot be read (")
    assert found.pop("2.ogg") == "genre tags are not supported"
    assert found.pop("Blues.m3u8")
    assert found == {
        "1.flac": "read-only file",
        "3.opus": "open for writing in another program; close it and rerun",
    }
    rest = [pathlib.Path(item.path) for item in todo]
    assert all(tags.read(path) == GENRES for path in rest[4:])


def test_a_place_that_is_taken_is_an_error_and_nothing_is_overwritten(music):
    options = organizing.Options(sort_into="sorted", how="copy")
    target = pathlib.Path("sorted/Pop-Rock/0.mp3")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    found = organize(items(music, options), options)
    assert errors(found) == {"0.mp3": "exists already"}
    assert target.read_bytes() == b"mine"
    again = organize(items(music, options), options)
    assert errors(again) == {"0.mp3": "exists already"}
    assert not any(outcome.lines for outcome in again)


@pytest.mark.parametrize(
    "genre, name",
    [
        ("Pop/Rock", "Pop-Rock"),
        ("..", "_"),
        ("R&B", "R&B"),
        ("con", "_con"),
        (".hidden", "_hidden"),
        ("a\\b:c?", "a-b-c-"),
        ("Schlager ", "Schlager"),
        ("Ünï", "Ünï"),
    ],
)
def test_genres_become_names_that_all_systems_take(genre, name):
    assert organizing.name(genre) == name


def test_files_keep_their_place_below_the_folder_that_all_share(tmp_path):
    options = organizing.Options(sort_into=str(tmp_path))
    paths = ["/m/x/a/1.mp3", "/m/x/b/c/2.mp3", "/m/x/none.mp3", "/m/x/a/1.mp3"]
    genres = [("A",), ("B",), (), ("A",)]
    found = organizing.items(
        [(path, kept, "") for path, kept in zip(paths, genres, strict=True)], options
    )
    targets = [x.target.removeprefix(str(tmp_path)) for x in found]
    assert targets == ["/A/a/1.mp3", "/B/b/c/2.mp3", ""]


CALLS = ("fsync", "replace", "rename", "unlink", "mkdir")


def killed(action, count):
    """Runs an action in a process that dies before its `count`th call of the system.

    Returns whether it died.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child runs one thread
        child = os.fork()
    if not child:
        left = count

        def counted(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        try:
            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="NOT RUN: no fork here")
def test_a_run_killed_at_any_moment_can_be_undone_or_finished(music):
    for path in [*music.glob("[1-9]*"), *music.glob("old/[l-z]*")]:
        path.unlink()
    before, todo = state(), items(music, ALL)
    organize(todo, ALL)
    done = {name: x[0] for name, x in state().items()}
    undo()
    assert state() == before
    count = num_undone = 0
    while killed(lambda: organize(todo, ALL), count := count + 1):
        undo()
        assert state() == before, count
        assert killed(lambda: organize(todo, ALL), count)
        assert not errors(organize(todo, ALL))
        assert {name: x[0] for name, x in state().items()} == done, count
        num_undone += killed(undo, count)
        undo()
        assert state() == before, count
    assert count > 30 and num_undone > 10
