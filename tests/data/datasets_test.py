"""The table of clips."""

import dataclasses
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


def test_labels_outside_0_to_1_and_too_few_vectors_are_refused():
    soft = np.array([[0.5, np.nan], [1, 0]], np.float32)
    clips = table(("a", "b"), soft, multi_label=True)
    with pytest.raises(ValueError, match="from 0 to 1"):
        dataclasses.replace(clips, labels=soft + 0.1)
    with pytest.raises(ValueError, match="1 target vectors do not match 2 clips"):
        dataclasses.replace(clips, vectors=np.ones([1, 3], np.float32))


def test_select_takes_vectors_too():
    clips = dataclasses.replace(
        table(("a", "b"), EYE), vectors=np.arange(6, dtype=np.float32).reshape(2, 3)
    )
    assert clips.select([1]).vectors.tolist() == [[3, 4, 5]]


def test_the_digest_depends_on_labels_and_vectors():
    soft = np.array([[0.5, np.nan], [1, 0]], np.float32)
    first = table(("a", "b"), soft, multi_label=True)
    changed = [
        first,
        table(("a", "b"), EYE),
        dataclasses.replace(first, labels=np.nan_to_num(soft)),
        dataclasses.replace(first, vectors=soft),
        dataclasses.replace(first, vectors=soft + 1),
    ]
    assert len({clips.digest for clips in changed}) == 5
    copy = table(("a", "b"), np.asfortranarray(soft), multi_label=True)
    assert copy.digest == first.digest


def test_rare_tags_are_left_out_but_not_soft_ones():
    labels = np.array([[1, 1, 0.2, 0], [1, np.nan, 0, 0], [0, 0, 0, 0]], np.float32)
    clips = table("abc", labels, multi_label=True, vocabulary=tuple("uvwx"))
    assert clips.is_soft.tolist() == [False, False, True, False]
    assert clips.common_tags(0).vocabulary == tuple("uvwx")
    kept = clips.common_tags(2)
    assert kept.vocabulary == ("u", "w")
    np.testing.assert_array_equal(kept.labels, labels[:, [0, 2]])
    with pytest.raises(ValueError, match="1 of 4 tags have 3 clips"):
        clips.common_tags(3)


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
