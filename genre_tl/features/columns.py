"""Tables of millions of rows, in columns: arrays of one length, in an NPZ file.

Text is an object array in memory; a file has it as bytes, with a zero after each value.
"""

from __future__ import annotations

import contextlib
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from genre_tl import files

Table: TypeAlias = dict[str, np.ndarray]

DAMAGE = ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error
"""Errors of reading a file with wrong content."""

_TEXT = ".text"  # suffix of the name of a column that holds text


def table(kinds: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> Table:
    """Returns a table of rows; `kinds` has name and data type of each column.

    `object` is text.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return {
        name: np.array(column, kind)
        for (name, kind), column in zip(kinds.items(), columns, strict=True)
    }


def take(table: Table, rows: np.ndarray | slice) -> Table:
    """Returns rows of a table, in the given order."""
    return {name: column[rows] for name, column in table.items()}


def join(*tables: Table) -> Table:
    """Returns the rows of tables with the same columns, one table after another."""
    return {name: np.concatenate([x[name] for x in tables]) for name in tables[0]}


def write(path: pathlib.Path, tables: Mapping[str, Table]) -> None:
    """Writes tables atomically; equal tables give equal bytes."""
    arrays = {}
    for group, table in tables.items():
        for name, column in table.items():
            key = f"{group}.{name}"
            if column.dtype == object:
                text = "".join([f"{value}\0" for value in column])
                # File names need not be valid UTF-8.
                data = text.encode("utf-8", "surrogateescape")
                arrays[key + _TEXT] = np.frombuffer(data, np.uint8)
            else:
                arrays[key] = column
    with files.whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **arrays)


def read(
    path: pathlib.Path, kinds: Mapping[str, Mapping[str, Any]]
) -> dict[str, Table]:
    """Reads tables with their columns and data types; see `table`.

    Raises one of `DAMAGE` if the file holds something else.
    """
    # NumPy leaves damaged files open.
    with open(path, "rb") as raw, contextlib.closing(np.load(raw)) as file:
        found = {
            group: {name: _read(file, f"{group}.{name}", kind) for name, kind in x}
            for group, x in ((group, x.items()) for group, x in kinds.items())
        }
    for group, table in found.items():
        if len({len(column) for column in table.values()}) > 1:
            raise ValueError(f"columns of {group} differ in length")
    return found


def _read(file: Any, name: str, kind: Any) -> np.ndarray:
    if kind is not object:
        column: np.ndarray = file[name]
        if column.dtype != kind or column.ndim != 1:
            raise ValueError(f"{name} is {column.dtype} {list(column.shape)}")
        return column
    values = file[name + _TEXT].tobytes().decode("utf-8", "surrogateescape").split("\0")
    return np.array(values[:-1], object)


def find(keys: np.ndarray, wanted: np.ndarray | Sequence[str]) -> np.ndarray:
    """Returns the position of each wanted key among unique keys, -1 if missing."""
    # A dictionary: NumPy's binary search of text is three times slower.
    places = {key: place for place, key in enumerate(keys.tolist())}
    listed = wanted.tolist() if isinstance(wanted, np.ndarray) else wanted
    return np.fromiter((places.get(key, -1) for key in listed), np.int64, len(wanted))


def numbers(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all integers of texts such as `"118 60"`, and how many each has."""
    counts = np.fromiter((x.count(" ") + bool(x) for x in texts), np.int64, len(texts))
    flat = np.array(" ".join(filter(None, texts)).split(), np.int64)
    return flat, counts


@contextlib.contextmanager
def naming(path: pathlib.Path, remedy: str) -> Iterator[None]:
    """Adds a damaged file and the remedy to errors of its content."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
