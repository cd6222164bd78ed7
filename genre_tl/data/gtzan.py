"""The GTZAN genre collection as a table of clips, and its fault-filtered lists."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from genre_tl.data import audio_files, datasets, genre_folders

GENRES = (
    *("blues", "classical", "country", "disco", "hiphop"),
    *("jazz", "metal", "pop", "reggae", "rock"),
)

BROKEN_CLIPS = frozenset(["jazz.00054"])
"""Clips that are unreadable in the common `.wav` copy, and often left out."""

_LISTS = {part: f"{part}_filtered.txt" for part in ("train", "valid", "test")}


def load(root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads GTZAN from `genres_original` or `genres` in a folder, or the folder itself.

    GTZAN does not say which clips share a recording: each is its own group. Any audio
    format will do.

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


def read_lists(
    root: pathlib.Path, folder: str | os.PathLike[str] | None = None
) -> dict[str, list[str]]:
    """Returns the clip names in each list of the fault-filtered split.

    Args:
      root: GTZAN's folder.
      folder: contains `train_filtered.txt`, `valid_filtered.txt` and
        `test_filtered.txt`; by default `root` or its parent.
    """
    if folder is None:
        folder = root if (root / _LISTS["train"]).exists() else root.parent
    paths = {part: pathlib.Path(folder, name) for part, name in _LISTS.items()}
    if missing := [str(path) for path in paths.values() if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} not found; give their folder")
    names = {
        part: [clip_name(line) for line in path.read_text("utf-8-sig").split()]
        for part, path in paths.items()
    }
    datasets.refuse_duplicates(folder, [x for listed in names.values() for x in listed])
    return names


def _genre_root(root: pathlib.Path) -> pathlib.Path:
    below = (root / name for name in ("genres_original", "genres"))
    return next((base for base in below if base.is_dir()), root)
