"""Loads a collection of any supported layout."""

from __future__ import annotations

import os
import pathlib

from genre_tl.data import datasets, genre_folders, gtzan, magnatagatune


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
    return loaders[kind].load(root)
