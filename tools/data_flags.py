"""Flags that choose a collection, and functions that load its table and features."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from . import common_flags, terminal

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    from genre_tl import params, workers
    from genre_tl.data import datasets
    from genre_tl.features import extraction, pipeline

FLAGS = flags.FLAGS


flags.adopt_module_key_flags(common_flags)

common_flags.define_path(
    "data_dir", None, "Collection folder; not needed with --table."
)
common_flags.define_paths(
    "table",
    "CSV of the clips: columns path, label (a genre) or labels (tags separated by ;) "
    "or one for each soft tag, optionally group. Paths are relative to --data_dir or "
    "the table's folder. Repeatable: several CSVs and collections' folders are joined "
    "by file.",
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
    """Returns the table of the collection, or of several, joined."""
    from genre_tl.data import collection, joining, tables

    if not FLAGS.table:
        if not FLAGS.data_dir:
            raise app.UsageError("give --data_dir or --table")
        return collection.load(FLAGS.dataset, FLAGS.data_dir)
    is_folder = [os.path.isdir(source) for source in FLAGS.table]
    if FLAGS.data_dir and is_folder != [False]:
        raise app.UsageError(
            f"--data_dir is for a single CSV; join it by --table={FLAGS.data_dir}"
        )
    return joining.join(
        [
            collection.load(FLAGS.dataset, source)
            if is_folder
            else tables.load(source, FLAGS.data_dir)
            for source, is_folder in zip(FLAGS.table, is_folder, strict=True)
        ]
    )


def store_dir() -> pathlib.Path:
    """Returns the folder of the feature store."""
    if FLAGS.features_dir:
        return pathlib.Path(FLAGS.features_dir)
    return pathlib.Path(
        "features", "+".join(map(_name, FLAGS.table or [FLAGS.data_dir]))
    )


def _name(source: str) -> str:
    """Returns the name of a folder, or that of a table without its suffix."""
    path = pathlib.Path(source)
    return path.resolve().name if path.is_dir() else path.stem


def extract(
    table: datasets.Dataset,
    frontend: params.Frontend,
    executor: workers.Executor | None = None,
) -> extraction.Summary:
    """Brings the feature store up to date and prints a summary."""
    from genre_tl.features import extraction

    _print_reasons("skipped", table.skipped)
    secs, show = FLAGS.max_secs or None, terminal.meter("features")
    folder = store_dir()
    summary = extraction.extract(
        table, folder, frontend, max_secs=secs, on_progress=show, executor=executor
    )
    terminal.say(f"{folder}: {summary}")
    _print_reasons("failed", summary.failures)
    _print_reasons("used, but", summary.notes)
    _write_problems(folder / "problems.csv", [*summary.failures, *summary.notes])
    return summary


def _write_problems(path: pathlib.Path, problems: Sequence[tuple[str, str]]) -> None:
    """Lists files and problems in a CSV, unless it does already."""
    from genre_tl import files

    if not problems:
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "problem"), *problems])
    data = text.getvalue().encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):  # The store may be read-only.
        if not path.exists() or path.read_bytes() != data:
            with files.whole(path) as unfinished:
                unfinished.write_bytes(data)
        terminal.say(f"All of them are listed in {path}")


def _print_reasons(outcome: str, files: Sequence[tuple[str, str]]) -> None:
    """Prints the most frequent reasons, each with the first of its files."""
    paths: dict[str, list[str]] = {}
    for path, reason in files:
        paths.setdefault(reason, []).append(path)
    for reason in sorted(paths, key=lambda x: -len(paths[x]))[:5]:
        more = f" and {len(paths[reason]) - 1} more" * (len(paths[reason]) > 1)
        line = f"{outcome}: {paths[reason][0]}{more}: {reason}"
        terminal.say(f"  {terminal.printable(line)}")


def features(
    table: datasets.Dataset, frontend: params.Frontend
) -> tuple[pipeline.Features, datasets.Dataset]:
    """Returns the collection's features, and the table of the clips that have some.

    Missing features are extracted first. Clips of identical audio become one group.
    """
    from genre_tl.features import pipeline

    extract(table, frontend)
    in_memory = {"auto": None, "memory": True, "disk": False}[FLAGS.features_in]
    found, table = pipeline.load(store_dir(), table, frontend, in_memory=in_memory)
    return found, table.merge_groups(found.digests)
