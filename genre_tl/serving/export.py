"""Trained networks as SavedModels: built, checked, published, called.

An export goes from waveform to scores with TensorFlow's core operations alone. It
lies at `<name>/<version>/`, as TensorFlow Serving wants it; `docs/serving.md`
describes it.

    >>> folder = serving.export(network, frontend, labels, "saved_models/x", card={})
    >>> serving.Predictor(folder).scores([waveform])  # [clips, labels]
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.model import networks
from genre_tl.serving import export_checks, model_card, saved_model, warmup

# Most samples that `Predictor` pads into one batch: some 8 minutes.
_BATCH_SAMPLES = saved_model.CHUNK_SEGMENTS * 30 * params.SAMPLE_RATE_HZ

# Folders of exports that are not finished; after a day they are a killed one's.
_UNFINISHED, _ABANDONED_SECS = ".export-", 24 * 3600


def write_saved_model(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: pathlib.Path,
    on_check: Callable[[str], None],
) -> None:
    """Writes and checks a SavedModel, without its card.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
      labels: names of its scores, in their order.
      folder: is made.
      on_check: called with a line of text for every check that was passed.

    Raises:
      ValueError: if a check fails.
    """
    saved_model.save(network, frontend, labels, folder)
    warmup.write(folder)
    for text in export_checks.run(folder, network, frontend, labels):
        on_check(text)


def export(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    base_dir: str | os.PathLike[str],
    *,
    card: Mapping[str, Any],
    write: Callable[..., None] = write_saved_model,
    on_check: Callable[[str], None] = lambda text: None,
) -> pathlib.Path:
    """Writes a network as the next version of a SavedModel, or in another format.

    The version appears at once and whole, after it was loaded (a SavedModel: in a
    process of its own) and gave the scores of the Keras model; or it does not appear.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
      labels: names of its scores, in their order.
      base_dir: the versions are folders in it: 1, 2, 3, ...
      card: facts to ship with it, fit for JSON. Labels, frontend and checks are
        added to them.
      write: `write_saved_model`, or one of `formats.WRITERS`.
      on_check: called with a line of text for every check that was passed.

    Returns:
      The folder of the new version.

    Raises:
      ValueError: if labels and network do not fit, or a check fails.
      OSError: if the folder cannot be written.
    """
    _require_fit(network, labels)
    passed: list[str] = []

    def note(text: str) -> None:
        passed.append(text)
        on_check(text)

    def fill(folder: pathlib.Path) -> None:
        write(network, frontend, labels, folder, note)
        facts = {"labels": list(labels), "frontend": _facts(frontend)}
        model_card.write(folder, {**card, **facts, "checks": passed})

    return publish(base_dir, fill)


def publish(
    base_dir: str | os.PathLike[str], fill: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """Makes the next version of something, whole or not at all.

    Args:
      base_dir: the versions are folders in it: 1, 2, 3, ...
      fill: makes the folder it is given, and what belongs into it. What it raises
        ends the attempt, and nothing is left of it.

    Returns:
      The folder of the new version.
    """
    base = pathlib.Path(base_dir)
    base.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(base)
    # No integer begins with a dot: a server that polls the folder passes it over.
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=base) as partial:
        folder = pathlib.Path(partial) / "model"
        fill(folder)
        return _rename(folder, base)


def _remove_abandoned(base: pathlib.Path) -> None:
    """Removes what killed exports left, unless it may be of one that is at work."""
    for folder in base.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECS:
                shutil.rmtree(folder, ignore_errors=True)


def newest(base_dir: str | os.PathLike[str]) -> pathlib.Path | None:
    """Returns the folder of the highest version, or None if there is none."""
    highest = max(_versions(pathlib.Path(base_dir)), default=None)
    return None if highest is None else pathlib.Path(base_dir) / str(highest)


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the card of an exported version; empty if it has none.

    Raises:
      ValueError: if it is damaged.
    """
    path = pathlib.Path(folder) / model_card.PATH
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


