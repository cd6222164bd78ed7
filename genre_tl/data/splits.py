"""Training, validation and test sets, and folds, of a table of clips."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from absl import logging
from sklearn import model_selection

from genre_tl.data import datasets, gtzan

# MagnaTagATune's splits by top folder: of Song et al. (2017), and the usual one.
_FOLDER_SPLITS: Mapping[str, Mapping[str, str]] = {
    "paper": {"train": "0123456789abcde", "valid": "f"},
    "literature": {"train": "0123456789ab", "valid": "c", "test": "def"},
}


def by_name(
    dataset: datasets.Dataset, name: str, *, lists: str | os.PathLike[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the sorted rows of each part of a published split.

    MagnaTagATune has `paper` (Song et al., 2017) and `literature`. GTZAN has
    `fault_filtered` (Kereliuk, Sturm and Larsen, 2015: 443, 197 and 290 clips). Its
    lists, such as `train_filtered.txt`, are in the folder `lists`, by default GTZAN's
    or the one above.

    Raises:
      ValueError: if the split does not match the table, or a part is empty.
      FileNotFoundError: if the lists, or clips that they name, are missing.
    """
    if name in _FOLDER_SPLITS:
        parts = _by_folder(dataset, _FOLDER_SPLITS[name])
    elif name == "fault_filtered":
        parts = _by_lists(dataset, lists)
    else:
        known = ", ".join([*_FOLDER_SPLITS, "fault_filtered"])
        raise ValueError(f"split is {name!r}; it must be one of {known}")
    if empty := [part for part, rows in parts.items() if not len(rows)]:
        raise ValueError(
            f"{dataset.root}: split {name!r} leaves {' and '.join(empty)} without clips"
        )
    return parts


def folds(dataset: datasets.Dataset, num_folds: int, seed: int) -> list[np.ndarray]:
    """Returns the sorted rows of each of `num_folds` random test folds.

    Folds are stratified by genre, and no group is divided.

    Raises:
      ValueError: if clips have tags, or `num_folds` is below 2 or above the number of
        groups in a genre.
    """
    classes = dataset.classes
    smallest = min(zip(groups_by_genre(dataset), dataset.vocabulary, strict=True))
    if smallest[0] < num_folds:
        raise ValueError(
            f"{dataset.root}: genre {smallest[1]!r} has only {smallest[0]} artist "
            f"folders or single files; {num_folds} folds need {num_folds}"
        )
    names, groups = np.unique(dataset.groups, return_inverse=True)
    if len(names) == len(groups):
        plain = model_selection.StratifiedKFold(
            num_folds, shuffle=True, random_state=seed
        )
        return [rows for _, rows in plain.split(classes, classes)]
    # Before scikit-learn 1.8 it does not stratify when it shuffles (issue 32478): the
    # groups are numbered randomly instead.
    groups = np.random.default_rng(seed).permutation(len(names))[groups]
    grouped = model_selection.StratifiedGroupKFold(num_folds)
    return [rows for _, rows in grouped.split(classes, classes, groups)]


def groups_by_genre(dataset: datasets.Dataset) -> list[int]:
    """Returns the number of groups in each genre: the most folds there can be."""
    pairs = set(zip(dataset.classes, dataset.groups, strict=True))
    return np.bincount(
        [x for x, _ in pairs], minlength=len(dataset.vocabulary)
    ).tolist()


def held_out(
    dataset: datasets.Dataset, num_folds: int, seed: int, *, fold: int = 0
) -> dict[str, np.ndarray]:
    """Returns the rows of one of `folds` as `test`, and the others as `train`."""
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold is {fold}; it must be from 0 to {num_folds - 1}")
    test = folds(dataset, num_folds, seed)[fold]
    return {"train": np.setdiff1d(np.arange(len(dataset)), test), "test": test}


def random(
    dataset: datasets.Dataset, num_parts: int, seed: int
) -> dict[str, np.ndarray]:
    """Returns the rows of `train` and `valid`: 1 / `num_parts` of the groups validate.

    Raises:
      ValueError: if there are fewer than two parts, or fewer groups than parts.
    """
    num_groups = len(set(dataset.groups))
    if not 2 <= num_parts <= num_groups:
        raise ValueError(
            f"{dataset.root}: {num_groups} artist folders or single files cannot be "
            f"split into {num_parts} parts"
        )
    splitter = model_selection.GroupShuffleSplit(
        1, test_size=num_groups // num_parts, random_state=seed
    )
    train, valid = next(splitter.split(dataset.paths, groups=dataset.groups))
    return {"train": train, "valid": valid}


def _by_folder(
    dataset: datasets.Dataset, digits: Mapping[str, str]
) -> dict[str, np.ndarray]:
    tops = np.array([path.split("/")[0] for path in dataset.paths])
    if others := sorted(set(tops) - set("".join(digits.values()))):
        raise ValueError(
            f"{dataset.root}: {datasets.counted(others, 'folder')} other than 0-9, "
            "a-f; only MagnaTagATune can be split by folder"
        )
    return {p: np.flatnonzero(np.isin(tops, [*names])) for p, names in digits.items()}


def _by_lists(
    dataset: datasets.Dataset, folder: str | os.PathLike[str] | None
) -> dict[str, np.ndarray]:
    root, parts = dataset.root, ("train", "valid", "test")
    paths = [f"{part}_filtered.txt" for part in parts]
    default = root if (root / paths[0]).exists() else root.parent
    folder = pathlib.Path(folder or default)
    if absent := [path for path in paths if not (folder / path).exists()]:
        raise FileNotFoundError(f"{folder}: {', '.join(absent)} not found")
    texts = [(folder / path).read_text("utf-8-sig") for path in paths]
    lists = [[gtzan.clip_name(line) for line in text.split()] for text in texts]
    listed = [name for names in lists for name in names]
    datasets.refuse_duplicates(folder, listed)
    row = {gtzan.clip_name(path): row for row, path in enumerate(dataset.paths)}
    missing = sorted(set(listed) - set(row))
    if set(missing) - {gtzan.BROKEN_CLIP}:
        raise FileNotFoundError(
            f"{root}: {datasets.counted(missing, 'clip')} of the fault-filtered lists "
            "missing; the split needs the whole of GTZAN"
        )
    if missing:
        logging.warning("Fault-filtered split without %s", ", ".join(missing))
    rows = [np.array(sorted(row[x] for x in names if x in row), int) for names in lists]
    return dict(zip(parts, rows, strict=True))
