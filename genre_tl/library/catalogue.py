"""The catalogue of a collection: what a model said of each file, and what a person did.

    with catalogue.Catalogue("catalogue", catalogue.Model.of(model.folder, card)) as c:
        due = c.due(paths)  # new, changed, or scored by another version
        c.add(predictor.predict(model, due))
        for row in c.rows(catalogue.Query(state="open", sort="doubt", limit=20)):
            c.review(row.path, "correct", "dub")
        c.nearest(row.path, 8)  # [(path, cosine)]

All is in one SQLite file, `catalogue.sqlite`, and each call is a transaction: several
threads and processes may use it, and a killed one loses nothing that was added. What
is derived from it (the matrix that `nearest` searches, the map) is made again when the
file has changed. `database` has the tables.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from genre_tl import files
from genre_tl.library import database, music_map, neighbours
from genre_tl.library.records import Model, Query, Result, Review, Row

__all__ = ["FILE", "Catalogue", "Model", "Query", "Result", "Review", "Row"]

FILE = "catalogue.sqlite"
"""Name of the file in the folder of a catalogue."""

ACTIONS = "accept", "correct", "skip"

_EVERYTHING = Query()


class Catalogue:
    """An open catalogue, for one model.

    Reviews belong to the content of a file: they stay when it is moved or labelled
    again, by whatever model. Every method raises OSError if the file cannot be read
    or written.

    Args:
      folder: made if absent.
      model: whose results are added. Rows of an earlier version with the same
        embedding (another head) stay until they are added again.
      replace: whether to remove rows whose embeddings are of another model; the
        reviews stay.

    Raises:
      ValueError: if it holds embeddings of another model, or the file is not a
        catalogue.
      OSError: if the folder cannot be made.
    """

    def __init__(
        self, folder: files.PathLike, model: Model, *, replace: bool = False
    ) -> None:
        self.folder, self.model = pathlib.Path(folder), model
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._database = database.connect(self.folder / FILE)
        self._vectors, self._seen = neighbours.Vectors(), (-1, -1)
        try:
            with self._transaction(writes=True):
                self._model_id = database.enter(self._database, model)
                self._refuse_others(replace)
        except BaseException:
            self._database.close()
            raise

    def _refuse_others(self, replace: bool) -> None:
        others = database.other_embeddings(self._database, self.model)
        if others and not replace:
            raise ValueError(
                f"{self.folder / FILE}: holds embeddings of {', '.join(others)}, which "
                f"cannot be compared with those of {self.model}; label the files again "
                "with this model, or give another folder (corrections are kept)"
            )
        if others:
            database.remove_other_embeddings(self._database, self.model)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was added and reviewed is in it already."""
        with self._lock:
            self._database.close()

    # Results

    def due(self, paths: Iterable[str]) -> list[str]:
        """Returns the paths that are new, changed, or scored by another version.

        A file is unchanged if path, size and modification time are.
        """
        known = {
            path: (size, mtime)
            for path, size, mtime in self._all(
                "SELECT path, size, mtime_ns FROM tracks WHERE model = ?",
                self._model_id,
            )
        }
        return [
            path
            for path in paths
            if known.get(os.path.abspath(path), ()) != database.stamp(path)
        ]

    def add(self, results: Iterable[Result]) -> None:
        """Adds or replaces the rows of files, as results of `serving.predict` come.

        Rows are written in groups; after an error those before are kept. A failed file
        is a row with its error.
        """
        for group in _groups(results):
            rows = [database.of_result(x, self.model, self._model_id) for x in group]
            with self._transaction(writes=True):
                for row in rows:
                    database.put(self._database, row)

    def remove(self, paths: Iterable[str]) -> None:
        """Removes the rows of files; their reviews stay."""
        with self._transaction(writes=True):
            for path in paths:
                database.remove(self._database, os.path.abspath(path))

    def rows(self, query: Query = _EVERYTHING) -> list[Row]:
        """Returns the rows that match, in order, of the page."""
        text, values = database.select(query)
        with self._transaction():
            labels = database.labels_of_models(self._database)
            found = self._database.execute(text, values).fetchall()
        return [database.row_of(values, labels) for values in found]

    def row(self, path: str) -> Row | None:
        """Returns the row of a file, or None."""
        return next(iter(self.rows(Query(path=os.path.abspath(path)))), None)

    def count(self, query: Query = _EVERYTHING) -> int:
        """Returns how many rows match, on all pages."""
        text, values = database.count(query)
        return int(self._all(text, *values)[0][0])

    def counts(self) -> dict[str, int]:
        """Returns the number of rows by best label, the most frequent first."""
        return dict(
            self._all(
                "SELECT best, COUNT(*) FROM tracks WHERE best != '' "
                "GROUP BY best ORDER BY COUNT(*) DESC, best"
            )
        )

    # Reviews

    def review(self, path: str, action: str, label: str = "") -> Review:
        """Records what a person says of a file; the last review of a file counts.

        Args:
          path: of a row.
          action: `accept` (the best label is right), `correct` (`label` is), or
            `skip` (not now).
          label: any genre, also one that the model does not know.

        Raises:
          ValueError: if the file has no row or could not be read, or label and action
            do not fit.
        """
        row = self.row(path)
        if row is None or not row.best:
            raise ValueError(f"{path}: has no label, so it cannot be reviewed")
        if action not in ACTIONS or bool(label.strip()) != (action == "correct"):
            raise ValueError(
                f"{path}: {action!r} with label {label!r}; give correct with a label, "
                "or accept or skip without"
            )
        given = {"accept": row.best, "correct": label.strip(), "skip": ""}[action]
        if not given.isprintable():
            raise ValueError(f"{path}: {given!r} cannot be a label; give another")
        review = Review(row.path, row.digest, action, given, row.best, time.time())
        with self._transaction(writes=True):
            database.add_review(self._database, review)
        return review

    def undo(self) -> Review | None:
        """Takes the last review back and returns it; None if there is none."""
        with self._transaction(writes=True):
            return database.remove_last_review(self._database)

    def reviews(self) -> list[Review]:
        """Returns the last review of each file, the latest first.

        The path is where the file was labelled last.
        """
        with self._transaction():
            return database.last_reviews(self._database)

    def given_labels(self) -> dict[str, str]:
        """Returns path and label of each file that was accepted or corrected."""
        found = reversed(self.reviews())
        return {x.path: x.label for x in found if x.action != "skip"}

    def write_labels(self, path: files.PathLike) -> int:
        """Writes a CSV of `given_labels`, atomically; returns how many there are.

        `tools.train --table=CSV` trains on it, with `--table=FOLDER` behind it on the
        genre folders too, whose labels it corrects.
        """
        found = self.given_labels()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("path", "label"), *found.items()])
        with files.whole(path) as unfinished:
            unfinished.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
        return len(found)

    # Neighbours and map

    def nearest(
        self, what: str | np.ndarray, count: int = 8
    ) -> list[tuple[str, float]]:
        """Returns path and cosine of the most similar files, best first.

        Args:
          what: path of a row, which is not among the results, or an embedding, float
            `[units]`.
          count: how many at most.

        Raises:
          ValueError: if the path has no embedding, or the embedding another size.
        """
        with self._transaction():
            self._refresh()
            number, vector = -1, what
            if isinstance(what, str):
                found = database.embedding_of(self._database, os.path.abspath(what))
                if found is None:
                    raise ValueError(f"{what}: has no embedding; label it first")
                number, vector = found
            assert isinstance(vector, np.ndarray)
            pairs = self._vectors.nearest(vector, count + 1)
            pairs = [pair for pair in pairs if pair[0] != number][:count]
            paths = database.paths_of(self._database, [x for x, _ in pairs])
        return [(paths[x], cosine) for x, cosine in pairs]

    def positions(self) -> tuple[list[str], np.ndarray]:
        """Returns paths and positions on the map, float32 `[paths, 2]`, -1 to 1.

        See `music_map.positions`. The map is kept until rows are added or removed; to
        make it takes up to a minute, in which other calls go on.
        """
        with self._transaction():
            key = database.embedded(self._database)
            if (kept := database.read_map(self._database, key)) is not None:
                return kept
            vectors = database.embeddings(self._database, key)
        found = music_map.positions(vectors)
        with self._transaction(writes=True):
            database.write_map(self._database, key, found)
            paths = database.paths_of(self._database, key.tolist())
        is_there = np.isin(key, list(paths))
        return [paths[x] for x in key[is_there].tolist()], found[is_there]

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[None]:
        """Keeps other threads out, and sees one state of the file, or changes it.

        Raises OSError if the file cannot be read or written, as on a full disk.
        """
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.folder / FILE}: {error}") from error

    def _refresh(self) -> None:
        """Brings the matrix up to date with the file."""
        seen = database.state(self._database)
        if seen == self._seen:
            return
        numbers = database.embedded(self._database)
        self._vectors.keep(numbers)
        new = np.setdiff1d(numbers, self._vectors.numbers, assume_unique=True)
        if len(new):
            self._vectors.add(new, database.embeddings(self._database, new))
        self._seen = seen

    def _all(self, text: str, *values: Any) -> list[Any]:
        with self._transaction():
            return self._database.execute(text, values).fetchall()


def _groups(results: Iterable[Result], size: int = 32) -> Iterator[Sequence[Result]]:
    """Yields the results in groups, the last of which may be smaller."""
    group: list[Result] = []
    for result in results:
        group.append(result)
        if len(group) == size:
            yield group
            group = []
    yield group
