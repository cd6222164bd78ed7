"""What is new in a collection, and runs that are set aside."""

import os

import pytest

from tools import changes

BEFORE = {"dub/a.mp3": "dub", "dub/x/b.mp3": "dub", "ska/c.mp3": "ska"}


def test_files_and_genres_that_came_and_went_are_named():
    now = {"dub/a.mp3": "dub", "dub/x/b.mp3": "dub", "trap/d.mp3": "trap"}
    found = changes.compare(BEFORE, now)
    assert (found.added, found.removed) == (("trap/d.mp3",), ("ska/c.mp3",))
    assert (found.genres_added, found.genres_removed) == (("trap",), ("ska",))
    assert found.relabelled == ()
    assert "files added: 1 (trap/d.mp3)" in str(found)


def test_a_file_moved_to_another_genre_is_relabelled():
    now = {"dub/a.mp3": "dub", "ska/x/b.mp3": "ska", "ska/c.mp3": "ska"}
    found = changes.compare(BEFORE, now)
    assert found.relabelled == ("ska/x/b.mp3: dub → ska",)
    assert not (found.added or found.removed)


def test_another_label_in_a_table_is_one_of_the_same_file():
    found = changes.compare({"a.mp3": "dub"}, {"a.mp3": "ska"})
    assert found.relabelled == ("a.mp3: dub → ska",)


def test_the_same_clips_are_no_change():
    assert not changes.compare(BEFORE, dict(reversed(BEFORE.items())))


def test_many_files_are_counted():
    found = changes.compare({}, {f"{number}.mp3": "a" for number in range(9)})
    assert "files added: 9 (0.mp3, " in str(found) and "and 4 more" in str(found)


@pytest.mark.parametrize("name", ['a,"b\n.mp3', os.fsdecode(b"\xff.mp3"), "ü.mp3"])
def test_a_list_keeps_any_name(tmp_path, name):
    changes.write(tmp_path / "run", {name: "dub"})
    assert changes.read(tmp_path / "run") == {name: "dub"}
    assert changes.read(tmp_path / "other") is None


def test_a_damaged_list_is_named(tmp_path):
    (tmp_path / changes.LIST).write_text("nothing\nx\n")
    with pytest.raises(ValueError, match=r"clips\.csv: damaged"):
        changes.read(tmp_path)


def test_runs_set_aside_have_one_new_number(tmp_path):
    folders = tmp_path / "mine", tmp_path / "mine_cross_validation"
    for folder in (*folders, tmp_path / "mine_cross_validation.4", tmp_path / "x.9"):
        folder.mkdir()
    (folders[0] / "run.json").write_text("{}")
    kept = changes.set_aside(folders)
    assert [x.name for x in kept] == ["mine.5", "mine_cross_validation.5"]
    assert (kept[0] / "run.json").is_file() and not folders[0].exists()
    assert changes.set_aside(folders) == []
