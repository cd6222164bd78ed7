"""Folders and tables of music as tables of clips: paths, labels, groups, splits.

Nothing here opens an audio file. What is left out of a table is never dropped
silently: `Dataset.skipped` names it with the reason.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import gzip
import operator
import os
import pathlib
import re
import zlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from absl import logging
from sklearn import model_selection

AUDIO_SUFFIXES = frozenset(
    [".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".au", ".aif", ".aiff"]
)
"""File name endings, in lower case, of the formats that `audio` reads."""

ANNOTATIONS = "annotations_final.csv"
CLIP_INFO = "clip_info_final.csv"

EMPTY_CLIPS: Mapping[str, str] = {
    "35644": "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "55753": "8/jacob_heringman-josquin_des_prez_lute_settings-19-"
    "gintzler__pater_noster-204-233.mp3",
    "57881": "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
}
"""Clips (id to path) whose file is empty in MagnaTagATune as published."""

FOLDER_SPLITS: Mapping[str, Mapping[str, str]] = {
    "paper": {"train": "0123456789abcde", "valid": "f"},
    "literature": {"train": "0123456789ab", "valid": "c", "test": "def"},
}
"""MagnaTagATune's splits by top folder: that of Song et al. (2017), and the usual."""

GTZAN_GENRES = (
    *("blues", "classical", "country", "disco", "hiphop"),
    *("jazz", "metal", "pop", "reggae", "rock"),
)

BROKEN_CLIPS = frozenset(["jazz.00054"])
"""Clips unreadable in the common `.wav` copy of GTZAN, and often left out."""

