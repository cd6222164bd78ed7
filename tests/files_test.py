"""Files that appear whole or not at all."""

import json
import os

import pytest

from genre_tl import files


def test_a_text_is_written_whole(tmp_path):
    files.write_text(tmp_path / "a.json", "é\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"\xc3\xa9\n"


def test_a_full_disk_is_told_by_the_name_and_nothing_is_left(small_disk):
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(small_disk / "a.json", "x" * 2**20)
    assert caught.value.filename == str(small_disk / "a.json")
    assert not list(small_disk.iterdir())


def test_a_name_that_is_no_valid_text_comes_back_from_json(tmp_path):
    name = os.fsdecode(b"a\\\xff\\m\xc3\xbcsik\xed\xa0\x80\n")
    text = json.dumps([name], ensure_ascii=False)
    files.write_text(tmp_path / "a.json", text)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [name]
