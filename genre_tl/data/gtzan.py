"""The GTZAN genre collection as a table of clips, and its fault-filtered lists."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re

import numpy as np

from genre_tl.data import audio_files, datasets, genre_folders

GENRES = (
    *("blues", "classical", "country", "disco", "hiphop"),
    *("jazz", "metal", "pop", "reggae", "rock"),
)

BROKEN_CLIPS = frozenset(["jazz.00054"])
"""Clips that are unreadable in the common `.wav` copy, and often left out."""

_NAME = re.compile(r"[a-z]+\.\d{5}")
_LISTS = {part: f"{part}_filtered.txt" for part in ("train", "valid", "test")}


def load(root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads GTZAN from `genres_original` or `genres` in a folder, or the folder itself.

    Any audio format will do; file names must be GTZAN's (`blues/blues.00000.wav`).
    GTZAN does not say which clips share a recording: each is its own group.

    Raises:
      ValueError: if the folders are not the ten genres, or a clip is duplicate.
      OSError: if the folder does not exist or cannot be read.
    """
    everything = genre_folders.load(_genre_root(datasets.existing_folder(root)))
    vocabulary = tuple(map(_genre, everything.vocabulary))
    if vocabulary != GENRES:
        raise ValueError(
            f"{everything.root}: genre folders {', '.join(vocabulary)} are not GTZAN's "
            f"{', '.join(GENRES)}; load them with kind='folder'"
        )
    is_clip = np.array([bool(_NAME.fullmatch(clip_name(p))) for p in everything.paths])
    dataset = everything.select(np.flatnonzero(is_clip))
    genre_folders.refuse_empty_genres(dataset)
    names = tuple(map(clip_name, dataset.paths))
    datasets.refuse_duplicates(dataset.root, names)
    others = everything.select(np.flatnonzero(~is_clip)).paths
    skipped = [(path, "not named like a clip of GTZAN") for path in others]
    return dataclasses.replace(
        dataset,
        name="gtzan",
        vocabulary=vocabulary,
        groups=names,
        skipped=(*dataset.skipped, *skipped),
    )


def is_in(root: pathlib.Path) -> bool:
    """Returns whether a folder has GTZAN's genre folders and file names."""
    genres = audio_files.subfolders(_genre_root(root))
    if tuple(sorted(_genre(genre.name) for genre in genres)) != GENRES:
        return False
    files = (file for genre in genres for file in genre.iterdir())
    return any(_NAME.fullmatch(clip_name(file.name)) for file in files)


def clip_name(path: str) -> str:
    """Returns a clip's name in the lists: `hiphop.1` for `hip-hop/hip-hop.1.au`."""
    return _genre(pathlib.PurePosixPath(path).stem)


def read_lists(
    root: pathlib.Path, lists_dir: str | os.PathLike[str] | None = None
) -> dict[str, list[str]]:
    """Reads the clip names of the fault-filtered split (Kereliuk et al., 2015).

    Args:
      root: GTZAN's folder.
      lists_dir: the folder of `train_filtered.txt`, `valid_filtered.txt` and
        `test_filtered.txt`; by default `root` or its parent.

    Raises:
      FileNotFoundError: if a list is missing.
      ValueError: if a clip is listed more than once.
    """
    folders = [root, root.parent] if lists_dir is None else [pathlib.Path(lists_dir)]
    for folder in folders:
        if all((folder / name).exists() for name in _LISTS.values()):
            break
    else:
        raise FileNotFoundError(
            f"{folders[-1]}: {', '.join(_LISTS.values())} not found; give their folder"
        )
    names = {
        part: list(map(clip_name, (folder / name).read_text("utf-8-sig").split()))
        for part, name in _LISTS.items()
    }
    datasets.refuse_duplicates(folder, [*itertools.chain(*names.values())])
    return names


def _genre_root(root: pathlib.Path) -> pathlib.Path:
    below = (root / name for name in ("genres_original", "genres"))
    return next((base for base in below if base.is_dir()), root)


def _genre(name: str) -> str:
    return re.sub("hip[-_ ]?hop", "hiphop", name, flags=re.IGNORECASE)
