"""The work of the page of `explore`, one thing at a time: labelling and training."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from genre_tl import files
from genre_tl.data import audio_files, collection
from genre_tl.library import catalogue
from genre_tl.serving import model_card, predictor

from . import terminal

if TYPE_CHECKING:
    from . import retraining


@dataclasses.dataclass
class Job:
    """What the worker does, for the progress bar."""

    text: str
    done: int = 0
    total: int = 0
    is_cancelled: bool = False
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def facts(self) -> dict[str, Any]:
        """Returns it as JSON types, with the seconds that are left if known."""
        secs = (time.monotonic() - self.begun) / max(self.done, 1)
        left = secs * (self.total - self.done) if self.done else None
        facts = {"text": self.text, "done": self.done, "total": self.total}
        return facts | {"secs_left": left, "is_cancelled": self.is_cancelled}


class _Cancelled(Exception):
    """The person pressed Cancel."""


class Worker:
    """A thread with model and catalogue, which others may read meanwhile.

    Args:
      model: folder of an export.
      work_dir: for catalogue, uploads and new versions; made if absent.
      data_dir: absolute path of a collection to offer for labelling, or "".

    Attributes:
      model, catalogue: the current ones; training replaces them.
      job: what is done now, or None.
      due: files of the collection that are not labelled yet.
      is_looking: whether the collection is still searched for them.
      is_busy: whether something is to be done, or is being done.
      genre_folder: the collection, if one can train on it, or "".
      message: why the last job ended early, or "".
      revision: changes whenever the catalogue or the model does.
      trained: what the last training has given, as JSON types, or None.

    Raises:
      ValueError: if the catalogue has embeddings of another model.
    """

    def __init__(self, model: str, work_dir: str, data_dir: str) -> None:
        self._work_dir, self._data_dir = pathlib.Path(work_dir), data_dir
        self.upload_folder = os.path.abspath(self._work_dir / "uploads")
        os.makedirs(self.upload_folder, exist_ok=True)
        for unfinished in pathlib.Path(self.upload_folder).glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._opened: list[catalogue.Catalogue] = []  # requests may read the last one
        self._use(model)
        is_tagger = self.model.is_tagger
        self._tagger = str(self.model.folder) if is_tagger else None
        self._asked = threading.Condition()
        self._waiting: collections.deque[str] = collections.deque()
        self._to_train: str | None = None  # folder, "" for the corrections alone
        self.is_busy = True
        self.job: Job | None = None
        self.due: list[str] = []
        self.is_looking, self.genre_folder = True, ""
        self.revision, self.message = 0, ""
        self.trained: dict[str, Any] | None = None
        threading.Thread(target=self._work, daemon=True).start()

    def _use(self, folder: str) -> None:
        model = predictor.Predictor(folder)
        identity = catalogue.Model.of(model.folder, model_card.read(model.folder))
        opened = catalogue.Catalogue(self._work_dir, identity)
        self._opened.append(opened)
        self.model, self.catalogue = model, opened

    def close(self) -> None:
        """Closes the catalogue; nothing may be asked afterwards."""
        for opened in self._opened:
            opened.close()

    def request(self, folder: str) -> retraining.Request:
        """Returns what to train on: a folder, or "", and the corrections."""
        from . import retraining

        return retraining.Request(
            name=model_folder(self._work_dir).name,
            labels=self.catalogue.given_labels(),
            predicted={x.path: x.predicted for x in self.catalogue.reviews()},
            data_dir=os.path.expanduser(folder) or None,
            start=self._tagger,
            runs_dir=self._work_dir / "runs",
            saved_models_dir=self._work_dir,
            features_dir=self._work_dir / "features",
        )

    def train(self, folder: str) -> None:
        """Trains on a folder, or "", and the corrections, after what is due before.

        Raises a ValueError if a training is not finished.
        """
        with self._asked:
            is_training = bool(self.job and self.job.text.startswith("Training"))
            if is_training or self._to_train is not None:
                raise ValueError(
                    "a training is not finished; wait for it, or cancel it"
                )
            self._to_train, self.is_busy = folder, True
            self._asked.notify()

    def enqueue(self, paths: Sequence[str]) -> None:
        """Labels files, after those that wait already."""
        with self._asked:
            self._waiting.extend(paths)
            self.is_busy = True
            self._asked.notify()

    def _work(self) -> None:
        """Labels and trains for ever; says what went wrong."""
        self._do(self._look)
        self.is_looking = False
        while True:
            with self._asked:
                self.is_busy = self._is_asked()
                self._asked.wait_for(self._is_asked)
            self._do(self._label if self._waiting else self._retrain)

    def _is_asked(self) -> bool:
        return bool(self._waiting or self._to_train is not None)

    def _do(self, action: Callable[[], None]) -> None:
        self.message = ""
        try:
            action()
        except _Cancelled:
            self.message = "cancelled"
        except (ValueError, OSError) as error:  # such as a full disk
            self.message = str(error)
        except Exception as error:  # The page goes on; the next job may succeed.
            self.message = repr(error)
            logging.exception("the page of explore")
        self.revision += 1
        self.job = None

    def _look(self) -> None:
        if not self._data_dir:
            return
        paths = audio_files.walk(pathlib.Path(self._data_dir))
        found = filter(audio_files.may_hold_audio, paths)
        self.due = self.catalogue.due(map(str, found))
        with contextlib.suppress(ValueError):
            collection.load("auto", self._data_dir)
            self.genre_folder = self._data_dir

    def _label(self) -> None:
        self.job = job = Job("Labelling", total=len(self._waiting))
        taken = 0
        while self._waiting:
            count = min(len(self._waiting), predictor.GROUP_FILES)
            group = [self._waiting.popleft() for _ in range(count)]
            taken += count
            for result in predictor.predict(self.model, group):
                self.catalogue.add([result])
                if result.error and result.path.startswith(self.upload_folder):
                    pathlib.Path(result.path).unlink(missing_ok=True)
                job.done, job.total = job.done + 1, taken + len(self._waiting)
                self.revision += 1
                if job.is_cancelled:
                    self._waiting.clear()
                    self._look()
                    raise _Cancelled

    def _retrain(self) -> None:
        """Trains the next version, uses it, and labels all files again with it."""
        from . import retraining

        with self._asked:  # `train` sees one or the other.
            self.job = Job("Training")
            folder, self._to_train = self._to_train, None
        request, begun = self.request(folder or ""), time.monotonic()
        outcome = retraining.train(request, on_step=self._step)
        version = retraining.publish(request, on_step=self._step)
        self._use(str(version))
        secs = time.monotonic() - begun
        failed = f"; {len(outcome.failures)} files failed" if outcome.failures else ""
        self.trained = {
            "version": version.name,
            "folder": folder,
            "text": f"Trained in {terminal.duration(secs)}{failed}. All files are "
            "labelled again with this version.",
            "before": _quality(outcome.before),
            "after": _quality(outcome.after),
        }
        self.enqueue(self.catalogue.due([x.path for x in self.catalogue.rows()]))

    def _step(self, text: str, done: int, total: int) -> None:
        assert self.job
        if self.job.is_cancelled:
            raise _Cancelled
        if f"Training: {text}" != self.job.text:
            self.job = Job(f"Training: {text}")
        self.job.done, self.job.total = done, total


def model_folder(work_dir: files.PathLike) -> pathlib.Path:
    """Returns the folder of the versions that the page has trained."""
    return pathlib.Path(work_dir, "genres")


def _quality(found: retraining.Quality | None) -> dict[str, Any] | None:
    """Returns a quality as JSON types."""
    if found is None:
        return None
    confusion = found.confusion.astype(int).tolist()
    return found._asdict() | {"confusion": confusion}