class Predictor:
    """An exported model in this process.

    Attributes:
      folder: the version that was loaded.
      labels: names of the scores, in their order.

    Args:
      path: a version's folder, or the folder of its versions: then the newest.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if it is damaged, or not an export of this package.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = _locate(pathlib.Path(path))
        try:
            # The functions live as long as the model does.
            self._model = tf.saved_model.load(str(self.folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"{self.folder}: damaged SavedModel: {reason}") from error
        signature = self._model.signatures.get("serving_default")
        outputs = set(signature.structured_outputs) if signature else set()
        if not {"scores", "classes"} <= outputs or not hasattr(self._model, "labels"):
            raise ValueError(f"{self.folder}: a SavedModel, but not of this package")
        self._serve = signature
        names = self._model.labels().numpy()
        self.labels = tuple(name.decode() for name in names)

    def scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Scores clips of any lengths.

        Args:
          waveforms: float `[samples]` each, at `params.SAMPLE_RATE_HZ`.

        Returns:
          float32 `[clips, labels]`.

        Raises:
          ValueError: if a waveform is not one-dimensional and floating-point.
        """
        (scores,) = _rows(lambda x: [self._serve(waveform=x)["scores"]], waveforms)
        return scores

    def embeddings(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Returns what the head reads of clips, float32 `[clips, units]`.

        Args and Raises are those of `scores`.
        """
        return self.scores_and_embeddings(waveforms)[1]

    def scores_and_embeddings(
        self, waveforms: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns both, at the cost of one of them.

        Args and Raises are those of `scores`.
        """
        scores, vectors = _rows(self._model.score_and_embed, waveforms)
        return scores, vectors

    def taggram(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores a clip over time.

        Args:
          waveform: float `[samples]` at `params.SAMPLE_RATE_HZ`.

        Returns:
          Times in seconds, float32 `[times]`, one a frame that holds sound; and the
          scores around them, float32 `[times, labels]`.

        Raises:
          ValueError: if the waveform is not one-dimensional and floating-point.
        """
        _require_waveforms([waveform])
        answer = self._model.signatures["taggram"](waveform=_stack([waveform]))
        times, scores = answer["times"].numpy()[0], answer["scores"].numpy()[0]
        is_frame = times != saved_model.NO_TIME
        return times[is_frame], scores[is_frame]


def _rows(
    answer: Callable[[tf.Tensor], Sequence[tf.Tensor]], waveforms: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns the answers for clips, in their order, asked for in batches."""
    _require_waveforms(waveforms)
    lengths = [len(waveform) for waveform in waveforms]
    order, parts = [], []
    for rows in list(_batches(lengths)) or [[]]:
        batch = _stack([waveforms[row] for row in rows])
        parts.append(answer(tf.constant(batch)))
        order += rows
    results = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return [result[np.argsort(np.array(order, int))] for result in results]


def _require_waveforms(waveforms: Sequence[np.ndarray]) -> None:
    for number, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(
                f"waveforms[{number}] is {waveform.dtype} {waveform.shape}: give "
                "one channel of floating-point samples from -1 to 1"
            )


def _stack(waveforms: Sequence[np.ndarray]) -> np.ndarray:
    """Returns float32 `[clips, samples]`, zeros after the end of a clip."""
    if len(waveforms) == 1:  # long, perhaps: no copy
        return waveforms[0][np.newaxis].astype(np.float32, copy=False)
    longest = max(map(len, waveforms), default=0)
    batch = np.zeros([len(waveforms), longest], np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields positions, shortest clips first, that go together."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        # An export computes so many segments at once: of nine, the last one alone.
        is_full = len(batch) == saved_model.CHUNK_SEGMENTS
        is_large = (len(batch) + 1) * lengths[row] > _BATCH_SAMPLES
        if batch and (is_full or is_large):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _locate(path: pathlib.Path) -> pathlib.Path:
    if (path / "saved_model.pb").is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; export a model first")
    folder = newest(path)
    if folder is None or not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{folder or path}: holds no SavedModel; give the folder of a version, or "
            "that of the versions"
        )
    return folder


def _versions(base: pathlib.Path) -> list[int]:
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    return [int(name) for name in names if re.fullmatch("[0-9]+", name)]


def _rename(folder: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    while True:
        target = base / str(max(_versions(base), default=0) + 1)
        try:
            os.rename(folder, target)
            return target
        except OSError:
            # Another export may have taken the number meanwhile.
            if not target.is_dir():
                raise


def _require_fit(network: keras.Model, labels: Sequence[str]) -> None:
    """Raises `ValueError` unless each score has a label of its own."""
    if network.layers[-1].name != networks.HEAD:
        raise ValueError(f"{network.name!r} has no head: give a tagger or classifier")
    if len(labels) != network.output_shape[-1] or len(set(labels)) != len(labels):
        raise ValueError(
            f"{len(labels)} labels, {len(set(labels))} of them different, for "
            f"{network.output_shape[-1]} scores: give each score a name of its own"
        )
    odd = [label for label in labels if label.splitlines() != [label]]
    if odd:
        raise ValueError(f"label {odd[0]!r}: give one line of text")


def _facts(frontend: params.Frontend) -> dict[str, Any]:
    """Returns what a client must know about a front end, fit for JSON."""
    return {
        "sample_rate_hz": params.SAMPLE_RATE_HZ,
        **dataclasses.asdict(frontend),
        "hop_samples": frontend.hop_samples,
        "segment_samples": frontend.segment_samples,
        "segment_secs": frontend.segment_secs,
    }
