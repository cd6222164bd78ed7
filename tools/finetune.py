r"""Fine-tunes a genre classifier on a collection sorted into genre folders.

    python -m tools.finetune --data_dir=data/gtzan --start=runs/pretrain \
        --run_dir=runs/finetune

Without --start the whole network is trained from random weights. By default one fold
of --num_folds is held out and scored once, at the end. Rerun the same command to
resume.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from genre_tl import params

from . import command, common_flags, data_flags, run_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_flags)

common_flags.define_path("run_dir", "runs/finetune", "Folder of the run.")
common_flags.define_start()
flags.DEFINE_enum(
    "method",
    None,
    params.METHODS,
    "kernel and probe: fit a head, with a Gaussian kernel or linear, to the frozen "
    "backbone; finetune: the linear head, then train all layers.",
)
flags.DEFINE_enum(
    "split",
    "held_out",
    ["held_out", "fault_filtered", "none"],
    "held_out: a stratified fold is the test set; fault_filtered: GTZAN's published "
    "lists, with the best validation epoch kept; none: train on all clips.",
)
flags.DEFINE_integer("num_folds", 10, "Folds of --split=held_out.", lower_bound=2)
flags.DEFINE_integer("fold", 0, "Number of the held-out fold.", lower_bound=0)
common_flags.define_path(
    "lists_dir", None, "Folder of the fault-filtered lists; --data_dir if unset."
)

_SHOWN = {"loss": "loss", "accuracy": "accuracy", "val_accuracy": "validation"}


def main(argv: list[str]) -> None:
    from genre_tl.serving import saved_model
    from genre_tl.training import finetune

    del argv
    preset, table = run_flags.preset("finetune"), data_flags.table()
    saved_model.check_labels(table.vocabulary)
    if FLAGS.start:
        finetune.describe_start(FLAGS.start, preset)
    data = run_flags.load(table, preset.frontend, _split_name(), _parts)
    sizes = {part: len(rows) for part, rows in data.parts.items()}
    print(
        f"training on {sizes['train']} clips, {sizes['valid']} for validation, "
        f"{sizes['test']} held out, {len(data.table.vocabulary)} genres"
    )
    record = finetune.finetune(
        FLAGS.run_dir,
        data,
        preset,
        start=FLAGS.start,
        seed=FLAGS.seed,
        callbacks=[run_flags.progress(_SHOWN)],
    )
    _report(record)


def _parts(table: datasets.Dataset) -> dict[str, np.ndarray]:
    import numpy as np

    from genre_tl.data import splits

    rows = np.arange(len(table))
    parts = {"train": rows, "valid": rows[:0], "test": rows[:0]}
    if FLAGS.split == "held_out":
        fold = FLAGS.fold
        parts |= splits.held_out(table, FLAGS.num_folds, FLAGS.seed, fold=fold)
    elif FLAGS.split == "fault_filtered":
        parts |= splits.by_name(table, FLAGS.split, lists=FLAGS.lists_dir)
    return parts


def _split_name() -> str:
    if FLAGS.split == "held_out":
        return f"fold {FLAGS.fold} of {FLAGS.num_folds} held out, seed {FLAGS.seed}"
    return FLAGS.split


def _report(record: dict[str, Any]) -> None:
    import numpy as np

    from genre_tl.evaluation import plots

    if record["epochs"]:
        print(f"kept epoch {record['best_epoch']} of {record['epochs']}")
        terminal.say(f"curves: {FLAGS.run_dir}/curves.png")
    if test := record["metrics"].get("test"):
        low, high = test["accuracy_interval"]
        print(
            f"accuracy on the {test['num_clips']} clips held out: "
            f"{test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"
        )
        picture = pathlib.Path(FLAGS.run_dir) / "confusion.png"
        title = f"{record['data']['split']}: {test['accuracy']:.1%}"
        matrix, genres = np.array(test["confusion"]), record["vocabulary"]
        plots.confusion_matrix(matrix, genres, picture, title=title)
        terminal.say(f"confusion matrix: {picture}")
    terminal.say(
        f"next: python -m tools.export --run_dir={FLAGS.run_dir} --name=genres"
    )


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
