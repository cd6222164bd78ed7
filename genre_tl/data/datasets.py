"""The table of clips that every collection becomes."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from absl import logging
from scipy import sparse
from scipy.sparse import csgraph


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A table of clips.

    Attributes:
      name: `magnatagatune`, `gtzan`, `folder` or `table`.
      root: the folder that `paths` are relative to.
      paths: the clips' files, unique, with `/`.
      labels: uint8 `[clips, num_labels]`, 0 or 1.
      vocabulary: the label of each column of `labels`.
      groups: the recording or artist of each clip. No split divides a group.
      multi_label: True for tags (any number per clip), False for genres (one each).
      skipped: `(path, reason)` of files that are not in the table.
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
            found = f"labels {self.labels.shape}, {len(self.groups)} groups"
            raise ValueError(f"{self.root}: {found} do not match {shape}")
        refuse_duplicates(self.root, self.paths)
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
        )

    def merge_groups(self, keys: Sequence[str] | Sequence[int]) -> Dataset:
        """Merges groups whose clips share a key, such as a checksum (one per clip)."""
        num_clips = len(self)
        _, group = np.unique(self.groups, return_inverse=True)
        _, key = np.unique(keys, return_inverse=True)
        # A graph of groups and keys, with an edge for each clip.
        edges = (np.ones(num_clips), (group, num_clips + key))
        graph = sparse.coo_matrix(edges, [2 * num_clips, 2 * num_clips])
        _, parts = csgraph.connected_components(graph, directed=False)
        first: dict[int, str] = {}
        merged = map(first.setdefault, parts[group], self.groups)
        return dataclasses.replace(self, groups=tuple(merged))


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
