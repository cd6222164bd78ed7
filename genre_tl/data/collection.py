"""Loads a collection of any supported layout."""

from __future__ import annotations

import os
import pathlib

from genre_tl.data import datasets, genre_folders, gtzan, magnatagatune


def load(kind: str, root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads the collection in a folder.

    Args:
      kind: layout: `magnatagatune`, `gtzan`, `folder`, or `auto` to detect it.
      root: the folder.

    Raises:
      ValueError: if `kind` is unknown, or the folder does not have its layout.
      OSError: if files are missing or cannot be read.
    """
    loaders = {"magnatagatune": magnatagatune, "gtzan": gtzan, "folder": genre_folders}
    if kind not in ("auto", *loaders):
        raise ValueError(f"kind is {kind!r}; it must be auto, {', '.join(loaders)}")
    return loaders[_detect(pathlib.Path(root)) if kind == "auto" else kind].load(root)


def _detect(root: pathlib.Path) -> str:
    if magnatagatune.find_table(root, magnatagatune.ANNOTATIONS):
        return "magnatagatune"
    return "gtzan" if gtzan.is_in(root) else "folder"
