"""Evaluates a genre classifier on a folder of genre folders.

    python -m tools.evaluate --run_dir=runs/finetune --data_dir=data/gtzan

By default on the clips that the run held out. Prints accuracy and a table by
genre; writes evaluation.json and confusion.png to --output_dir.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from genre_tl import params

from . import command, data_flags

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)

flags.DEFINE_string("run_dir", "runs/finetune", "Finished fine-tuning run.")
flags.DEFINE_enum(
    "clips",
    "held_out",
    ["held_out", "all"],
    "Those that the run held out for testing, or every clip of another collection.",
)
flags.DEFINE_string(
    "output_dir", None, "Where the results go; <run_dir>/evaluation if not given."
)


def main(argv: list[str]) -> None:
    from genre_tl.evaluation import plots
    from genre_tl.training import run_folder, training

    del argv
    record = run_folder.read_run(FLAGS.run_dir)
    frontend = params.Preset.from_dict(record["preset"]).frontend
    table = data_flags.table()
    features, table = data_flags.features(table, frontend)
    rows = _rows(record, table)
    result = training.evaluate(FLAGS.run_dir, features, table, rows)
    print(result.table())
    folder = pathlib.Path(FLAGS.output_dir or f"{FLAGS.run_dir}/evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{table.root.name}, {FLAGS.clips.replace('_', ' ')} clips"
    plots.confusion_matrix(
        result.confusion, result.vocabulary, folder / "confusion.png", title=title
    )
    run_folder.write_json(folder / "evaluation.json", result.to_dict())
    print(f"\nwritten: {folder}/evaluation.json, {folder}/confusion.png")


def _rows(record: dict[str, Any], table: datasets.Dataset) -> np.ndarray:
    import numpy as np

    if FLAGS.clips == "all":
        return np.arange(len(table.paths))
    held_out = set(record["data"]["test"])
    rows = np.flatnonzero([path in held_out for path in table.paths])
    if len(rows) < len(held_out) or not held_out:
        raise ValueError(
            f"{table.root}: has {len(rows)} of the {len(held_out)} "
            f"clips that {FLAGS.run_dir} held out; give the collection it was trained "
            "on, or --clips=all for another one"
        )
    return rows


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
