"""What a catalogue keeps: models, rows of files, reviews; and what is asked of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets

Result = Any
"""A result of `serving.predict`; its class cannot be imported without TensorFlow."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What identifies an exported model.

    Attributes:
      name: of the export, and its version.
      digest: equal for equal scores.
      embedding: equal for comparable embeddings, as of heads on the same network.
      labels: names of the scores, in order.
      is_tagger: whether each score stands alone, rather than one of a sum of 1.
    """

    name: str
    version: str
    digest: str
    embedding: str
    labels: tuple[str, ...]
    is_tagger: bool

    @classmethod
    def of(cls, folder: files.PathLike, card: Mapping[str, Any]) -> Model:
        """Returns the identity of a version by its folder and model card.

        Args:
          folder: of the version, such as `predictor.folder`.
          card: as `model_card.read` returns it.
        """
        folder, training = pathlib.Path(folder).resolve(), card.get("training", {})
        network = card.get("model_sha256") or _digest(card.get("sha256"))
        start = training.get("start") or {}
        recipe = training.get("configuration", {}).get("finetune", {})
        is_frozen = recipe.get("method") in ("kernel", "probe") and "model" in start
        is_tagger = training.get("kind") == "pretrain"
        labels = tuple(card.get("labels", ()))
        scores = _digest([network, card.get("calibration", {}).get("scale"), labels])
        embedding = start["model"] if is_frozen and not is_tagger else network
        name = card.get("name", folder.parent.name)
        return cls(name, folder.name, scores, embedding, labels, is_tagger)

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclasses.dataclass(frozen=True)
class Query:
    """Which rows of a catalogue, in which order.

    Attributes:
      state: `all`; `open`: without a review; `labelled`: accepted or corrected;
        `skipped`; `failed`: files that could not be used.
      text: part of the path; upper and lower case are equal in ASCII.
      path: of the only row.
      label: best label, or "" for any.
      sort: `path`, `label`, `score` (the highest first), `doubt` (the least sure
        first: the smallest margin between the two best genres, or of a tagger the
        lowest score), `familiarity` (the lowest first), or `disagreement`: only files
        whose correction, or else folder, has another label than the best, the surest
        first.
      descending: whether to reverse the order.
      offset, limit: the page; a negative limit is all.
    """

    state: str = "all"
    text: str = ""
    path: str = ""
    label: str = ""
    sort: str = "path"
    descending: bool = False
    offset: int = 0
    limit: int = -1


class Row(NamedTuple):
    """A file with its last results.

    Attributes:
      path: absolute.
      digest: SHA-256 of the content; "" if it could not be read.
      secs: length of the audio read.
      best: label with the highest score; "" after an error or of silence.
      score: of `best`, 0 to 1.
      doubt: 0 to 1; see `Query`.
      familiarity: 0 to 1; None if the model does not know it.
      folder_label: label of the model that is the name of a folder of the path, or "".
      model: name and version that gave these results.
      action: of the last review, or "".
      label: given in the last review, or "".
      labels: of the model, in order.
      packed: float32 scores of `labels`; empty after an error or of silence.
    """

    path: str
    digest: str
    secs: float
    note: str
    error: str
    best: str
    score: float
    doubt: float
    familiarity: float | None
    folder_label: str
    model: str
    action: str
    label: str
    labels: tuple[str, ...]
    packed: bytes

    @property
    def scores(self) -> dict[str, float]:
        """The scores by label, in the order of the model; {} if there are none."""
        values = np.frombuffer(self.packed, np.float32).tolist()
        return dict(zip(self.labels, values, strict=True)) if values else {}

    @property
    def is_unfamiliar(self) -> bool:
        """Whether the file is unlike the training music, or none of the genres."""
        is_known = self.familiarity is None or self.familiarity >= params.UNFAMILIAR
        return not is_known or self.best == datasets.BACKGROUND

    @property
    def disagrees(self) -> bool:
        """Whether correction, or else folder, has another label than the best."""
        expected = self.label or self.folder_label
        return bool(expected and self.best) and expected != self.best


class Review(NamedTuple):
    """What a person said of a file.

    Attributes:
      path: where it was.
      digest: SHA-256 of its content.
      action: `accept`, `correct` or `skip`.
      label: accepted or given; "" if skipped.
      predicted: best label then.
      time: seconds since 1970.
    """

    path: str
    digest: str
    action: str
    label: str
    predicted: str
    time: float


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
