"""Loads a collection of any supported layout."""

from __future__ import annotations

import os
import pathlib

from genre_tl.data import datasets, genre_folders, gtzan, magnatagatune

KINDS = ("auto", "magnatagatune", "gtzan", "folder")


def load(kind: str, root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads the collection in a folder.

    Args:
      kind: one of `KINDS`: the layout of the collection. `auto` detects it.
      root: the folder.

    Raises:
      ValueError: if `kind` is unknown, or the folder does not have its layout.
      OSError: if files are missing or cannot be read.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    root = datasets.existing_folder(root)
    kind = _detect(root) if kind == "auto" else kind
    loaders = {"magnatagatune": magnatagatune, "gtzan": gtzan, "folder": genre_folders}
    return loaders[kind].load(root)


def _detect(root: pathlib.Path) -> str:
    if magnatagatune.find_table(root, magnatagatune.ANNOTATIONS):
        return "magnatagatune"
    return "gtzan" if gtzan.is_in(root) else "folder"
