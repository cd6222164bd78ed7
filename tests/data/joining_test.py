"""Tables joined by file."""

import dataclasses
import pathlib

import numpy as np
import pytest

from genre_tl.data import datasets, joining

NAN = np.nan


def table(root, paths, vocabulary, labels, **changes):
    """A CSV's table without groups, unless `changes` say otherwise."""
    labels = np.array(labels)
    files = tuple(f"{root}/{path}" for path in paths)
    values = {"name": "table", "groups": files, "multi_label": True} | changes
    dtype = np.uint8 if labels.dtype.kind == "i" else np.float32
    return datasets.Dataset(
        root=pathlib.Path(root),
        paths=tuple(paths),
        vocabulary=tuple(vocabulary),
        labels=labels.astype(dtype),
        **values,
    )


REAL = table("/m/real", ["a", "b"], ["slow", "fast"], [[1, 0], [0, 1]])
SOFT = table("/m", ["real/b", "x/c"], ["fast", "sad"], [[0.3, 0.2], [0.1, NAN]])


def test_a_single_table_is_returned_as_it_is():
    assert joining.join([REAL]) is REAL


def test_a_file_of_several_tables_is_one_clip_with_the_labels_of_all():
    joined = joining.join([REAL, SOFT])
    assert (joined.root, joined.paths) == (
        pathlib.Path("/m"),
        ("real/a", "real/b", "x/c"),
    )
    assert joined.vocabulary == ("slow", "fast", "sad")
    # The first table says that b is fast: 1, not 0.3.
    expected = np.array([[1, 0, NAN], [0, 1, 0.2], [NAN, 0.1, NAN]], np.float32)
    np.testing.assert_array_equal(joined.labels, expected)
    assert joined.labels.dtype == np.float32 and joined.multi_label


def test_the_first_table_that_knows_a_value_counts():
    joined = joining.join([SOFT, REAL])
    assert joined.vocabulary == ("fast", "sad", "slow")
    assert joined.paths == ("real/b", "x/c", "real/a")
    expected = np.array([[0.3, 0.2, 0], [0.1, NAN, NAN], [0, NAN, 1]], np.float32)
    np.testing.assert_array_equal(joined.labels, expected)
    unknown = dataclasses.replace(SOFT, labels=SOFT.labels * np.float32(NAN))
    assert joining.join([unknown, REAL]).labels[0, 0] == 1


def test_binary_tables_that_leave_nothing_unknown_stay_binary():
    more = table("/m/more", ["c"], ["fast", "slow"], [[1, 0]])
    joined = joining.join([REAL, more])
    assert joined.labels.dtype == np.uint8
    assert joined.labels.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_groups_of_all_tables_are_merged_and_tables_without_groups_change_none():
    one = dataclasses.replace(
        table("/m", "abcd", "uv", np.ones([4, 2])), groups=("Ann/", "Ann/", "x/", "y/")
    )
    two = dataclasses.replace(
        table("/m", "becd", "uv", np.ones([4, 2])), groups=("k/", "k/", "y/", "/m/d")
    )
    none = table("/m", "aecf", "uv", np.ones([4, 2]))
    a, b, c, d, e, f = joining.join([one, two, none]).groups
    assert a == b == e  # Ann has a and b, k has b and e.
    assert c == d  # Equal names of two CSVs are one group.
    assert len({a, c, f}) == 3
    a, e, c, f, b, d = joining.join([none, one, two]).groups  # In another order.
    assert a == b == e and c == d and len({a, c, f}) == 3


def test_equal_group_names_of_two_collections_are_two_groups():
    folders = [
        dataclasses.replace(
            table(f"/m/{x}", ["rock/1"], "uv", [[1, 0]], multi_label=False),
            name="folder",
            groups=("rock/1",),
        )
        for x in "ab"
    ]
    joined = joining.join(folders)
    assert len(set(joined.groups)) == 2 and joined.name == "folder"


def test_genres_join_with_the_genre_of_the_first_table():
    one = table("/m", "ab", ["jazz", "rock"], [[1, 0], [0, 1]], multi_label=False)
    two = table("/m", "bc", ["metal", "rock"], [[1, 0], [0, 1]], multi_label=False)
    joined = joining.join([one, two])
    assert joined.vocabulary == ("jazz", "rock", "metal")
    assert joined.classes.tolist() == [0, 1, 1]
    assert joined.labels.dtype == np.uint8


def test_skipped_files_are_those_of_all_tables_that_no_table_lists():
    real = dataclasses.replace(REAL, skipped=(("e", "empty file"),))
    soft = dataclasses.replace(SOFT, skipped=(("real/a", "not in it"), ("z", "bad")))
    found = joining.join([real, soft]).skipped
    assert found == (("real/e", "empty file"), ("z", "bad"))


def test_what_cannot_be_joined_is_refused():
    genres = table("/m", "ab", "uv", [[1, 0], [0, 1]], multi_label=False)
    with pytest.raises(ValueError, match="/m: a table of genres cannot be joined"):
        joining.join([REAL, genres])
    with pytest.raises(ValueError, match="no tables"):
        joining.join([])
    vectors = dataclasses.replace(SOFT, vectors=np.ones([2, 3], np.float32))
    with pytest.raises(ValueError, match="then load the target vectors"):
        joining.join([REAL, vectors])
