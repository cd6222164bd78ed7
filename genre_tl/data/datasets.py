"""The table of clips that every collection becomes."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pathlib
import unicodedata
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from absl import logging
from scipy import sparse
from scipy.sparse import csgraph

BACKGROUND = "_background"
"""Name of a genre of clips that are none of the genres: speech, noise, other music."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A table of clips.

    Attributes:
      name: `magnatagatune`, `gtzan`, `folder` or `table`; joined by `+`.
      root: the folder that `paths` are relative to.
      paths: the clips' files, unique, with `/`.
      labels: `[clips, num_labels]`: uint8, 0 or 1; or, of soft tags, float32, 0 to 1,
        NaN where unknown.
      vocabulary: the label of each column of `labels`.
      groups: the recording or artist of each clip. No split divides a group.
      multi_label: True for tags (any number per clip), False for genres (one each).
      skipped: `(path, reason)` of files that are not in the table.
      vectors: target vectors, float32 `[clips, dims]`, NaN where unknown.
    """

    name: str
    root: pathlib.Path
    paths: tuple[str, ...]
    labels: np.ndarray
    vocabulary: tuple[str, ...]
    groups: tuple[str, ...]
    multi_label: bool
    skipped: tuple[tuple[str, str], ...] = ()
    vectors: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.paths), len(self.vocabulary))
        if self.labels.shape != shape or len(self.groups) != shape[0]:
            found = f"labels {self.labels.shape}, {len(self.groups)} groups"
            raise ValueError(f"{self.root}: {found} do not match {shape}")
        if self.vectors is not None and len(self.vectors) != shape[0]:
            found = f"{len(self.vectors)} target vectors"
            raise ValueError(f"{self.root}: {found} do not match {shape[0]} clips")
        refuse_duplicates(self.root, self.paths)
        if np.any((self.labels < 0) | (self.labels > 1)):
            raise ValueError(f"{self.root}: labels must be from 0 to 1")
        if not self.multi_label and not np.all(self.labels.sum(axis=1) == 1):
            raise ValueError(f"{self.root}: each clip must have exactly one genre")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> tuple[str, ...]:
        """The path of each clip, including `root`."""
        return tuple(str(self.root / path) for path in self.paths)

    @property
    def classes(self) -> np.ndarray:
        """The genre of each clip, an index into `vocabulary`: int64 `[clips]`."""
        if self.multi_label:
            raise ValueError(f"{self.root}: clips with tags have no single genre")
        return np.argmax(self.labels, axis=1).astype(np.int64)

    def select(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """Returns the table of the given rows, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            groups=tuple(self.groups[row] for row in rows),
            vectors=None if self.vectors is None else self.vectors[rows],
        )

    @property
    def is_soft(self) -> np.ndarray:
        """Whether each label has values other than 0 and 1: bool `[num_labels]`."""
        return np.any((self.labels > 0) & (self.labels < 1), axis=0)

    @property
    def digest(self) -> str:
        """SHA-256 of labels and vectors."""
        is_binary = self.labels.dtype == np.uint8
        labels = np.packbits(self.labels) if is_binary else self.labels
        vectors = b"" if self.vectors is None else self.vectors.tobytes()
        return hashlib.sha256(labels.tobytes() + vectors).hexdigest()

    def common_tags(self, min_clips: int) -> Dataset:
        """Returns the table without the tags that fewer than `min_clips` clips have.

        Soft tags are kept. Raises ValueError if fewer than two tags are left.
        """
        kept = self.is_soft | (np.sum(self.labels > 0, axis=0) >= min_clips)
        tags = np.flatnonzero(kept)
        if len(tags) < 2:
            raise ValueError(
                f"{self.root}: {len(tags)} of {len(kept)} tags have {min_clips} clips; "
                "at least 2 must"
            )
        vocabulary = tuple(self.vocabulary[tag] for tag in tags)
        return dataclasses.replace(
            self, labels=self.labels[:, tags], vocabulary=vocabulary
        )

    def merge_groups(self, keys: Sequence[str] | Sequence[int]) -> Dataset:
        """Merges groups whose clips share a key, such as a checksum (one per clip)."""
        return dataclasses.replace(self, groups=merged_groups(self.groups, keys))


def merged_groups(
    groups: Sequence[str], keys: Sequence[str] | Sequence[int]
) -> tuple[str, ...]:
    """Returns the group of each clip after merging groups that share a key.

    A merged group has the name of its first clip's. `groups` and `keys` are one each
    per clip.
    """
    size, group, key = len(groups), _numbered(groups), _numbered(keys)
    # A graph of groups and keys, with an edge for each clip.
    edges = (np.ones(size), (group, size + key))
    graph = sparse.coo_matrix(edges, [2 * size, 2 * size])
    _, parts = csgraph.connected_components(graph, directed=False)
    first: dict[int, str] = {}
    return tuple(map(first.setdefault, parts[group], groups))


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Returns a number from 0 on for each different name: int64 `[names]`."""
    numbers: dict[Hashable, int] = {}
    found = (numbers.setdefault(name, len(numbers)) for name in names)
    return np.fromiter(found, np.int64, len(names))


def check_labels(source: object, labels: Collection[str], what: str) -> None:
    """Raises ValueError for fewer than 2 labels; logs those spelled almost alike."""
    if len(labels) < 2:
        raise ValueError(f"{source}: {counted(labels, what)}; at least 2 are needed")
    spellings = collections.defaultdict(list)
    for label in labels:
        plain = unicodedata.normalize("NFC", label).casefold()
        spellings["".join(plain.split())].append(ascii(label))
    for similar in spellings.values():
        if len(similar) > 1:
            logging.warning(
                f"{source}: labels {', '.join(similar)} differ only in case, spaces or "
                "Unicode form and are kept apart; rename them to merge them"
            )


def counted(names: Collection[str], what: str) -> str:
    """Returns a count with the first few names: `2 clips (a, b)`."""
    few = ", ".join([*list(names)[:5], *["..."] * (len(names) > 5)])
    return f"{len(names)} {what}" + "s" * (len(names) != 1) + f" ({few})" * bool(names)


def refuse_duplicates(source: object, names: Sequence[str]) -> None:
    """Raises ValueError if a clip's name occurs more than once."""
    if found := [name for name, n in collections.Counter(names).items() if n > 1]:
        raise ValueError(f"{source}: {counted(found, 'duplicate clip')}; keep one each")
