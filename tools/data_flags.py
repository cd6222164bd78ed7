"""Flags that choose a collection, and functions that load its table and features."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from . import common_flags, terminal

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    from genre_tl import params
    from genre_tl.data import datasets
    from genre_tl.features import extraction, pipeline

FLAGS = flags.FLAGS


flags.adopt_module_key_flags(common_flags)

common_flags.define_path(
    "data_dir", None, "Collection folder; not needed with --table."
)
common_flags.define_path(
    "table",
    None,
    "CSV of the clips: columns path, label (a genre) or labels (tags separated by ;), "
    "optionally group. Paths are relative to --data_dir or the table's folder.",
)
flags.DEFINE_enum(
    "dataset",
    "auto",
    ["auto", "magnatagatune", "gtzan", "folder"],
    "Layout of the collection; auto detects it.",
)
common_flags.define_path(
    "features_dir",
    None,
    "Feature store. By default features/<name of --data_dir or --table>.",
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
    source = pathlib.Path(FLAGS.table or FLAGS.data_dir)
    name = source.stem if FLAGS.table else source.resolve().name
    return pathlib.Path(FLAGS.features_dir or f"features/{name}")


def extract(table: datasets.Dataset, frontend: params.Frontend) -> extraction.Summary:
    """Brings the feature store up to date and prints a summary."""
    from genre_tl.features import extraction

    _print_reasons("skipped", table.skipped)
    secs, show = FLAGS.max_secs or None, terminal.meter("features")
    folder = store_dir()
    summary = extraction.extract(
        table, folder, frontend, max_secs=secs, on_progress=show
    )
    print(f"{folder}: {summary}")
    _print_reasons("failed", summary.failures)
    _print_reasons("used, but", summary.notes)
    if summary.failures or summary.notes:
        print(f"All of them are listed in {folder / 'index.csv'}")
    return summary


def _print_reasons(outcome: str, files: Sequence[tuple[str, str]]) -> None:
    """Prints the most frequent reasons, each with the first of its files."""
    paths: dict[str, list[str]] = {}
    for path, reason in files:
        paths.setdefault(reason, []).append(path)
    for reason in sorted(paths, key=lambda x: -len(paths[x]))[:5]:
        more = f" and {len(paths[reason]) - 1} more" * (len(paths[reason]) > 1)
        print(f"  {outcome}: {paths[reason][0]}{more}: {reason}")


def features(
    table: datasets.Dataset, frontend: params.Frontend
) -> tuple[pipeline.Features, datasets.Dataset]:
    """Returns the collection's features, and the table of the clips that have some.

    Missing features are extracted first. Clips of identical audio become one group.
    """
    from genre_tl.features import pipeline

    extract(table, frontend)
    found, table = pipeline.load(store_dir(), table, frontend)
    return found, table.merge_groups(found.digests)
