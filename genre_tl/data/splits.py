"""Tables of clips divided into training, validation and test parts, or folds."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from sklearn import model_selection

from genre_tl.data import datasets

FOLDER_SPLITS: Mapping[str, Mapping[str, str]] = {
    "paper": {"train": "0123456789abcde", "valid": "f"},
    "literature": {"train": "0123456789ab", "valid": "c", "test": "def"},
    "near": {"train": "0123456789a", "valid": "b", "target": "cdef"},
}
"""MagnaTagATune's splits by top folder: that of Song et al. (2017), the usual, and one
that leaves clips for a target that is near to the source."""

BROKEN_CLIPS = frozenset(["jazz.00054"])
"""Clips unreadable in the common `.wav` copy of GTZAN, and often left out."""

_LISTS = {part: f"{part}_filtered.txt" for part in ("train", "valid", "test")}


def by_name(
    dataset: datasets.Dataset,
    name: str,
    *,
    lists: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the rows of each part of a published split.

    Args:
      dataset: the table to divide.
      name: one of `FOLDER_SPLITS` for MagnaTagATune's layout;
        `fault_filtered` for GTZAN (Kereliuk, Sturm and Larsen, 2015: 443, 197, 290).
      lists: the folder of `train_filtered.txt` and so on for `fault_filtered`; by
        default the collection's, or the one above.
      allow_missing: whether clips of the lists may be absent. `BROKEN_CLIPS` always
        may. What is absent is logged.

    Returns:
      Sorted row indices by `train`, `valid` and what else the split has.

    Raises:
      ValueError: if the split does not suit the table, or a part is empty.
      FileNotFoundError: if the lists or the clips they name are not there.
    """
    if name in FOLDER_SPLITS:
        parts = _split_by_folder(dataset, FOLDER_SPLITS[name])
    elif name == "fault_filtered":
        parts = _split_by_lists(dataset, lists, allow_missing)
    else:
        known = ", ".join([*FOLDER_SPLITS, "fault_filtered"])
        raise ValueError(f"split is {name!r}; it must be one of {known}")
    empty = [part for part, rows in parts.items() if not len(rows)]
    if empty:
        raise ValueError(
            f"{dataset.root}: split {name!r} leaves {' and '.join(empty)} without clips"
        )
    return parts


def folds(dataset: datasets.Dataset, num_folds: int, seed: int) -> list[np.ndarray]:
    """Divides the rows into random folds, stratified by genre, groups kept whole.

    Returns:
      The sorted rows of each fold; every row is in exactly one.

    Raises:
      ValueError: if there are fewer than two folds, a genre has fewer groups than
        there are folds, or the clips have tags.
    """
    classes, groups = dataset.classes, np.array(dataset.groups)
    if num_folds < 2:
        raise ValueError(f"num_folds is {num_folds}; it must be at least 2")
    counts = zip(dataset.vocabulary, groups_by_genre(dataset), strict=True)
    for genre, num_groups in counts:
        if num_groups < num_folds:
            raise ValueError(
                f"{dataset.root}: genre {genre!r} has {num_groups} clips (or groups "
                f"of clips), too few for {num_folds} folds; take fewer folds"
            )
    if len(set(groups)) == len(groups):
        plain = model_selection.StratifiedKFold(
            num_folds, shuffle=True, random_state=seed
        )
        return [rows for _, rows in plain.split(classes, classes)]
    # What shuffles groups in scikit-learn 1.7 takes one's counts of genres for those
    # of another, so that nothing is stratified: they get shuffled numbers instead.
    names, numbers = np.unique(groups, return_inverse=True)
    numbers = np.random.default_rng(seed).permutation(len(names))[numbers]
    grouped = model_selection.StratifiedGroupKFold(num_folds)
    return [rows for _, rows in grouped.split(classes, classes, numbers)]


def groups_by_genre(dataset: datasets.Dataset) -> list[int]:
    """Returns how many groups of clips each genre has: most folds there can be."""
    groups, classes = np.array(dataset.groups), dataset.classes
    genres = range(len(dataset.vocabulary))
    return [len(set(groups[classes == genre])) for genre in genres]


def held_out(
    dataset: datasets.Dataset, num_folds: int, seed: int, *, fold: int = 0
) -> dict[str, np.ndarray]:
    """Holds out one of `num_folds` folds: sorted rows of `train` and `test`.

    There is no `valid`: nothing may be chosen by the score on the held-out clips.

    Raises:
      ValueError: as `folds`, or if there is no such fold.
    """
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold is {fold}; it must be from 0 to {num_folds - 1}")
    test = folds(dataset, num_folds, seed)[fold]
    return {"train": np.setdiff1d(np.arange(len(dataset)), test), "test": test}


