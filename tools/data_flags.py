"""Flags that choose a collection, and what they stand for: its table, its features."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from . import terminal

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    from genre_tl import params
    from genre_tl.data import datasets
    from genre_tl.features import extraction, pipeline

FLAGS = flags.FLAGS

_NUM_SHOWN = 5


class _PathParser(flags.ArgumentParser):
    """Expands `~`, which shells leave alone in `--data_dir=~/music`."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


def define_path(name: str, default: str | None, text: str) -> None:
    """Defines a flag that holds a path."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE(_PathParser(), name, default, text, serializer=serializer)


define_path("data_dir", None, "Folder of the collection. Required without --table.")
define_path(
    "table",
    None,
    "CSV of the clips: columns path, label (a genre) or labels (tags separated by ;), "
    "and optionally group. Relative paths start from --data_dir, or from the table's "
    "folder.",
)
flags.DEFINE_enum(
    "dataset",
    "auto",
    ["auto", "magnatagatune", "gtzan", "folder"],
    "Layout of the collection; auto detects it.",
)
define_path(
    "features_dir",
    None,
    "Feature store of the collection; missing features are extracted first. By "
    "default features/<name of --data_dir or --table>.",
)
flags.DEFINE_float(
    "max_secs",
    None,
    "Use only the first seconds of each file; 0 or unset uses all. A feature store "
    "has one value.",
    lower_bound=0.0,
)


def table() -> datasets.Dataset:
    """Returns the table of the collection."""
    from genre_tl.data import collection, tables

    if FLAGS.table:
        return tables.load(FLAGS.table, FLAGS.data_dir)
    if not FLAGS.data_dir:
        raise app.UsageError("give --data_dir or --table")
    return collection.load(FLAGS.dataset, FLAGS.data_dir)


def store_dir() -> pathlib.Path:
    """Returns the folder of the feature store."""
    if FLAGS.features_dir:
        return pathlib.Path(FLAGS.features_dir)
    if FLAGS.table:
        return pathlib.Path("features", pathlib.Path(FLAGS.table).stem)
    return pathlib.Path("features", pathlib.Path(FLAGS.data_dir).resolve().name)


def extract(table: datasets.Dataset, frontend: params.Frontend) -> extraction.Summary:
    """Brings the feature store up to date and prints a summary."""
    from genre_tl.features import pipeline

    for reason, paths in _by_reason(table.skipped):
        more = f" and {len(paths) - 1} more" if paths[1:] else ""
        print(f"  skipped: {paths[0]}{more}: {reason}")
    summary = pipeline.extract(
        table,
        store_dir(),
        frontend,
        max_secs=FLAGS.max_secs or None,
        on_progress=terminal.meter("features"),
    )
    print(f"{store_dir()}: {summary}")
    for kind, files in (("failed", summary.failures), ("used, but", summary.notes)):
        for path, reason in files[:_NUM_SHOWN]:
            print(f"  {kind}: {path}: {reason}")
        if len(files) > _NUM_SHOWN:
            print(f"  ... and {len(files) - _NUM_SHOWN} more")
    if summary.failures or summary.notes:
        print(f"All of them are listed in {store_dir() / 'index.csv'}")
    return summary


def _by_reason(skipped: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Returns the skipped paths of each reason, the most frequent reason first."""
    paths: dict[str, list[str]] = {}
    for path, reason in skipped:
        paths.setdefault(reason, []).append(path)
    return sorted(paths.items(), key=lambda item: -len(item[1]))


def features(
    table: datasets.Dataset, frontend: params.Frontend
) -> tuple[pipeline.Features, datasets.Dataset]:
    """Brings the feature store up to date and loads it.

    Returns:
      The features, and the table of the clips that have some. Clips of identical
      audio are in one group.
    """
    from genre_tl.features import pipeline

    extract(table, frontend)
    found, table = pipeline.load(store_dir(), table, frontend)
    # Clips of identical audio share their frames.
    return found, table.merge_groups(found.digests)
