"""Atomic writes, and the lock between processes."""

import json
import os
import subprocess
import sys

import pytest

from genre_tl import files


def test_a_text_is_written_and_nothing_else_is_left(tmp_path):
    files.write_text(tmp_path / "a.json", "é\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"\xc3\xa9\n"


def test_a_failed_write_leaves_the_old_content(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), files.whole(tmp_path / "a") as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("writer", [files.whole, files.whole_folder])
def test_content_reaches_the_disk_before_the_rename_and_the_name_after(
    tmp_path, monkeypatch, writer
):
    steps = []

    def fsync(descriptor, original=os.fsync):
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        original(descriptor)

    def rename(source, target, original=os.replace):
        steps.append("rename")
        original(source, target)

    for name, function in [("fsync", fsync), ("replace", rename), ("rename", rename)]:
        monkeypatch.setattr(os, name, function)
    with writer(tmp_path / "new") as unfinished:
        content = unfinished / "a" if unfinished.is_dir() else unfinished
        content.write_text("x")
    inside = [str(content), *([str(unfinished)] if content != unfinished else [])]
    assert steps == [*inside, "rename", str(tmp_path)]


def test_a_folder_appears_complete_and_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / "1.part" / "old").mkdir(parents=True)
    with files.whole_folder(tmp_path / "1") as unfinished:
        assert unfinished == tmp_path / "1.part"
        (unfinished / "b").mkdir()
        (unfinished / "b" / "c").write_text("x")
        assert not (tmp_path / "1").exists()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"1", "1/b", "1/b/c"}


def test_a_folder_with_content_is_not_replaced(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "kept").write_text("x")
    with pytest.raises(OSError), files.whole_folder(tmp_path / "1"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "kept"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole_folder(tmp_path / "1"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_with_the_file_name_and_nothing_is_left(small_disk):
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(small_disk / "a.json", "x" * 2**20)
    assert caught.value.filename == str(small_disk / "a.json")
    assert not list(small_disk.iterdir())


def test_a_name_that_is_not_valid_text_survives_json(tmp_path):
    name = os.fsdecode(b"a\\\xff\\m\xc3\xbcsik\xed\xa0\x80\n")
    text = json.dumps([name], ensure_ascii=False)
    files.write_text(tmp_path / "a.json", text)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [name]


HOLDER = """
import sys
from genre_tl import files
with files.lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lock_keeps_others_out_until_its_holder_ends(tmp_path, root, kind):
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"locked\n"
    refused = pytest.raises(ValueError, match=f"{path}: another process is writing")
    with refused, files.lock(path):
        pass
    holder.kill()
    holder.communicate()
    with files.lock(path):
        assert [x.name for x in tmp_path.rglob("*lock")] == [
            ".lock" if kind == "folder" else "it.lock"
        ]
    assert not list(tmp_path.rglob("*lock"))


def test_a_lock_file_that_its_holder_removed_is_made_again(tmp_path, monkeypatch):
    original, opened = open, []

    def late(name, mode):
        file = original(name, mode)
        if not opened:  # The holder ends between our open and our lock.
            os.remove(name)
        opened.append(name)
        return file

    monkeypatch.setattr(files, "open", late, raising=False)
    with files.lock(tmp_path / "a"):
        assert (tmp_path / "a.lock").exists()
    assert len(opened) == 2
