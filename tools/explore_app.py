"""What the page of `explore` asks for: labelling, listening, reviewing, training."""

from __future__ import annotations

import base64
import collections
import mimetypes
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genre_tl import files
from genre_tl.audio import decoding
from genre_tl.data import audio_files
from genre_tl.library import catalogue
from genre_tl.serving import predictor, recording_analysis

from . import explore_server, explore_worker, outputs, retraining, terminal

_TOP = 5  # labels of a file
_SIMILAR = 8
_MOST_ROWS = 10_000  # in one answer
_WAVS_KEPT = 8  # of files that browsers do not play
_MOST_TO_REVIEW = 200
_MOST_POINTS = 20_000  # of the map
_PARTS_OF_A_NAME, _BYTES_OF_A_NAME = 3, 120
_UNKNOWN = "application/octet-stream"


class Application:
    """Model, catalogue and work of the page; see `explore_server.Application`.

    One worker labels and trains; requests read the catalogue meanwhile.

    Args:
      model: folder of an export.
      work_dir: for catalogue, uploads and new versions; made if absent.
      data_dir: collection to offer for labelling, or "".

    Raises:
      ValueError: if the catalogue has embeddings of another model.
    """

    def __init__(self, model: str, work_dir: str, data_dir: str = "") -> None:
        self._work_dir = pathlib.Path(work_dir)
        self._data_dir = os.path.abspath(data_dir) if data_dir else ""
        self._worker = explore_worker.Worker(model, work_dir, self._data_dir)
        self.upload_folder = self._worker.upload_folder
        self._counted: tuple[int, dict[str, Any]] | None = None
        self.gets: dict[str, Callable[..., Any]] = {
            "state": self._state,
            "rows": self._rows,
            "review": self._to_review,
            "similar": self._similar,
            "audio": self._audio,
            "export": self._export,
            "found": self._found,
        }
        self.computations: dict[str, Callable[..., Any]] = {
            "analysis": self._analysis,
            "map": self._map,
        }
        self.posts: dict[str, Callable[..., Any]] = {
            "label": self._label_collection,
            "cancel": self._cancel,
            "correct": self._correct,
            "skip": self._skip,
            "undo": self._undo,
            "train": self._train,
        }

    def close(self) -> None:
        """Closes the catalogue; nothing may be asked afterwards."""
        self._worker.close()

    # Requests

    def take(self, path: str, name: str) -> dict[str, Any]:
        """Keeps an uploaded file and queues it for labelling."""
        digest = files.sha256(path)[:16]
        target = pathlib.Path(self.upload_folder, digest, *_safe_parts(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        self._worker.enqueue([str(target)])
        return {"name": target.name}

    def _state(self) -> dict[str, Any]:
        worker, model = self._worker, self._worker.catalogue.model
        # Read before what they tell of: what changes meanwhile is asked for again.
        is_busy, job, revision = worker.is_busy, worker.job, worker.revision
        return {
            "model": {
                "name": str(model),
                "labels": list(model.labels),
                "is_tagger": model.is_tagger,
            },
            "collection": {
                "folder": self._data_dir,
                "num_waiting": len(worker.due),
                "is_looking": worker.is_looking,
                "genre_folder": worker.genre_folder,
                **self._counts(revision),
            },
            "is_busy": is_busy,
            "job": job.facts() if job else None,
            "message": worker.message,
            "revision": revision,
            "training": worker.trained,
            "max_bytes": explore_server.MAX_BYTES,
            "suffixes": sorted(audio_files.AUDIO_SUFFIXES),
        }

    def _counts(self, revision: int) -> dict[str, Any]:
        """Returns what is in the catalogue, counted again when it has changed."""
        if self._counted is None or self._counted[0] != revision:
            counts = self._worker.catalogue.counts()
            labelled = catalogue.Query(state="labelled")
            found = {
                "num_labelled": sum(counts.values()),
                "num_corrections": self._worker.catalogue.count(labelled),
                "genres": sorted(counts),
            }
            self._counted = revision, found
        return self._counted[1]

    def _rows(
        self, order: str, descending: str, text: str, genre: str, count: str
    ) -> dict[str, Any]:
        query = catalogue.Query(
            sort=order,
            descending=descending == "1",
            text=text,
            label=genre,
            limit=min(int(count), _MOST_ROWS),
        )
        rows = list(map(self._facts, self._worker.catalogue.rows(query)))
        return {"rows": rows, "total": self._worker.catalogue.count(query)}

    def _to_review(self, order: str) -> dict[str, Any]:
        query = catalogue.Query(state="open", sort=order, limit=_MOST_TO_REVIEW)
        given = self._worker.catalogue.given_labels()
        genres = (
            set()
            if self._worker.catalogue.model.is_tagger
            else {*self._worker.model.labels}
        )
        rows = self._worker.catalogue.rows(query)
        return {
            "rows": [self._facts(row) | {"top": self._top(row)} for row in rows],
            "total": self._worker.catalogue.count(query),
            "num_corrections": len(given),
            "can_undo": bool(self._worker.catalogue.reviews()),
            "genres": sorted(genres | set(given.values())),
        }

    def _similar(self, id: str) -> dict[str, Any]:
        found = self._worker.catalogue.nearest(self._row(id).path, _SIMILAR)
        rows = ((self._worker.catalogue.row(path), cosine) for path, cosine in found)
        return {
            "rows": [self._facts(row) | {"similarity": x} for row, x in rows if row]
        }

    def _analysis(self, id: str) -> dict[str, Any]:
        facts = recording_analysis.analyse(self._row(id).path, self._worker.model)
        return facts | {"id": id, "similar": self._similar(id)["rows"]}

    def _map(self) -> dict[str, Any]:
        paths, positions = self._worker.catalogue.positions()
        step = -(-len(paths) // _MOST_POINTS) or 1
        rows = {row.path: row for row in self._worker.catalogue.rows()}
        points = [
            self._facts(rows[path]) | {"at": at}
            for path, at in zip(paths[::step], positions[::step].tolist(), strict=True)
            if path in rows
        ]
        return {"points": points, "total": len(paths)}

    def _audio(self, id: str, wav: str = "") -> explore_server.File:
        row = self._row(id)
        if not wav:
            kind = mimetypes.guess_type(row.path)[0] or ""
            is_audio = kind.startswith(("audio/", "video/"))
            return explore_server.File(row.path, kind if is_audio else _UNKNOWN)
        folder = self._work_dir / "played"
        folder.mkdir(exist_ok=True)
        target = folder / f"{row.digest}.wav"
        if not target.is_file():
            kept = sorted(folder.glob("*.wav"), key=lambda path: path.stat().st_mtime)
            for path in kept[: -_WAVS_KEPT + 1]:
                path.unlink(missing_ok=True)
            with files.whole(target) as unfinished:
                decoding.write_wav(row.path, unfinished)
        return explore_server.File(str(target), "audio/wav")

    def _export(self) -> str:
        labels = self._worker.catalogue.model.labels
        writer = outputs.Writer("csv", labels)
        rows = self._worker.catalogue.rows()
        return writer.head() + "".join(writer.text(_result(x, labels)) for x in rows)

    def _label_collection(self) -> dict[str, Any]:
        self._worker.enqueue(self._worker.due)
        self._worker.due = []
        return {}

    def _cancel(self) -> dict[str, Any]:
        if job := self._worker.job:
            job.is_cancelled = True
        return {}

    def _correct(self, id: str, genre: str) -> dict[str, Any]:
        row = self._row(id)
        is_right = genre == row.best and not self._worker.catalogue.model.is_tagger
        self._review(row.path, *(("accept",) if is_right else ("correct", genre)))
        return {}

    def _skip(self, id: str) -> dict[str, Any]:
        self._review(self._row(id).path, "skip")
        return {}

    def _review(self, *values: str) -> None:
        self._worker.catalogue.review(*values)
        self._worker.revision += 1

    def _undo(self) -> dict[str, Any]:
        review = self._worker.catalogue.undo()
        if review is None:
            raise ValueError("nothing to undo")
        self._worker.revision += 1
        return {"id": _id(review.path), "name": self._name(review.path)}

    def _found(self, folder: str) -> dict[str, Any]:
        """Returns what there is to train on, or the problem."""
        given = collections.Counter(self._worker.catalogue.given_labels().values())
        clips = retraining.table(self._worker.request(folder))
        counts = dict(zip(clips.vocabulary, clips.labels.sum(axis=0), strict=True))
        return {
            "text": f"{len(clips)} files in {len(counts)} genres",
            "genres": [(name, int(x), given[name]) for name, x in counts.items()],
            "skipped": list(clips.skipped),
        }

    def _train(self, folder: str) -> dict[str, Any]:
        self._found(folder)  # raises what is wrong now
        self._worker.train(folder)
        return {}

    # Files

    def _row(self, id: str) -> catalogue.Row:
        """Returns the row of an id; only files of the catalogue have one."""
        row = self._worker.catalogue.row(_path(id))
        if row is None:
            raise ValueError("no such file in the catalogue")
        return row

    def _name(self, path: str) -> str:
        """Returns what to call a file: its place in the collection or the upload."""
        parts = pathlib.PurePath(path).parts
        for folder, skipped in ((self.upload_folder, 1), (self._data_dir, 0)):
            inside = pathlib.PurePath(folder).parts
            if folder and parts[: len(inside)] == inside:
                parts = parts[len(inside) + skipped :]
                break
        return terminal.printable(os.path.join(*parts))

    def _facts(self, row: catalogue.Row) -> dict[str, Any]:
        """Returns a row as JSON types."""
        return {
            "id": _id(row.path),
            "name": self._name(row.path),
            "genre": self._shown(row.best),
            "score": row.score if row.best else None,
            "verdict": "unlike the training music" * row.is_unfamiliar,
            "note": row.note,
            "error": row.error,
            "truth": row.label or row.folder_label,
        }

    def _top(self, row: catalogue.Row) -> list[tuple[str, float]]:
        """Returns the labels with the highest scores."""
        found = sorted(row.scores.items(), key=lambda pair: pair[1])
        # Teachers share names of tags: the higher score is kept.
        scores = {self._shown(label): score for label, score in found}
        return sorted(scores.items(), key=lambda pair: -pair[1])[:_TOP]

    def _shown(self, label: str) -> str:
        """Returns a genre as it is, and `rock` for the tag `msd:rock`."""
        is_tag = self._worker.catalogue.model.is_tagger
        return label.rpartition(":")[2] if is_tag else label


def _id(path: str) -> str:
    return base64.urlsafe_b64encode(os.fsencode(path)).decode()


def _path(id: str) -> str:
    return os.fsdecode(base64.urlsafe_b64decode(id))


def _safe_parts(name: str) -> list[str]:
    """Returns the end of a path, fit for any file system, without ways upwards."""
    printable = "".join(c if c.isprintable() else "_" for c in name)
    parts = re.split(r"[/\\]+", printable)[-_PARTS_OF_A_NAME:]
    short = (
        part.encode()[-_BYTES_OF_A_NAME:].decode(errors="ignore") for part in parts
    )
    return [part for part in (x.strip(". ") for x in short) if part] or ["recording"]


def _result(row: catalogue.Row, labels: Sequence[str]) -> predictor.Result:
    """Returns a row as the prediction that it came from."""
    is_current = not row.packed or row.labels == tuple(labels)
    error = row.error or ("" if is_current else "labelled by another version")
    scores = np.frombuffer(row.packed or bytes(4 * len(labels)), np.float32)
    return predictor.Result(
        row.path,
        None if error else scores,
        secs=row.secs,
        has_sound=bool(row.best),
        note=row.note,
        error=error,
        familiarity=row.familiarity,
    )
