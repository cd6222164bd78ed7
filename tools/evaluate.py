"""Evaluates a genre classifier on a folder of genre folders.

    python -m tools.evaluate --run_dir=runs/finetune --data_dir=data/gtzan

Scores the clips that the run held out, or with --clips=all a whole collection. Prints
accuracy and a table by genre; writes evaluation.json and confusion.png.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from genre_tl import files, params

from . import command, common_flags, data_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
common_flags.define_features_in()

common_flags.define_path("run_dir", "runs/finetune", "Finished fine-tuning run.")
flags.DEFINE_enum(
    "clips",
    "held_out",
    ["held_out", "all"],
    "held_out: the test clips of the run; all: every clip of the collection.",
)


def main(argv: list[str]) -> None:
    from genre_tl.evaluation import plots
    from genre_tl.training import finetune, run_folder

    del argv
    record = run_folder.read_run(FLAGS.run_dir)
    frontend = params.Preset.from_dict(record["preset"]).frontend
    features, table = data_flags.features(data_flags.table(), frontend)
    rows = _rows(record, table)
    data = run_folder.Data(features, table, frontend)
    result = finetune.evaluate(FLAGS.run_dir, data, rows)
    print(result.table())
    folder = pathlib.Path(FLAGS.run_dir) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{table.root.name}, {FLAGS.clips.replace('_', ' ')} clips"
    picture = folder / "confusion.png"
    plots.confusion_matrix(result.confusion, result.vocabulary, picture, title=title)
    files.write_json(folder / "evaluation.json", result.to_dict())
    terminal.say(f"\nwritten: {folder}/evaluation.json, {picture}")


def _rows(record: dict[str, Any], table: datasets.Dataset) -> np.ndarray:
    import numpy as np

    if FLAGS.clips == "all":
        return np.arange(len(table.paths))
    held_out = set(record["data"]["test"])
    rows = np.flatnonzero([path in held_out for path in table.paths])
    if len(rows) < len(held_out) or not held_out:
        raise ValueError(
            f"{table.root}: has {len(rows)} of the {len(held_out)} clips that "
            f"{FLAGS.run_dir} held out; give the collection it was trained on, or "
            "--clips=all for another one"
        )
    return rows


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