def random(
    dataset: datasets.Dataset, num_parts: int, seed: int
) -> dict[str, np.ndarray]:
    """Sets a part of the groups aside for validation, whatever their labels.

    Args:
      dataset: the table to divide; clips may have tags or a genre.
      num_parts: one of so many parts is for validation: 10 sets a tenth aside.
      seed: which.

    Returns:
      Sorted rows of `train` and `valid`, groups kept whole.

    Raises:
      ValueError: if there are fewer than two parts, or fewer groups than parts.
    """
    groups = sorted(set(dataset.groups))
    if not 2 <= num_parts <= len(groups):
        raise ValueError(
            f"{dataset.root}: {len(groups)} clips (or groups of clips) cannot be "
            f"divided into {num_parts} parts; take from 2 to {len(groups)}"
        )
    chosen = np.random.default_rng(seed).permutation(groups)[: len(groups) // num_parts]
    is_valid = np.isin(dataset.groups, chosen)
    return {"train": np.flatnonzero(~is_valid), "valid": np.flatnonzero(is_valid)}


def styles(
    dataset: datasets.Dataset,
    tags: Sequence[str],
    *,
    min_clips: int = 10,
) -> datasets.Dataset:
    """Makes a genre collection of the target part of the split `near`.

    A clip that carries several of the tags belongs to the one that is rarest in the
    whole collection. Clips of one folder whose names begin with the same two words
    are a group: of one style file, song or caption.

    Args:
      dataset: of tags.
      tags: to be taken as genres; those with fewer than `min_clips` are left out.
      min_clips: fewest clips of a genre, in the target part.

    Raises:
      ValueError: if a tag is unknown or fewer than two genres remain.
    """
    unknown = sorted(set(tags) - set(dataset.vocabulary))
    if unknown:
        raise ValueError(f"{dataset.root}: has no tag {', '.join(unknown)}")
    columns = np.array([dataset.vocabulary.index(tag) for tag in sorted(tags)])
    labels = dataset.labels[:, columns].astype(bool)
    rows = _split_by_folder(dataset, FOLDER_SPLITS["near"])["target"]
    rows = rows[labels[rows].any(axis=1)]
    rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
    classes = rarest_first[labels[rows][:, rarest_first].argmax(axis=1)]
    kept = np.flatnonzero(np.bincount(classes, minlength=len(tags)) >= min_clips)
    if len(kept) < 2:
        raise ValueError(
            f"{dataset.root}: {len(kept)} of the tags {', '.join(tags)} have "
            f"{min_clips} clips in the target part; 2 are needed"
        )
    rows, classes = rows[np.isin(classes, kept)], classes[np.isin(classes, kept)]
    return dataclasses.replace(
        dataset.select(rows),
        labels=(classes[:, np.newaxis] == kept).astype(np.uint8),
        vocabulary=tuple(sorted(tags)[column] for column in kept),
        groups=tuple(_two_words(dataset.paths[row]) for row in rows),
        multi_label=False,
    )


def _two_words(path: str) -> str:
    """Returns `d/stdlib_swing` of `d/stdlib_swing_swing1_0486-0-29.mp3`."""
    return "_".join(path.split("-")[0].split("_")[:2])


def _split_by_folder(
    dataset: datasets.Dataset, digits: Mapping[str, str]
) -> dict[str, np.ndarray]:
    tops = np.array([path.split("/")[0] for path in dataset.paths])
    strange = sorted(set(tops) - set("".join(digits.values())))
    if strange:
        raise ValueError(
            f"{dataset.root}: {datasets.counted(strange, 'folder')} other than 0-9, "
            "a-f; only MagnaTagATune's layout can be split by folder"
        )
    return {
        part: np.flatnonzero(np.isin(tops, list(chosen)))
        for part, chosen in digits.items()
    }


def _split_by_lists(
    dataset: datasets.Dataset,
    folder: str | os.PathLike[str] | None,
    allow_missing: bool,
) -> dict[str, np.ndarray]:
    listed = _read_lists(dataset.root, folder)
    names = {name for part in listed.values() for name in part}
    row_of = {datasets.gtzan_name(path): row for row, path in enumerate(dataset.paths)}
    missing = sorted(names - set(row_of))
    if set(missing) - BROKEN_CLIPS and not allow_missing:
        raise FileNotFoundError(
            f"{dataset.root}: {datasets.counted(missing, 'clip')} of the "
            "fault-filtered lists not there; give the whole of GTZAN or allow missing "
            "clips"
        )
    if missing:
        clips = datasets.counted(missing, "clip")
        logging.warning("Fault-filtered split without %s", clips)
    return {
        part: np.array(sorted(row_of[name] for name in chosen & set(row_of)), int)
        for part, chosen in listed.items()
    }


def _read_lists(
    root: pathlib.Path, folder: str | os.PathLike[str] | None
) -> dict[str, set[str]]:
    """Reads the names in the lists of `folder`, else of `root` or the one above."""
    bases = [root, root.parent] if folder is None else [pathlib.Path(folder)]
    whole = [b for b in bases if all((b / name).exists() for name in _LISTS.values())]
    if not whole:
        raise FileNotFoundError(
            f"{bases[-1]}: the lists {', '.join(_LISTS.values())} are not there; give "
            "their folder"
        )
    names = {}
    for part, file in _LISTS.items():
        lines = (whole[0] / file).read_text("utf-8").split()
        names[part] = [datasets.gtzan_name(line) for line in lines]
    counts = collections.Counter(itertools.chain(*names.values()))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{whole[0]}: lists with {datasets.counted(twice, 'clip')} twice"
        )
    return {part: set(listed) for part, listed in names.items()}
