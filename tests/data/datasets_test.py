"""The table of clips."""

import pathlib

import numpy as np
import pytest

from genre_tl.data import datasets


def table(paths, labels, groups=None, multi_label=False, vocabulary=("u", "v")):
    root = pathlib.Path("root")
    return datasets.Dataset(
        "x", root, tuple(paths), labels, vocabulary, groups or paths, multi_label
    )


EYE = np.eye(2, dtype=np.uint8)


def test_tags_have_no_classes():
    assert table(("a", "b"), EYE).classes.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no single genre"):
        _ = table(("a", "b"), EYE, multi_label=True).classes


def test_select_takes_rows_in_the_given_order():
    part = table(("a", "b"), EYE, ("g", "h")).select([1, 0])
    assert part.paths == ("b", "a")
    assert np.array_equal(part.labels, EYE[::-1])
    assert part.groups == ("h", "g")


def test_an_inconsistent_table_is_refused():
    assert len(table(("a", "b"), EYE)) == 2
    with pytest.raises(ValueError, match="do not match"):
        table(("a",), EYE)
    with pytest.raises(ValueError, match=r"1 duplicate clip \(a\)"):
        table(("a", "a"), EYE, ("a", "b"))
    with pytest.raises(ValueError, match="exactly one genre"):
        table(("a", "b"), 0 * EYE)


@pytest.mark.parametrize("keys", [[0, 1, 2, 0, 2, 3], ["a", "b", "c", "a", "c", "d"]])
def test_groups_with_a_common_key_are_merged(keys):
    groups = ("x/3", "x/a", "x/a", "y/b", "y/c", "y/d")
    clips = table("abcdef", np.ones([6, 2], np.uint8), groups, multi_label=True)
    # Clip 0 has the key of 3, and 2 that of 4; 1 is in the group of 2.
    merged = clips.merge_groups(keys).groups
    assert merged == ("x/3", "x/a", "x/a", "x/3", "x/a", "y/d")
    assert clips.merge_groups(range(6)).groups == groups


def test_labels_that_look_alike_are_named_in_one_warning_for_each_set(caplog):
    labels = ["rock", "jazz", "Rock", "rock ", "caf\u00e9", "cafe\u0301", "hip hop"]
    datasets.check_labels("music", [*labels, "hiphop"], "label")
    first, second, third = (record.getMessage() for record in caplog.records)
    assert first.startswith("music: labels 'rock', 'Rock', 'rock ' differ only in")
    assert r"'caf\xe9', 'cafe\u0301'" in second
    assert "'hip hop', 'hiphop'" in third
