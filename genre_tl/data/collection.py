"""Loads a collection of any supported layout."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from genre_tl.data import datasets, genre_folders, gtzan, magnatagatune

DEMO_MANIFEST = "corpus.json"
"""File beside the parts of the demo corpus, which are laid out as other collections."""


def load(kind: str, root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads a folder laid out as `magnatagatune`, `gtzan` or `folder`; `auto` detects.

    Raises:
      ValueError: if `kind` is unknown, or the folder does not have its layout.
      OSError: if files are missing or cannot be read.
    """
    loaders = {"magnatagatune": magnatagatune, "gtzan": gtzan, "folder": genre_folders}
    if kind not in ("auto", *loaders):
        raise ValueError(f"kind is {kind!r}; it must be auto, {', '.join(loaders)}")
    if kind == "auto":
        kind = "gtzan" if gtzan.is_in(pathlib.Path(root)) else "folder"
        if magnatagatune.find_table(pathlib.Path(root), magnatagatune.ANNOTATIONS):
            kind = "magnatagatune"
    table = loaders[kind].load(root)
    folders = pathlib.Path(root), pathlib.Path(root).parent
    is_demo = any((folder / DEMO_MANIFEST).is_file() for folder in folders)
    return dataclasses.replace(table, name="demo") if is_demo else table
