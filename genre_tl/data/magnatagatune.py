"""The MagnaTagATune collection as a table of clips."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from genre_tl.data import audio_files, datasets, tables

ANNOTATIONS = "annotations_final.csv"
CLIP_INFO = "clip_info_final.csv"

EMPTY_CLIPS = (
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-"
    "gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)
"""Clips whose file is empty in MagnaTagATune as published."""


def load(root: str | os.PathLike[str], num_tags: int | None = None) -> datasets.Dataset:
    """Loads MagnaTagATune, or a collection with its layout.

    The clips are in the folders 0-9 and a-f of `root` (or of `root/mp3`). Empty files
    are skipped. `num_tags` keeps only the most frequent tags (50 in the literature).

    Raises:
      FileNotFoundError: if the annotations, or files that they list, are missing.
      ValueError: if a table is malformed or `num_tags` is out of range.
    """
    dataset, root = read_tables(root, num_tags), _audio_root(pathlib.Path(root))
    found, skipped = audio_files.scan(root)
    if missing := sorted(set(dataset.paths) - set(found) - set(skipped)):
        raise FileNotFoundError(
            f"{root}: {datasets.counted(missing, 'clip')} of {ANNOTATIONS} missing; "
            "unpack the whole collection, or use the table of these files"
        )
    skipped |= dict.fromkeys(set(found) - set(dataset.paths), f"not in {ANNOTATIONS}")
    rows = [row for row, path in enumerate(dataset.paths) if path not in skipped]
    return dataclasses.replace(
        dataset.select(rows), root=root, skipped=tuple(sorted(skipped.items()))
    )


def read_tables(
    folder: str | os.PathLike[str], num_tags: int | None = None
) -> datasets.Dataset:
    """Does what `load` does, without the audio files. Tables may be gzipped."""
    folder = pathlib.Path(folder)
    path = find_table(folder, ANNOTATIONS)
    if not path:
        raise FileNotFoundError(f"{folder}: {ANNOTATIONS} (or .gz) not found")
    columns, _ = tables.read_columns(path, "clip_id", "mp3_path")
    ids, paths = columns.pop("clip_id"), columns.pop("mp3_path")
    cells = np.array(list(columns.values()))  # [tags, clips]
    if len(columns) < 2 or not np.isin(cells, ["0", "1"]).all():
        raise ValueError(f"{path}: fewer than 2 tags, or a cell is neither 0 nor 1")
    most = len(columns) if num_tags is None else num_tags
    if not 2 <= most <= len(columns):
        raise ValueError(f"num_tags is {most}; it must be from 2 to {len(columns)}")
    by_count = sorted(columns, key=lambda tag: -columns[tag].count("1"))
    vocabulary = sorted(by_count[:most])
    everything = datasets.Dataset(
        name="magnatagatune",
        root=folder,
        paths=paths,
        labels=np.array([columns[tag] for tag in vocabulary]).T.astype(np.uint8),
        vocabulary=tuple(vocabulary),
        groups=_recordings(folder, ids, paths),
        multi_label=True,
    )
    return everything.select([i for i, x in enumerate(paths) if x not in EMPTY_CLIPS])


def find_table(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the path of a table, plain or gzipped, or None."""
    return next((x for x in (folder / name, folder / f"{name}.gz") if x.exists()), None)


def _recordings(
    folder: pathlib.Path, ids: Sequence[str], paths: Sequence[str]
) -> tuple[str, ...]:
    """Returns the recording of each clip, from `clip_info_final.csv` or file names.

    File names end in the clip's first and last second: `-30-59.mp3`. Both ways give
    the same 5,405 recordings of MagnaTagATune.
    """
    path = find_table(folder, CLIP_INFO)
    if path is None:
        return tuple(re.sub(r"-\d+-\d+\.\w+$", "", path) for path in paths)
    columns, _ = tables.read_columns(path, "clip_id", "original_url")
    url = dict(zip(columns["clip_id"], columns["original_url"], strict=True))
    if missing := [clip for clip in ids if clip not in url]:
        raise ValueError(
            f"{path}: {datasets.counted(missing, 'clip id')} of {ANNOTATIONS} missing; "
            "remove it, or use the one that belongs to the annotations"
        )
    return tuple(url[clip] for clip in ids)


def _audio_root(root: pathlib.Path) -> pathlib.Path:
    for base in (root, root / "mp3", root / "MP3"):
        if any((base / digit).is_dir() for digit in "0123456789abcdef"):
            return base
    raise FileNotFoundError(f"{root}: no folders 0-9, a-f in it or in its mp3 folder")
