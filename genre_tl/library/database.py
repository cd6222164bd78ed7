"""The tables of a catalogue in SQLite, and the statements that use them.

models   identity of each version whose results were added: the provenance of rows
tracks   a row for each file: its last results
vectors  scores and embedding of a track in which there is sound, float32
reviews  what a person said, in order; a file is known by its content
map      positions on the map, of the tracks with these numbers

A track that is added again gets a new number (id), so that numbers say what is new.
"""

from __future__ import annotations

import json
import os
import pathlib
import sqlite3
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genre_tl import files
from genre_tl.library.records import Model, Query, Result, Review, Row

_VERSION = 1  # of the tables
_WAIT_SECS = 60.0  # for another process that writes

_TABLES = """
CREATE TABLE models (id INTEGER PRIMARY KEY, digest TEXT UNIQUE, embedding TEXT,
  name TEXT, version TEXT, labels TEXT);
CREATE TABLE tracks (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE,
  digest TEXT, size INTEGER, mtime_ns INTEGER, secs REAL, note TEXT, error TEXT,
  best TEXT, score REAL, doubt REAL, familiarity REAL, folder_label TEXT,
  model INTEGER REFERENCES models);
CREATE TABLE vectors (id INTEGER PRIMARY KEY, embedding BLOB, scores BLOB);
CREATE TABLE reviews (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT, digest TEXT,
  action TEXT, label TEXT, predicted TEXT, time REAL);
CREATE TABLE map (id INTEGER PRIMARY KEY, x REAL, y REAL);
CREATE INDEX tracks_of_content ON tracks (digest);
CREATE INDEX tracks_by_doubt ON tracks (doubt);
CREATE INDEX tracks_with_vectors ON tracks (id) WHERE best != '';
CREATE INDEX reviews_of_content ON reviews (digest, id);
"""

_ORDERS = {
    "path": "t.path",
    "label": "t.best, t.score DESC",
    "score": "t.score DESC",
    "doubt": "t.doubt DESC",
    "disagreement": "t.score DESC",
    "familiarity": "t.familiarity IS NULL, t.familiarity",
}
_EXPECTED = "COALESCE(NULLIF(r.label, ''), NULLIF(t.folder_label, ''))"
_JOINED = """
FROM tracks t LEFT JOIN reviews r
ON r.id = (SELECT MAX(id) FROM reviews WHERE digest = t.digest AND t.digest != '')
"""
_STATES = {
    "all": "1",
    "open": "t.best != '' AND r.action IS NULL",
    "labelled": "r.action IN ('accept', 'correct')",
    "skipped": "r.action = 'skip'",
    "failed": "t.error != ''",
}


def connect(path: pathlib.Path) -> sqlite3.Connection:
    """Opens or makes the file; raises ValueError if it is none of a catalogue."""
    database = sqlite3.connect(path, timeout=_WAIT_SECS, check_same_thread=False)
    # File names may be no valid UTF-8.
    database.text_factory = lambda x: x.decode("utf-8", "surrogateescape")
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.commit()
    except sqlite3.OperationalError as error:
        database.close()
        raise OSError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        database.close()
        raise ValueError(f"{path}: not a catalogue ({error}); remove it") from error
    if version not in (0, _VERSION):
        database.close()
        raise ValueError(f"{path}: of another version of genre_tl; give another folder")
    return database


def enter(database: sqlite3.Connection, model: Model) -> int:
    """Returns the number of a model, which is added if it is new."""
    values = model.digest, model.embedding, model.name, model.version
    database.execute(
        "INSERT OR IGNORE INTO models (digest, embedding, name, version, labels) "
        "VALUES (?, ?, ?, ?, ?)",
        (*values, json.dumps(model.labels)),
    )
    found = "SELECT id FROM models WHERE digest = ?"
    return int(database.execute(found, (model.digest,)).fetchone()[0])


def other_embeddings(database: sqlite3.Connection, model: Model) -> list[str]:
    """Returns the models of rows whose embeddings are not of this model's network."""
    found = database.execute(
        "SELECT name || ' version ' || version FROM models WHERE embedding != ? "
        "AND id IN (SELECT model FROM tracks WHERE best != '') ORDER BY id",
        (model.embedding,),
    )
    return [name for (name,) in found]


def remove_other_embeddings(database: sqlite3.Connection, model: Model) -> None:
    """Removes the rows of `other_embeddings`."""
    others = "model IN (SELECT id FROM models WHERE embedding != ?)"
    found = f"SELECT id FROM tracks WHERE {others}"
    database.execute(f"DELETE FROM vectors WHERE id IN ({found})", (model.embedding,))
    database.execute(f"DELETE FROM tracks WHERE {others}", (model.embedding,))


