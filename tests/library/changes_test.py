"""Changes of files, undone; what is refused; other file systems, full disks."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from support import other_user, tagged_files

from genre_tl.library import changes, journal


@pytest.fixture
def log(tmp_path):
    return begun(tmp_path)


def begun(tmp_path):
    log = journal.Journal(tmp_path / "undo.jsonl")
    log.begin()
    return log


@pytest.fixture
def folder(tmp_path):
    """A folder with a file `a` of 100 kB."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(bytes(range(250)) * 400)
    os.chmod(folder / "a", 0o640)
    os.utime(folder / "a", ns=(10**18, 10**18 + 123_456_700))
    return folder


def add_text(path):
    path.write_bytes(path.read_bytes()[7:] + b"text")


def undone(log):
    """Undoes the last run; returns what could not be undone."""
    found = changes.undo(journal.Journal(log.path))
    return {pathlib.Path(path).name: reason for path, reason in found if reason}


def test_a_replaced_file_has_its_mode_and_is_restored_with_its_time(log, folder):
    before = tagged_files.digests(folder)
    changes.replace(log, folder / "a", add_text)
    stat = (folder / "a").stat()
    assert (folder / "a").read_bytes().endswith(b"text")
    assert stat.st_mode & 0o777 == 0o640
    assert stat.st_mtime > 1.1e9
    assert undone(log) == {} and tagged_files.digests(folder) == before
    assert undone(log) == {}  # again, as after a kill


def test_the_time_is_kept_if_asked(log, folder):
    changes.replace(log, folder / "a", add_text, keep_times=True)
    assert (folder / "a").stat().st_mtime_ns == 10**18 + 123_456_700


def test_a_change_that_fails_leaves_all_as_it_was(log, folder):
    before = tagged_files.digests(folder)

    def fail(path):
        add_text(path)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        changes.replace(log, folder / "a", fail)
    assert tagged_files.digests(folder) == before


def test_a_file_that_another_program_changes_meanwhile_keeps_that_change(log, folder):
    def meanwhile(part):
        add_text(part)
        (folder / "a").write_bytes(b"of another program")

    with pytest.raises(ValueError, match="changed while"):
        changes.replace(log, folder / "a", meanwhile)
    assert (folder / "a").read_bytes() == b"of another program"
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_new_file_is_removed_and_an_overwritten_one_restored(log, folder):
    before = tagged_files.digests(folder)
    for text in (b"one", b"two"):
        changes.write(log, folder / "lists" / "b", text)
    changes.write(log, folder / "a", b"short")
    assert (folder / "lists" / "b").read_bytes() == b"two"
    assert undone(log) == {} and tagged_files.digests(folder) == before


@pytest.mark.parametrize("how", changes.HOW)
def test_a_placed_file_has_the_content_and_is_taken_back(log, folder, how):
    before = tagged_files.digests(folder)
    content = (folder / "a").read_bytes()
    target = folder / "sorted" / "rock" / "a"
    changes.place(log, folder / "a", target, how)
    assert target.read_bytes() == content
    assert (folder / "a").exists() == (how != "move")
    assert target.is_symlink() == (how == "symlink")
    with pytest.raises((FileExistsError, FileNotFoundError)):
        changes.place(log, folder / "a", target, how)
    assert undone(log) == {} and tagged_files.digests(folder) == before


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_what_was_changed_since_is_not_taken_back(log, folder, how):
    changes.place(log, folder / "a", folder / "b", how)
    (folder / "b").unlink()
    (folder / "b").write_bytes(b"mine")
    assert undone(log) == {"b": "changed since then; left as it is"}
    assert (folder / "b").read_bytes() == b"mine"


def test_a_file_that_was_changed_since_is_not_restored_but_the_others_are(log, folder):
    shutil.copy2(folder / "a", folder / "b")
    before = tagged_files.digests(folder)
    for name in "ab":
        changes.replace(log, folder / name, add_text)
    (folder / "a").write_bytes(b"mine")
    assert undone(log) == {"a": "changed since then; left as it is"}
    after = tagged_files.digests(folder)
    assert after["b"] == before["b"] and after["a"] != before["a"]


def test_moves_to_another_file_system_are_copies_and_taken_back(
    log, folder, monkeypatch
):
    rename = os.rename

    def between_systems(source, target):
        if pathlib.Path(source).parent != pathlib.Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", between_systems)
    before = tagged_files.digests(folder)
    content = (folder / "a").read_bytes()
    changes.place(log, folder / "a", folder / "there" / "a", "move")
    assert not (folder / "a").exists()
    assert (folder / "there" / "a").read_bytes() == content
    (folder / "a").write_bytes(content)  # as if killed before this was removed
    changes.place(log, folder / "a", folder / "there" / "a", "move")
    assert not (folder / "a").exists()
    assert undone(log) == {} and tagged_files.digests(folder) == before


def test_read_only_files_and_folders_are_refused_for_root_too(log, folder):
    os.chmod(folder / "a", 0o444)
    with pytest.raises(PermissionError, match="read-only file"):
        changes.replace(log, folder / "a", add_text)


CHILD = """
import os, pathlib, sys
from genre_tl.library import changes, journal
from support import other_user
other_user.drop_root()
folder = pathlib.Path(sys.argv[1])
for path in (folder / "locked" / "a", folder / "mine" / "a"):
    try:
        changes.require_writable(path)
    except PermissionError as error:
        print(error)
"""


def test_files_without_permission_are_refused(public_folder):
    other_user.require(public_folder)
    for name, mode in (("locked", 0o555), ("mine", 0o777)):
        (public_folder / name).mkdir()
        (public_folder / name / "a").write_bytes(b"")
        os.chmod(public_folder / name / "a", 0o666 if name == "locked" else 0o644)
        os.chmod(public_folder / name, mode)
    if os.geteuid():
        os.chmod(public_folder / "mine" / "a", 0o444)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(public_folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        f"[Errno 13] read-only folder: '{public_folder}/locked'",
        f"[Errno 13] read-only file: '{public_folder}/mine/a'",
    ], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: no leases here")
def test_a_file_open_for_writing_is_refused_and_one_open_for_reading_is_not(
    log, folder
):
    before = (folder / "a").read_bytes()
    with (
        open(folder / "a", "ab"),
        pytest.raises(ValueError, match="open for writing in another program"),
    ):
        changes.replace(log, folder / "a", add_text)
    with open(folder / "a", "rb") as file:
        start = file.read(1000)
        changes.replace(log, folder / "a", add_text)
        assert start + file.read() == before


def test_a_full_disk_is_an_error_and_leaves_all_as_it_was(log, small_disk):
    path = small_disk / "a"
    path.write_bytes(bytes(40_000))
    for action in (
        lambda: changes.replace(log, path, add_text),
        lambda: changes.place(log, path, small_disk / "b", "copy"),
    ):
        with pytest.raises(OSError, match="No space left"):
            action()
        assert [x.name for x in small_disk.iterdir()] == ["a"]
        assert path.read_bytes() == bytes(40_000)


def test_a_damaged_undo_file_does_not_touch_the_file(log, folder):
    changes.replace(log, folder / "a", add_text)
    text = log.path.read_text()
    log.path.write_text(text.replace('"restore": [', '"restore": [[0, 1], '))
    now = (folder / "a").read_bytes()
    assert undone(log) == {"a": f"{log.path} is damaged; left as it is"}
    assert (folder / "a").read_bytes() == now
