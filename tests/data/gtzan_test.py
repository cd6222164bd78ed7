"""GTZAN: layouts, file names, refused files."""

import pytest
from support.collection_files import make_gtzan, touch

from genre_tl.data import collection, gtzan


@pytest.mark.parametrize("below", ["genres_original", "genres", "."])
@pytest.mark.parametrize("suffix", [".wav", ".au"])
def test_gtzan_is_found_in_either_layout_and_format(tmp_path, below, suffix):
    make_gtzan(tmp_path / below, suffix=suffix)
    table = collection.load("auto", tmp_path)
    assert table.name == "gtzan"
    assert table.vocabulary == gtzan.GENRES
    assert table.paths[0] == f"blues/blues.00000{suffix}"
    assert table.classes.tolist() == sorted([*range(10)] * 4)
    assert not table.multi_label


def test_an_empty_file_of_gtzan_is_reported(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "jazz" / "jazz.00054.wav", b"")
    table = gtzan.load(tmp_path)
    assert len(table) == 40
    assert table.skipped == (("jazz/jazz.00054.wav", "empty file"),)


def test_a_clip_in_two_formats_is_refused(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "pop" / "pop.00000.au")
    with pytest.raises(ValueError, match=r"1 duplicate clip \(pop\.00000\)"):
        gtzan.load(tmp_path)


def test_other_genres_are_not_gtzan(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "polka" / "polka.00000.wav")
    with pytest.raises(ValueError, match="polka"):
        gtzan.load(tmp_path)
    assert collection.load("auto", tmp_path).name == "folder"