def stamp(path: str) -> tuple[int, int] | None:
    """Returns size and modification time in nanoseconds; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class _Track(NamedTuple):
    """The values of a row of `tracks` without its number, and of `vectors`."""

    values: tuple[Any, ...]
    vectors: tuple[bytes, bytes] | None


def of_result(result: Result, model: Model, model_id: int) -> _Track:
    """Returns what is stored of a result; reads the file for its digest."""
    path = os.path.abspath(result.path)
    before, digest, error = stamp(path), "", result.error
    try:
        digest = files.sha256(path)
    except OSError as problem:
        error = error or (problem.strerror or str(problem))
    size, mtime = before or (0, 0)
    facts: tuple[Any, ...] = "", 0.0, 0.0, None
    vectors = None
    if result.scores is not None and result.embedding is not None:
        scores, embedding = (
            np.asarray(x, np.float32) for x in (result.scores, result.embedding)
        )
        if result.has_sound and not error:  # Else they mean nothing.
            vectors = embedding.tobytes(), scores.tobytes()
            facts = _facts(scores, model, result.familiarity)
    head = _encoded(path), digest, size, mtime, result.secs, result.note, error
    return _Track((*head, *facts, folder_label(path, model.labels), model_id), vectors)


def _facts(scores: np.ndarray, model: Model, familiarity: float | None) -> Any:
    order = np.argsort(-scores, kind="stable")
    best, *others = (float(scores[x]) for x in order[:2])
    margin = best - others[0] if others and not model.is_tagger else best
    doubt = min(max(1 - margin, 0.0), 1.0)
    return model.labels[order[0]], best, doubt, familiarity


def folder_label(path: str, labels: Sequence[str]) -> str:
    """Returns the label that is the name of the nearest folder of a path, or ""."""
    known = {_plain(label): label for label in labels}
    parents = (x.name for x in pathlib.PurePath(path).parents)
    return next((known[_plain(x)] for x in parents if _plain(x) in known), "")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _encoded(path: str) -> bytes:
    # The bytes of a path that is no valid text cannot be bound as text.
    return path.encode("utf-8", "surrogateescape")


def put(database: sqlite3.Connection, track: _Track) -> None:
    """Adds a track, or replaces that of the same path."""
    remove(database, track.values[0])
    marks = ", ".join("?" * (len(track.values) - 1))
    added = database.execute(
        "INSERT INTO tracks (path, digest, size, mtime_ns, secs, note, error, best, "
        "score, doubt, familiarity, folder_label, model) "
        f"VALUES (CAST(? AS TEXT), {marks})",
        track.values,
    )
    if track.vectors:
        row = added.lastrowid, *track.vectors
        database.execute("INSERT INTO vectors VALUES (?, ?, ?)", row)


def remove(database: sqlite3.Connection, path: str | bytes) -> None:
    """Removes a track."""
    path = path if isinstance(path, bytes) else _encoded(path)
    where = "SELECT id FROM tracks WHERE path = CAST(? AS TEXT)"
    database.execute(f"DELETE FROM vectors WHERE id = ({where})", (path,))
    database.execute("DELETE FROM tracks WHERE path = CAST(? AS TEXT)", (path,))


def _conditions(query: Query) -> tuple[str, list[Any]]:
    if query.state not in _STATES or query.sort not in _ORDERS:
        raise ValueError(
            f"state {query.state!r}, sort {query.sort!r}; state must be one of "
            f"{', '.join(_STATES)}, and sort one of {', '.join(_ORDERS)}"
        )
    parts, values = [_STATES[query.state]], list[Any]()
    if query.text:
        parts.append("t.path LIKE '%' || CAST(? AS TEXT) || '%' ESCAPE '\\'")
        escaped = query.text.replace("\\", "\\\\").replace("%", "\\%")
        values.append(_encoded(escaped.replace("_", "\\_")))
    if query.path:
        parts.append("t.path = CAST(? AS TEXT)")
        values.append(_encoded(query.path))
    if query.label:
        parts.append("t.best = ?")
        values.append(query.label)
    if query.sort == "disagreement":
        parts.append(f"t.best != '' AND {_EXPECTED} != t.best")
    return f"{_JOINED} WHERE {' AND '.join(parts)}", values


def count(query: Query) -> tuple[str, list[Any]]:
    """Returns SQL and its values for the number of matching rows."""
    where, values = _conditions(query)
    return f"SELECT COUNT(*) {where}", values


def select(query: Query) -> tuple[str, list[Any]]:
    """Returns SQL and its values for what `row_of` takes."""
    where, values = _conditions(query)
    order = f"{_ORDERS[query.sort]}, t.id" if query.sort != "path" else "t.path"
    if query.descending:
        order = ", ".join(map(_reversed, order.split(", ")))
    columns = ", ".join(f"t.{x}" for x in Row._fields[:10])
    return (
        f"SELECT {columns}, t.model, COALESCE(r.action, ''), COALESCE(r.label, ''), "
        f"COALESCE((SELECT scores FROM vectors WHERE id = t.id), x'') {where} "
        f"ORDER BY {order} LIMIT ? OFFSET ?",
        [*values, query.limit, query.offset],
    )


def _reversed(key: str) -> str:
    return key.removesuffix(" DESC") if key.endswith(" DESC") else f"{key} DESC"


def labels_of_models(
    database: sqlite3.Connection,
) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Returns name with version, and labels, of each model by its number."""
    found = database.execute("SELECT id, name, version, labels FROM models")
    return {x: (f"{n} version {v}", tuple(json.loads(t))) for x, n, v, t in found}


