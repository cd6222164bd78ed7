"""The folder of a cross-validation: settings, and a line for each finished fold.

A folder holds

  settings.json   what is compared: collection, folds, preset, start, versions
  folds.jsonl     a line for each finished fold, in the order they were finished
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from genre_tl.training import run_folder


class Record:
    """The folder of a cross-validation: its settings and finished folds.

    Args:
      folder: made if absent.
      settings: fit for JSON; what is there must be the same, but for the number
        of repeats, and `start`, which a run without transfer leaves open.

    Raises:
      ValueError: if the folder holds another cross-validation, or is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any]
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = self._open(json.loads(json.dumps(settings)))
        self.lines = self._read()

    def _open(self, settings: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / "settings.json"
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        if found:
            start = settings["start"] or found["start"]
            settings = {**settings, "start": start}
            differing = [k for k in settings if _fixed(settings, k) != _fixed(found, k)]
            if found["start"] is None and "start" in differing:
                differing.remove("start")
            if differing:
                raise ValueError(
                    f"{self.folder}: holds a cross-validation with other "
                    f"{', '.join(differing)}; give another --output_dir, or remove "
                    "this folder"
                )
            settings = {**found, **settings}
        else:
            settings |= {
                "command": shlex.join(sys.argv),
                "versions": run_folder.versions(),
                "revision": run_folder.revision(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        run_folder.write_json(path, settings)
        return settings

    def _read(self) -> list[dict[str, Any]]:
        path = self.folder / "folds.jsonl"
        if not path.is_file():
            return []
        whole, newline, torn = path.read_text("utf-8").rpartition("\n")
        if torn:  # Killed while writing it.
            os.truncate(path, len((whole + newline).encode()))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: damaged: {error}") from error

    def has(self, model: str, repeat: int, fold: int) -> bool:
        """Whether a fold has finished."""
        key = (model, repeat, fold)
        return any((r["model"], r["repeat"], r["fold"]) == key for r in self.lines)

    def check(self, tests: Mapping[tuple[int, int], Sequence[int]]) -> None:
        """Makes sure that finished folds are those that are planned.

        Args:
          tests: repeat and fold to the rows of its test clips.

        Raises:
          ValueError: if a finished fold had others.
        """
        for line in self.lines:
            planned = tests.get((line["repeat"], line["fold"]), line["test"])
            if list(planned) != line["test"]:
                versions = self.settings["versions"]
                raise ValueError(
                    f"{self.folder}: fold {line['fold']} of repeat {line['repeat']} "
                    "had other test clips; other versions divide differently: go on "
                    f"with those of settings.json (scikit-learn "
                    f"{versions['scikit-learn']}), or give another --output_dir"
                )

    def add(self, line: dict[str, Any]) -> None:
        """Writes a finished fold; it is on the disk when this returns."""
        with (self.folder / "folds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def _fixed(settings: Mapping[str, Any], name: str) -> Any:
    """Returns the part of a setting that a cross-validation cannot change."""
    value = settings.get(name)
    if name == "plan" and value:
        return {k: v for k, v in value.items() if k != "num_repeats"}
    return value
