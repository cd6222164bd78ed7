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
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from genre_tl import params
from genre_tl.model import networks
from genre_tl.serving import checks, model_card, saved_model, warmup

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
    for text in checks.run(folder, network, frontend, labels):
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
