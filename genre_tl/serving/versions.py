"""Exports in numbered versions: which there are, and which are whole."""

from __future__ import annotations

import pathlib
import re

from absl import logging

from genre_tl import files
from genre_tl.serving import model_card

SAVED_MODEL, ONNX = "saved_model.pb", "model.onnx"
"""Names of the files by which a version is known."""


def newest(base_dir: files.PathLike) -> pathlib.Path | None:
    """Returns the folder of the highest version, or None."""
    return next(iter(versions(base_dir)), None)


def versions(base_dir: files.PathLike) -> list[pathlib.Path]:
    """Returns the folders of all versions, the highest first."""
    numbers = sorted(numbers_in(pathlib.Path(base_dir)), reverse=True)
    return [pathlib.Path(base_dir, str(number)) for number in numbers]


def numbers_in(base: pathlib.Path) -> list[int]:
    """Returns the numbers of all versions."""
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    return [int(name) for name in names if re.fullmatch("[0-9]+", name)]


def newest_whole(path: pathlib.Path) -> pathlib.Path:
    """Returns a version's folder, or that of the newest version that is whole.

    Warns about those that are damaged.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if a file of the only one, or the newest, is not as it was exported.
    """
    folders = [] if _is_version(path) else versions(path)
    problems = []
    for folder in folders or [path]:
        try:
            _require_whole(folder)
        except (FileNotFoundError, ValueError) as error:
            problems.append(error)
        else:
            for problem in problems:
                logging.warning("%s; version %s is used", problem, folder.name)
            return folder
    raise problems[0]


def _is_version(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in (SAVED_MODEL, ONNX))


def _require_whole(folder: pathlib.Path) -> None:
    if not _is_version(folder):
        raise FileNotFoundError(
            f"{folder}: no SavedModel or {ONNX} here; export a model first, or give "
            "the folder of a version or of all versions"
        )
    model_card.check(folder)
