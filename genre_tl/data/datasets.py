"""Folders and tables of music as tables of clips: paths, labels, groups.

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
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from genre_tl.data import audio_files

ANNOTATIONS = "annotations_final.csv"
CLIP_INFO = "clip_info_final.csv"

EMPTY_CLIPS = frozenset(
    [
        "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
        "8/jacob_heringman-josquin_des_prez_lute_settings-19-"
        "gintzler__pater_noster-204-233.mp3",
        "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
        "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
    ]
)
"""Clips whose file is empty in MagnaTagATune as published."""

GTZAN_GENRES = (
    *("blues", "classical", "country", "disco", "hiphop"),
    *("jazz", "metal", "pop", "reggae", "rock"),
)

_CLIP_RANGE = re.compile(r"-\d+-\d+$")
_GTZAN_STEM = re.compile(r"[a-z]+\.\d{5}")
_HIPHOP = re.compile(r"hip[-_ ]?hop", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A table of clips.

    Attributes:
      name: `magnatagatune`, `gtzan`, `folder` or `table`.
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

    def joined(self, keys: Sequence[Hashable]) -> Dataset:
        """Returns the table with the groups made one whose clips share a key.

        Args:
          keys: one a clip, such as the checksum of its audio: a recording that is
            there twice must not be learnt from and tested with.
        """
        leader = {group: group for group in self.groups}

        def led_by(group: str) -> str:
            while leader[group] != group:
                group = leader[group]
            return group

        first: dict[Hashable, str] = {}
        for key, group in zip(keys, self.groups, strict=True):
            leader[led_by(group)] = led_by(first.setdefault(key, group))
        return dataclasses.replace(self, groups=tuple(map(led_by, self.groups)))


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
    table = _table(tables, ANNOTATIONS)
    if table is None:
        raise FileNotFoundError(f"{tables}: there is no {ANNOTATIONS}, nor with .gz")
    ids, paths, vocabulary, labels = _read_annotations(table)
    skipped = dict.fromkeys(EMPTY_CLIPS & set(paths), "empty in the published set")
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
    named = [bool(_GTZAN_STEM.fullmatch(gtzan_name(path))) for path in everything.paths]
    dataset = everything.select(np.flatnonzero(named))
    _refuse_empty_genres(dataset)
    stems = tuple(gtzan_name(path) for path in dataset.paths)
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
    paths = tuple(audio_files.scan(root, skipped))
    genres = [
        _genre(entry.name) for entry in audio_files.visible(root) if entry.is_dir()
    ]
    vocabulary = sorted(set(genres))
    if len(vocabulary) < 2:
        raise ValueError(
            f"{root}: {counted(vocabulary, 'genre folder')}; at least 2 are needed, "
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


def gtzan_name(path: str) -> str:
    """Returns a clip's name in GTZAN: `hip-hop/hip-hop.1.au` is `hiphop.1`."""
    return _genre(pathlib.PurePosixPath(path).stem)


def counted(names: Collection[str], what: str) -> str:
    """Says how many there are and names the first few: `2 clips (a, b)`."""
    few = ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
    plural = "s" * (len(names) != 1)
    return f"{len(names)} {what}{plural}" + (f" ({few})" if few else "")


def _refuse_twice(root: pathlib.Path, names: Sequence[str]) -> None:
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise ValueError(
            f"{root}: {counted(twice, 'clip')} there twice; keep one of each"
        )


def _refuse_empty_genres(dataset: Dataset) -> None:
    empty = [dataset.vocabulary[i] for i in np.flatnonzero(~dataset.labels.any(axis=0))]
    if empty:
        raise ValueError(
            f"{dataset.root}: {counted(empty, 'genre')} without a usable clip "
            f"({' '.join(sorted(audio_files.AUDIO_SUFFIXES))}); fill or remove the "
            "folder"
        )


def _existing(path: str | os.PathLike[str]) -> pathlib.Path:
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{os.fspath(path)}: there is no such folder")
    return pathlib.Path(path)


def _recognise(root: pathlib.Path) -> str:
    if _table(root, ANNOTATIONS):
        return "magnatagatune"
    genres = [
        entry for entry in audio_files.visible(_genre_root(root)) if entry.is_dir()
    ]
    stems = (
        gtzan_name(entry.name)
        for genre in genres
        for entry in audio_files.visible(genre)
    )
    is_gtzan = sorted(_genre(genre.name) for genre in genres) == [*GTZAN_GENRES]
    return "gtzan" if is_gtzan and any(map(_GTZAN_STEM.fullmatch, stems)) else "folder"


def _genre_root(root: pathlib.Path) -> pathlib.Path:
    below = (root / name for name in ("genres_original", "genres"))
    return next((base for base in below if base.is_dir()), root)


def _genre(name: str) -> str:
    return _HIPHOP.sub("hiphop", name)


def _table(root: pathlib.Path, name: str) -> pathlib.Path | None:
    paths = (root / name, root / f"{name}.gz")
    return next((path for path in paths if path.exists()), None)


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
    path = _table(tables, CLIP_INFO)
    if path is None:
        stems = (str(pathlib.PurePosixPath(path).with_suffix("")) for path in paths)
        return tuple(_CLIP_RANGE.sub("", stem) for stem in stems)
    names, rows = _read_table(path, "clip_id", "original_url")
    key, url = names.index("clip_id"), names.index("original_url")
    recording = {row[key]: row[url] for row in rows}
    missing = [clip for clip in ids if clip not in recording]
    if missing:
        raise ValueError(
            f"{path}: {counted(missing, 'clip id')} of {ANNOTATIONS} not there; remove "
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
    there = set(audio_files.scan(root, skipped))
    missing = sorted(set(paths) - there - set(skipped))
    if missing:
        raise FileNotFoundError(
            f"{root}: {counted(missing, 'clip')} of {ANNOTATIONS} not there; unpack "
            "the whole collection or take the table that belongs to these files"
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
