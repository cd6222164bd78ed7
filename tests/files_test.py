"""Atomic writes, and the lock between processes."""

import contextlib
import json
import os
import shutil
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


@pytest.fixture
def disk(tmp_path):
    """A folder on a device of its own, and a function that cuts the power."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(bytes(2**24))
    folder.mkdir()
    make = ["mkfs.ext4", "-q", "-F", str(image)]
    mount = ["mount", "-o", "loop"]
    if (
        os.geteuid()
        or not shutil.which("mkfs.ext4")
        or subprocess.run(make, capture_output=True).returncode
        or subprocess.run([*mount, image, folder], capture_output=True).returncode
    ):
        pytest.skip("NOT RUN WITHOUT POWER: only root may mount a device")

    @contextlib.contextmanager
    def after_power_loss():
        """Mounts what is on the device at this moment, without its cache."""
        copy, found = tmp_path / "copy", tmp_path / "found"
        shutil.copyfile(image, copy)
        found.mkdir()
        subprocess.run([*mount, copy, found], check=True)
        yield found
        subprocess.run(["umount", found], check=True)
        found.rmdir()

    yield folder, after_power_loss
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_after_a_power_loss_what_was_written_is_whole(disk):
    folder, after_power_loss = disk
    (folder / "run").mkdir()
    for epoch in range(1, 4):  # as a run writes its epochs
        with files.whole(folder / "run" / f"{epoch}.npz") as path:
            path.write_bytes(bytes([epoch]) * 300_000)
        with after_power_loss() as found:
            done = found / "run" / "history.json"
            before = json.loads(done.read_text()) if done.exists() else 0
            assert before == epoch - 1
            if before:
                content = (found / "run" / f"{before}.npz").read_bytes()
                assert content == bytes([before]) * 300_000
        files.write_json(folder / "run" / "history.json", epoch)
        (folder / "run" / f"{epoch - 1}.npz").unlink(missing_ok=True)
        with after_power_loss() as found:
            assert json.loads((found / "run" / "history.json").read_text()) == epoch
            content = (found / "run" / f"{epoch}.npz").read_bytes()
            assert content == bytes([epoch]) * 300_000


def test_after_a_power_loss_a_folder_is_whole_or_absent(disk):
    folder, after_power_loss = disk
    with files.whole_folder(folder / "1") as unfinished:
        (unfinished / "variables").mkdir()
        (unfinished / "variables" / "a").write_bytes(b"x" * 300_000)
        with after_power_loss() as found:
            assert not (found / "1").exists()
    with after_power_loss() as found:
        assert (found / "1" / "variables" / "a").read_bytes() == b"x" * 300_000