_LISTS = {part: f"{part}_filtered.txt" for part in ("train", "valid", "test")}
_CLIP_RANGE = re.compile(r"-\d+-\d+$")
_GTZAN_STEM = re.compile(r"[a-z]+\.\d{5}")
_HIPHOP = re.compile(r"hip[-_ ]?hop", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A table of clips.

    Attributes:
      name: `magnatagatune`, `gtzan` or `folder`.
      root: the folder that `paths` are relative to.
      paths: unique, with `/`; a clip's identity everywhere.
      labels: uint8 `[clips, num_labels]`, 0 or 1.
      vocabulary: the names of the columns of `labels`.
      groups: a clip's recording (or artist), which no split may divide.
      multi_label: any number of tags a clip, or exactly one genre.
      skipped: `(path, reason)` of what was found or listed but is no clip here.
    """

    name: str
    root: pathlib.Path
    paths: tuple[str, ...]
    labels: np.ndarray
    vocabulary: tuple[str, ...]
    groups: tuple[str, ...]
    multi_label: bool
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.paths), len(self.vocabulary))
        if self.labels.shape != shape or len(self.groups) != shape[0]:
            raise ValueError(
                f"{self.root}: labels {self.labels.shape} and {len(self.groups)} "
                f"groups do not fit {shape[0]} paths and {shape[1]} names"
            )
        _refuse_twice(self.root, self.paths)
        if not self.multi_label and not np.all(self.labels.sum(axis=1) == 1):
            raise ValueError(f"{self.root}: a clip has not exactly one genre")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths with `root` before them."""
        return tuple(str(self.root / path) for path in self.paths)

    @property
    def classes(self) -> np.ndarray:
        """The genre of each clip as index into `vocabulary`: int64 `[clips]`."""
        if self.multi_label:
            raise ValueError(f"{self.root}: clips with tags have no single genre")
        return np.argmax(self.labels, axis=1).astype(np.int64)

    def select(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """Returns the table of `rows` (indices) alone, in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            groups=tuple(self.groups[row] for row in rows),
        )


def load(kind: str, root: str | os.PathLike[str]) -> Dataset:
    """Loads the collection at `root`.

    Args:
      kind: `magnatagatune`, `gtzan`, `folder`, or `auto`: what lies there decides.
      root: its folder.

    Raises:
      ValueError: if `kind` is unknown or the files do not make a collection.
      OSError: if files are missing or cannot be read.
    """
    loaders = {"magnatagatune": magnatagatune, "gtzan": gtzan, "folder": folder}
    if kind not in ("auto", *loaders):
        raise ValueError(f"kind is {kind!r}; it must be auto, {', '.join(loaders)}")
    return loaders[_recognise(_existing(root)) if kind == "auto" else kind](root)


def magnatagatune(
    root: str | os.PathLike[str],
    *,
    num_tags: int | None = None,
    tables: str | os.PathLike[str] | None = None,
    check_files: bool = True,
) -> Dataset:
    """Loads MagnaTagATune, or a collection in its layout.

    The clips lie in folders 0-9, a-f below `root` (or its `mp3`). Empty files are
    skipped; the three of the published set also if they are absent.

    Args:
      root: the collection's folder.
      num_tags: how many tags to keep, the commonest of the whole table (as the
        literature does with 50); None keeps all. They stand in alphabetical order.
      tables: the folder of `annotations_final.csv` and, if there, of
        `clip_info_final.csv` (either may end in `.gz`); `root` if None.
      check_files: whether the table must fit the files; if not, no audio need be
        there.

    Raises:
      FileNotFoundError: if there is no table, or it lists files that are not there.
      ValueError: if a table is malformed or `num_tags` out of range.
    """
    root = _existing(root)
    tables = root if tables is None else _existing(tables)
    ids, paths, vocabulary, labels = _read_annotations(_table(tables, ANNOTATIONS))
    skipped = dict.fromkeys(EMPTY_CLIPS.values(), "empty in the published set")
    skipped = {path: skipped[path] for path in skipped.keys() & set(paths)}
    if check_files:
        root = _audio_root(root)
        _fit(root, paths, skipped)
    rows = [row for row, path in enumerate(paths) if path not in skipped]
    columns = _commonest(labels[rows], num_tags)
    return Dataset(
        name="magnatagatune",
        root=root,
        paths=paths,
        labels=labels[:, columns],
        vocabulary=tuple(vocabulary[column] for column in columns),
        groups=_recordings(tables, ids, paths),
        multi_label=True,
        skipped=tuple(sorted(skipped.items())),
    ).select(rows)


def gtzan(root: str | os.PathLike[str]) -> Dataset:
    """Loads GTZAN: `genres_original` or `genres` below `root`, or `root` itself.

    Any audio format is taken; names must be GTZAN's (`blues/blues.00000.wav`). The
    set does not say which clips share a recording: each is a group of its own.

    Raises:
      ValueError: if the folders are not the ten genres, or a clip is there twice.
      OSError: if there is no such folder.
    """
    everything = folder(_genre_root(_existing(root)))
    if everything.vocabulary != GTZAN_GENRES:
        raise ValueError(
            f"{everything.root}: genre folders {', '.join(everything.vocabulary)} are "
            f"not GTZAN's {', '.join(GTZAN_GENRES)}; load them as kind 'folder'"
        )
    named = [bool(_GTZAN_STEM.fullmatch(_stem(path))) for path in everything.paths]
    dataset = everything.select(np.flatnonzero(named))
    _refuse_empty_genres(dataset)
    stems = tuple(_stem(path) for path in dataset.paths)
    _refuse_twice(dataset.root, stems)
    strange = sorted(set(everything.paths) - set(dataset.paths))
    skipped = [(path, "not named like a clip of GTZAN") for path in strange]
    return dataclasses.replace(
        dataset, name="gtzan", groups=stems, skipped=(*dataset.skipped, *skipped)
    )


def folder(root: str | os.PathLike[str]) -> Dataset:
    """Loads any folder of genre folders.

    Audio files may lie at any depth; hidden ones are ignored. What lies in one
    sub-folder of a genre (an artist, an album) is one group; a file directly in the
    genre folder is a group of its own. `Hip-Hop` and the like become `hiphop`.

    Raises:
      ValueError: if there are fewer than two genres, or one without usable audio.
      OSError: if there is no such folder.
    """
    root = _existing(root)
    skipped: dict[str, str] = {}
    paths = tuple(_scan(root, skipped))
    genres = [_genre(entry.name) for entry in _visible(root) if entry.is_dir()]
    vocabulary = sorted(set(genres))
    if len(vocabulary) < 2:
        raise ValueError(
            f"{root}: {_some(vocabulary, 'genre folder')}; at least 2 are needed, "
            "each with the audio files of its genre"
        )
    classes = [vocabulary.index(_genre(path.split("/")[0])) for path in paths]
    dataset = Dataset(
        name="folder",
        root=root,
        paths=paths,
        labels=np.eye(len(vocabulary), dtype=np.uint8)[np.array(classes, np.int64)],
        vocabulary=tuple(vocabulary),
        # genre/artist/album/clip.wav: the artist; genre/clip.wav: the clip.
        groups=tuple("/".join(path.split("/")[:2]) for path in paths),
        multi_label=False,
        skipped=tuple(sorted(skipped.items())),
    )
    _refuse_empty_genres(dataset)
    return dataset


def split(
    dataset: Dataset,
    name: str,
    *,
    lists: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the rows of each part of a published split.

    Args:
      dataset: the table to divide.
      name: `paper` or `literature` for MagnaTagATune's layout (`FOLDER_SPLITS`);
        `fault_filtered` for GTZAN (Kereliuk, Sturm and Larsen, 2015: 443, 197, 290).
      lists: the folder of `train_filtered.txt` and so on for `fault_filtered`; by
        default the collection's, or the one above.
      allow_missing: whether clips of the lists may be absent. `BROKEN_CLIPS` always
        may. What is absent is logged.

    Returns:
      Sorted row indices by `train`, `valid` and, but for `paper`, `test`.

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


def folds(dataset: Dataset, num_folds: int, seed: int) -> list[np.ndarray]:
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
    for index, genre in enumerate(dataset.vocabulary):
        num_groups = len(set(groups[classes == index]))
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
    grouped = model_selection.StratifiedGroupKFold(
        num_folds, shuffle=True, random_state=seed
    )
    return [rows for _, rows in grouped.split(classes, classes, groups)]


def held_out(
    dataset: Dataset, num_folds: int, seed: int, *, fold: int = 0
) -> dict[str, np.ndarray]:
    """Holds out one of `num_folds` folds: sorted rows of `train` and `valid`.

    Raises:
      ValueError: as `folds`, or if there is no such fold.
    """
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold is {fold}; it must be from 0 to {num_folds - 1}")
    valid = folds(dataset, num_folds, seed)[fold]
    return {"train": np.setdiff1d(np.arange(len(dataset)), valid), "valid": valid}


def _some(names: Collection[str], what: str) -> str:
    """Says how many there are and names the first few."""
    few = ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {what}{'s' * (len(names) != 1)}" + (
        f" ({few})" if few else ""
    )


def _refuse_twice(root: pathlib.Path, names: Sequence[str]) -> None:
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise ValueError(
            f"{root}: {_some(twice, 'clip')} there twice; keep one of each"
        )


def _refuse_empty_genres(dataset: Dataset) -> None:
    empty = [dataset.vocabulary[i] for i in np.flatnonzero(~dataset.labels.any(axis=0))]
    if empty:
        raise ValueError(
            f"{dataset.root}: {_some(empty, 'genre')} without a usable clip "
            f"({' '.join(sorted(AUDIO_SUFFIXES))}); fill or remove the folder"
        )


def _existing(path: str | os.PathLike[str]) -> pathlib.Path:
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{os.fspath(path)}: there is no such folder")
    return pathlib.Path(path)


def _visible(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in root.iterdir() if not p.name.startswith("."))


def _scan(root: pathlib.Path, skipped: dict[str, str]) -> list[str]:
    """Returns the usable clips in the folders of `root`; adds others to `skipped`."""
    paths = []
    # One by one, as `rglob` enters a linked folder only where it starts.
    for top in _visible(root):
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            path = file.relative_to(root).as_posix()
            reason = _unusable(file)
            if "/." in path or (file.is_dir() and not file.is_symlink()):
                continue
            if "/" not in path:
                skipped |= {path: "not in a folder"} if not reason else {}
            elif reason:
                skipped[path] = reason
            else:
                paths.append(path)
    return sorted(paths)


def _unusable(file: pathlib.Path) -> str:
    """Returns why a file cannot be a clip, or nothing."""
    if file.is_dir():
        return "linked folder, not followed"
    if file.suffix.lower() not in AUDIO_SUFFIXES:
        return f"format {file.suffix or 'without a suffix'} is not read"
    try:
        return "" if file.stat().st_size else "empty file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _recognise(root: pathlib.Path) -> str:
    if any((root / (ANNOTATIONS + end)).exists() for end in ("", ".gz")):
        return "magnatagatune"
    genres = [entry for entry in _visible(_genre_root(root)) if entry.is_dir()]
    stems = (_stem(entry.name) for genre in genres for entry in _visible(genre))
    is_gtzan = sorted(_genre(genre.name) for genre in genres) == [*GTZAN_GENRES]
    return "gtzan" if is_gtzan and any(map(_GTZAN_STEM.fullmatch, stems)) else "folder"


def _genre_root(root: pathlib.Path) -> pathlib.Path:
    below = (root / name for name in ("genres_original", "genres"))
    return next((base for base in below if base.is_dir()), root)


def _genre(name: str) -> str:
    return _HIPHOP.sub("hiphop", name)


def _stem(path: str) -> str:
    """`hip-hop/hip-hop.00001.au` to `hiphop.00001`."""
    return _genre(pathlib.PurePosixPath(path).stem)


def _table(root: pathlib.Path, name: str) -> pathlib.Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{root}: neither {name} nor {name}.gz is there")


def _read_table(path: pathlib.Path, *needed: str) -> tuple[list[str], list[list[str]]]:
    """Returns the column names and the rows of a tab-separated table."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            names, *rows = csv.reader(file, delimiter="\t")
    except (ValueError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: not a tab-separated table: {error}") from error
    odd = sum(len(row) != len(names) for row in rows)
    if odd or not rows or not set(needed) <= set(names):
        raise ValueError(
            f"{path}: not a tab-separated table with {' and '.join(needed)}: "
            f"{len(names)} columns, {len(rows)} rows, {odd} of another length"
        )
    return names, rows


def _read_annotations(
    path: pathlib.Path,
) -> tuple[list[str], tuple[str, ...], list[str], np.ndarray]:
    """Returns clip ids, paths, tags and labels; columns go by their names."""
    names, rows = _read_table(path, "clip_id", "mp3_path")
    vocabulary = sorted(set(names) - {"clip_id", "mp3_path"})
    if len(vocabulary) < 2 or len(vocabulary) + 2 != len(names):
        raise ValueError(f"{path}: fewer than 2 tags, or one column is there twice")
    cells = operator.itemgetter(*(names.index(tag) for tag in vocabulary))
    text = "".join(cell for row in rows for cell in cells(row))
    if len(text) != len(rows) * len(vocabulary) or text.strip("01"):
        raise ValueError(f"{path}: a tag is neither 0 nor 1")
    labels = np.frombuffer(text.encode("ascii"), np.uint8) - ord("0")
    ids, paths = (names.index(name) for name in ("clip_id", "mp3_path"))
    return (
        [row[ids] for row in rows],
        tuple(row[paths] for row in rows),
        vocabulary,
        labels.reshape(len(rows), len(vocabulary)),
    )


def _recordings(
    tables: pathlib.Path, ids: Sequence[str], paths: Sequence[str]
) -> tuple[str, ...]:
    """Names the recording of each clip: by `clip_info_final.csv`, or its file name.

    File names end in the clip's first and last second: `-30-59.mp3`. In MagnaTagATune
    both ways give the same 5,405 recordings.
    """
    try:
        path = _table(tables, CLIP_INFO)
    except FileNotFoundError:
        stems = (str(pathlib.PurePosixPath(path).with_suffix("")) for path in paths)
        return tuple(_CLIP_RANGE.sub("", stem) for stem in stems)
    names, rows = _read_table(path, "clip_id", "original_url")
    key, url = names.index("clip_id"), names.index("original_url")
    recording = {row[key]: row[url] for row in rows}
    missing = [clip for clip in ids if clip not in recording]
    if missing:
        raise ValueError(
            f"{path}: {_some(missing, 'clip id')} of {ANNOTATIONS} not there; remove "
            "this table or take the one that belongs to the other"
        )
    return tuple(recording[clip] for clip in ids)


def _audio_root(root: pathlib.Path) -> pathlib.Path:
    for base in (root, root / "mp3", root / "MP3"):
        if any((base / digit).is_dir() for digit in "0123456789abcdef"):
            return base
    raise FileNotFoundError(f"{root}: neither here nor in mp3 are folders 0-9, a-f")


def _fit(root: pathlib.Path, paths: Sequence[str], skipped: dict[str, str]) -> None:
    """Adds unusable files and those outside the table to `skipped`.

    Raises:
      FileNotFoundError: if files of the table, save those of `skipped`, are missing.
    """
    there = set(_scan(root, skipped))
    missing = sorted(set(paths) - there - set(skipped))
    if missing:
        raise FileNotFoundError(
            f"{root}: {_some(missing, 'clip')} of {ANNOTATIONS} not there; unpack the "
            "whole collection or take the table that belongs to these files"
        )
    skipped |= dict.fromkeys(there - set(paths), f"not in {ANNOTATIONS}")


def _commonest(labels: np.ndarray, num_tags: int | None) -> np.ndarray:
    """Returns the columns of the `num_tags` commonest tags, sorted."""
    num_tags = labels.shape[1] if num_tags is None else num_tags
    if not 2 <= num_tags <= labels.shape[1]:
        raise ValueError(
            f"num_tags is {num_tags}; it must be from 2 to {labels.shape[1]}"
        )
    counts = labels.sum(axis=0, dtype=np.int64)
    return np.sort(np.argsort(-counts, kind="stable")[:num_tags])


def _split_by_folder(
    dataset: Dataset, digits: Mapping[str, str]
) -> dict[str, np.ndarray]:
    tops = np.array([path.split("/")[0] for path in dataset.paths])
    strange = sorted(set(tops) - set("".join(digits.values())))
    if strange:
        raise ValueError(
            f"{dataset.root}: {_some(strange, 'folder')} other than 0-9, a-f; only "
            "MagnaTagATune's layout can be split by folder"
        )
    return {
        part: np.flatnonzero(np.isin(tops, list(chosen)))
        for part, chosen in digits.items()
    }


def _split_by_lists(
    dataset: Dataset, lists: str | os.PathLike[str] | None, allow_missing: bool
) -> dict[str, np.ndarray]:
    bases = [dataset.root, dataset.root.parent] if lists is None else [_existing(lists)]
    whole = [b for b in bases if all((b / name).exists() for name in _LISTS.values())]
    if not whole:
        raise FileNotFoundError(
            f"{bases[-1]}: the lists {', '.join(_LISTS.values())} are not there; give "
            "their folder"
        )
    listed = {
        part: [_stem(line) for line in (whole[0] / name).read_text("utf-8").split()]
        for part, name in _LISTS.items()
    }
    stems = [stem for part in listed.values() for stem in part]
    _refuse_twice(whole[0], stems)
    row_of = {_stem(path): row for row, path in enumerate(dataset.paths)}
    missing = sorted(set(stems) - set(row_of))
    if set(missing) - BROKEN_CLIPS and not allow_missing:
        raise FileNotFoundError(
            f"{dataset.root}: {_some(missing, 'clip')} of the fault-filtered lists not "
            "there; give the whole of GTZAN or allow missing clips"
        )
    if missing:
        logging.warning("Fault-filtered split without %s", _some(missing, "clip"))
    return {
        part: np.array(sorted(row_of[stem] for stem in chosen if stem in row_of), int)
        for part, chosen in listed.items()
    }
