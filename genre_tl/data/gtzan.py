"""The GTZAN genre collection as a table of clips."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from genre_tl.data import audio_files, datasets, genre_folders

GENRES = (*"blues classical country disco hiphop jazz metal pop reggae rock".split(),)

BROKEN_CLIP = "jazz.00054"
"""Unreadable in the common `.wav` copy, and often left out."""


def load(root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads GTZAN from `genres_original` or `genres` in a folder, or the folder itself.

    Any audio format will do. Each clip is its own group.

    Raises:
      ValueError: if the folders are not the ten genres, or a clip is duplicate.
    """
    dataset = genre_folders.load(_genre_root(pathlib.Path(root)))
    if dataset.vocabulary != GENRES:
        raise ValueError(
            f"{dataset.root}: genre folders {', '.join(dataset.vocabulary)} are not "
            f"GTZAN's {', '.join(GENRES)}; load them with kind='folder'"
        )
    names = tuple(map(clip_name, dataset.paths))
    datasets.refuse_duplicates(dataset.root, names)
    return dataclasses.replace(dataset, name="gtzan", groups=names)


def is_in(root: pathlib.Path) -> bool:
    """Returns whether a folder has GTZAN's genres, and clips named as GTZAN's are."""
    folders = audio_files.subfolders(_genre_root(root))
    files = (file for folder in folders for file in folder.iterdir())
    return tuple(folder.name for folder in folders) == GENRES and any(
        re.fullmatch(r"[a-z]+\.\d{5}", file.stem) for file in files
    )


def clip_name(path: str) -> str:
    """Returns a clip's name: `blues.00000` for `blues/blues.00000.wav`."""
    return pathlib.PurePosixPath(path).stem


def _genre_root(root: pathlib.Path) -> pathlib.Path:
    below = (root / name for name in ("genres_original", "genres"))
    return next((base for base in below if base.is_dir()), root)
