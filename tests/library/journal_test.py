"""The undo file."""

import os

import pytest

from genre_tl.library import journal


def begun(path, **what):
    log = journal.Journal(path)
    log.begin(**what)
    return log


def test_a_run_is_written_with_its_first_change_and_read_back(tmp_path):
    path = tmp_path / "undo.jsonl"
    log = begun(path, key=1)
    log.finish()
    assert not path.exists()
    name = os.fsdecode(b"\xff\n.mp3")
    log.add("folder", path=name)
    again = journal.Journal(path)
    assert again.run["key"] == 1 and not again.is_done
    assert [record["do"] for record in again.records()] == ["folder", "run"]
    assert next(again.records())["path"] == name
    again.finish()
    assert journal.Journal(path).is_done


def test_half_a_line_of_a_killed_writer_is_ignored_and_overwritten(tmp_path):
    path = tmp_path / "undo.jsonl"
    begun(path, key=1).add("folder", path="a")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"do": "folder", "pa')
    log = journal.Journal(path)
    assert [record["do"] for record in log.records()] == ["folder", "run"]
    log.add("folder", path="b")
    assert path.read_bytes() == whole + b'{"do": "folder", "path": "b"}\n'


def test_runs_are_dropped_from_the_last_to_the_first(tmp_path):
    path = tmp_path / "undo.jsonl"
    for key in (1, 2):
        begun(path, key=key).add("folder", path="a")
    log = journal.Journal(path)
    assert log.run["key"] == 2 and len(list(log.records())) == 2
    log.drop()
    assert journal.Journal(path).run["key"] == 1
    journal.Journal(path).drop()
    assert not path.exists()


def test_a_full_disk_leaves_the_file_as_it_was(small_disk):
    path = small_disk / "undo.jsonl"
    log = begun(path, key=1)
    log.add("folder", path="a")
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        log.add("folder", path="a" * 2**17)
    assert path.read_bytes() == before
    log.add("folder", path="b")
    assert len(list(journal.Journal(path).records())) == 3


def test_a_full_disk_leaves_no_empty_file(small_disk):
    (small_disk / "ballast").write_bytes(bytes(2**16))
    with pytest.raises(OSError, match="No space left"):
        begun(small_disk / "undo.jsonl", key=1).add("folder", path="a")
    assert not (small_disk / "undo.jsonl").exists()


def test_another_file_is_no_undo_file(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("path,best\na.mp3,rock\n")
    with pytest.raises(ValueError, match="not an undo file"):
        journal.Journal(path)
