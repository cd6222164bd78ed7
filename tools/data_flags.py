"""The flags that say which collection, and the way from them to its features."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import app, flags

from . import command

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    from genre_tl import params
    from genre_tl.data import datasets
    from genre_tl.features import extraction, pipeline

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "data_dir", None, "Folder of the collection; needed unless --table is given."
)
flags.DEFINE_string(
    "table",
    None,
    "CSV of the collection's clips: columns path, label (a genre) or labels (tags "
    "separated by ;), and perhaps group. Paths start from --data_dir, or the "
    "table's folder.",
)
flags.DEFINE_enum(
    "dataset",
    "auto",
    ["auto", "magnatagatune", "gtzan", "folder"],
    "What lies there; auto tells by what the folder holds.",
)
flags.DEFINE_string(
    "features_dir",
    None,
    "Feature store of the collection, completed first if need be. "
    "features/<name of data_dir, or of table> if not given.",
)
flags.DEFINE_float(
    "max_secs",
    None,
    "Use no more of each file than this, from its beginning; all if 0 or not given. "
    "The same for every use of a feature store.",
    lower_bound=0.0,
)

_NUM_SHOWN = 5


def table() -> datasets.Dataset:
    """Loads the table of the collection."""
    from genre_tl.data import datasets, tables

    if FLAGS.table:
        return tables.read(FLAGS.table, FLAGS.data_dir)
    if not FLAGS.data_dir:
        raise app.UsageError("--data_dir or --table must be given")
    return datasets.load(FLAGS.dataset, FLAGS.data_dir)


def store_dir() -> pathlib.Path:
    """Returns the folder of the feature store."""
    if FLAGS.features_dir:
        return pathlib.Path(FLAGS.features_dir)
    if FLAGS.table:
        return pathlib.Path("features", pathlib.Path(FLAGS.table).stem)
    return pathlib.Path("features", pathlib.Path(FLAGS.data_dir).resolve().name)


def extract(table: datasets.Dataset, frontend: params.Frontend) -> extraction.Summary:
    """Completes the feature store and prints what came of it."""
    from genre_tl.features import pipeline

    _tell_skipped(table)
    summary = pipeline.extract(
        table,
        store_dir(),
        frontend,
        max_secs=FLAGS.max_secs or None,
        on_progress=command.meter("features"),
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


def _tell_skipped(table: datasets.Dataset) -> None:
    """Prints what lies in the collection and is no clip of it, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in table.skipped:
        by_reason.setdefault(reason, []).append(path)
    commonest = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    for reason, paths in commonest[:_NUM_SHOWN]:
        more = f" and {len(paths) - 1} more" if paths[1:] else ""
        print(f"  left out: {paths[0]}{more}: {reason}")
    if commonest[_NUM_SHOWN:]:
        print(
            f"  ... and files left out for {len(commonest) - _NUM_SHOWN} more reasons"
        )


def features(
    table: datasets.Dataset, frontend: params.Frontend
) -> tuple[pipeline.Features, datasets.Dataset]:
    """Completes the feature store and loads it.

    Returns:
      The features, and the table without the clips that could not be read, clips of
      identical audio in one group.
    """
    from genre_tl.features import pipeline

    extract(table, frontend)
    found, table = pipeline.load(store_dir(), table, frontend)
    # Identical audio has one place among the frames.
    return found, table.joined(found.starts.tolist())