def row_of(
    values: Sequence[Any], models: Mapping[int, tuple[str, tuple[str, ...]]]
) -> Row:
    """Returns the row of what `select` selects."""
    name, labels = models[values[10]]
    return Row._make((*values[:10], name, *values[11:13], labels, values[13]))


def add_review(database: sqlite3.Connection, review: Review) -> None:
    """Appends a review."""
    database.execute(
        "INSERT INTO reviews (path, digest, action, label, predicted, time) "
        "VALUES (CAST(? AS TEXT), ?, ?, ?, ?, ?)",
        (_encoded(review.path), *review[1:]),
    )


def remove_last_review(database: sqlite3.Connection) -> Review | None:
    """Removes and returns the last review, if any."""
    fields = ", ".join(Review._fields)
    found = database.execute(
        f"SELECT id, {fields} FROM reviews ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if found is None:
        return None
    database.execute("DELETE FROM reviews WHERE id = ?", found[:1])
    return Review(*found[1:])


def last_reviews(database: sqlite3.Connection) -> list[Review]:
    """Returns the last review of each content; with the path of its track, if any."""
    found = database.execute(
        "SELECT COALESCE((SELECT path FROM tracks WHERE digest = r.digest), r.path), "
        "digest, action, label, predicted, time FROM reviews r "
        "WHERE id IN (SELECT MAX(id) FROM reviews GROUP BY digest) ORDER BY id DESC"
    )
    return [Review(*values) for values in found]


def state(database: sqlite3.Connection) -> tuple[int, int]:
    """Returns numbers that every change of the file changes, whoever makes it."""
    (of_others,) = database.execute("PRAGMA data_version").fetchone()
    return of_others, database.total_changes


def embedded(database: sqlite3.Connection) -> np.ndarray:
    """Returns the numbers of the tracks that have an embedding, int64, ascending."""
    found = database.execute("SELECT id FROM tracks WHERE best != '' ORDER BY id")
    return np.fromiter((x for (x,) in found), np.int64)


def embeddings(database: sqlite3.Connection, numbers: np.ndarray) -> np.ndarray:
    """Returns the embeddings of tracks, by ascending number, float32 `[tracks, units]`.

    `numbers` are of `embedded`, without gaps between those that are there.
    """
    found = database.execute(
        "SELECT embedding FROM vectors WHERE id BETWEEN ? AND ? ORDER BY id",
        (int(numbers[0]), int(numbers[-1])) if len(numbers) else (0, -1),
    )
    vectors = np.empty((0, 0), np.float32)
    for row, (blob,) in enumerate(found):
        vector = np.frombuffer(blob, np.float32)
        if not row:
            vectors = np.empty((len(numbers), len(vector)), np.float32)
        vectors[row] = vector
    return vectors


def embedding_of(
    database: sqlite3.Connection, path: str
) -> tuple[int, np.ndarray] | None:
    """Returns number and embedding of a track, or None."""
    found = database.execute(
        "SELECT v.id, v.embedding FROM tracks t JOIN vectors v ON v.id = t.id "
        "WHERE t.path = CAST(? AS TEXT)",
        (_encoded(path),),
    ).fetchone()
    return found and (found[0], np.frombuffer(found[1], np.float32))


def paths_of(database: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Returns the paths of tracks by their numbers."""
    query = "SELECT path FROM tracks WHERE id = ?"
    found = ((x, database.execute(query, (x,)).fetchone()) for x in numbers)
    return {x: row[0] for x, row in found if row}


def read_map(
    database: sqlite3.Connection, numbers: np.ndarray
) -> tuple[list[str], np.ndarray] | None:
    """Returns paths and positions if the map is of these tracks, else None."""
    found = database.execute(
        "SELECT m.id, path, x, y FROM map m LEFT JOIN tracks t ON m.id = t.id "
        "ORDER BY m.id"
    ).fetchall()
    if not np.array_equal([x[0] for x in found], numbers):
        return None
    positions = np.array([x[2:] for x in found], np.float32).reshape(-1, 2)
    return [x[1] for x in found], positions


def write_map(
    database: sqlite3.Connection, numbers: np.ndarray, positions: np.ndarray
) -> None:
    """Replaces the map."""
    database.execute("DELETE FROM map")
    rows = zip(numbers.tolist(), *positions.T.astype(float).tolist(), strict=True)
    database.executemany("INSERT INTO map VALUES (?, ?, ?)", rows)
