"""Tables in columns."""

import numpy as np
import pytest

from genre_tl.features import columns

KINDS = {"name": object, "count": "<i8", "key": "S4"}
ROWS = [("b", 2, "22"), ("", -1, ""), ("\udcff\n\r,", 2**40, "4444")]


def test_tables_are_read_as_they_were_written(tmp_path):
    tables = {"some": columns.table(KINDS, ROWS), "none": columns.table(KINDS, [])}
    for name in ("one", "two"):
        columns.write(tmp_path / name, tables)
    found = columns.read(tmp_path / "one", {"some": KINDS, "none": KINDS})
    for group, table in tables.items():
        for name, column in table.items():
            assert found[group][name].dtype == column.dtype
            np.testing.assert_array_equal(found[group][name], column)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "kinds", [{"other": object}, {"count": "<i4"}, {"key": object}]
)
def test_other_columns_are_damage(tmp_path, kinds):
    columns.write(tmp_path / "file", {"some": columns.table(KINDS, ROWS)})
    with (
        pytest.raises(ValueError, match=r"file: damaged.*do this"),
        columns.naming(tmp_path / "file", "do this"),
    ):
        columns.read(tmp_path / "file", {"some": kinds})


def test_rows_are_found_by_key():
    keys = np.array([b"a", b"c", b"b"], "S2")
    wanted = np.array([b"b", b"x", b"a"], "S2")
    assert columns.find(keys, wanted).tolist() == [2, -1, 0]
    assert columns.find(keys[:0], wanted).tolist() == [-1, -1, -1]


def test_numbers_of_texts():
    flat, counts = columns.numbers(np.array(["118 60", "", "7"], object))
    assert flat.tolist() == [118, 60, 7]
    assert counts.tolist() == [2, 0, 1]


def test_joined_and_taken_rows():
    table = columns.table(KINDS, ROWS)
    both = columns.join(table, columns.take(table, np.array([2, 0])))
    assert both["count"].tolist() == [2, -1, 2**40, 2**40, 2]
    assert both["name"].tolist() == ["b", "", ROWS[2][0], ROWS[2][0], "b"]
