r"""Fine-tunes a genre classifier on a collection sorted into genre folders.

    python -m tools.finetune --data_dir=data/gtzan --start=runs/pretrain \
        --run_dir=runs/finetune

Without --start the backbone begins with random weights. One fold of --num_folds
is held out by default, never seen in training, and read once at the end. The
same command again goes on where a run was stopped.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from . import command, data_flags, run_flags

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(run_flags)

flags.DEFINE_string("run_dir", "runs/finetune", "Folder of this run.")
flags.DEFINE_string("start", None, "Finished pre-training run; random if not given.")
flags.DEFINE_enum(
    "split",
    "held_out",
    ["held_out", "fault_filtered", "none"],
    "held_out: a stratified fold for testing; fault_filtered: GTZAN's published "
    "lists, the best validation epoch kept; none: learn from all clips.",
)
flags.DEFINE_integer("num_folds", 10, "Of --split=held_out.", lower_bound=2)
flags.DEFINE_integer("fold", 0, "Which fold is held out.", lower_bound=0)
flags.DEFINE_string(
    "lists_dir", None, "Where the fault-filtered lists lie, if not in --data_dir."
)

_FIGURES = {
    "loss": "loss",
    "accuracy": "accuracy in training",
    "val_accuracy": "validation",
}


def main(argv: list[str]) -> None:
    from genre_tl.training import run_folder, training

    del argv
    preset = run_flags.preset("finetune")
    table = data_flags.table()
    # What is wrong is said before the features are extracted, which may take hours.
    if FLAGS.start:
        training.check_start(FLAGS.start, preset)
    _rows(table)
    features, table = data_flags.features(table, preset.frontend)
    rows = _rows(table)
    data = run_folder.Data(features=features, table=table, split=_split_name(), **rows)
    print(
        f"{len(data.train)} clips to learn from, {len(data.valid)} for validation, "
        f"{len(data.test)} held out, {len(table.vocabulary)} genres"
    )
    record = training.finetune(
        FLAGS.run_dir,
        data,
        preset,
        start=FLAGS.start,
        seed=FLAGS.seed,
        progress=run_flags.progress(preset.finetune.max_epochs, _FIGURES),
    )
    _report(record, table.vocabulary)


def _rows(table: datasets.Dataset) -> dict[str, np.ndarray]:
    import numpy as np

    from genre_tl.data import splits

    rows = {"train": np.arange(len(table.paths))}
    if FLAGS.split == "held_out":
        rows = splits.held_out(table, FLAGS.num_folds, FLAGS.seed, fold=FLAGS.fold)
    elif FLAGS.split == "fault_filtered":
        rows = splits.by_name(table, "fault_filtered", lists=FLAGS.lists_dir)
    nobody = np.zeros(0, int)
    return {"train": nobody, "valid": nobody, "test": nobody} | rows


def _split_name() -> str:
    if FLAGS.split == "held_out":
        return f"fold {FLAGS.fold} of {FLAGS.num_folds} held out, seed {FLAGS.seed}"
    return FLAGS.split


def _report(record: dict[str, Any], vocabulary: tuple[str, ...]) -> None:
    import numpy as np

    from genre_tl.evaluation import plots

    print(f"kept epoch {record['best_epoch']} of {record['epochs']}")
    if FLAGS.start and "head_pull" in record:
        pull = record["head_pull"]
        print(f"head pulled back to where it began (--head_pull): {pull:g}")
    test = record["metrics"].get("test")
    if test:
        low, high = test["accuracy_interval"]
        print(
            f"accuracy on the {test['num_clips']} clips held out: "
            f"{test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"
        )
        picture = pathlib.Path(FLAGS.run_dir) / "confusion.png"
        title = f"{record['data']['split']}: {test['accuracy']:.1%}"
        matrix = np.array(test["confusion"])
        plots.confusion_matrix(matrix, vocabulary, picture, title=title)
        print(f"confusion matrix: {picture}")
    print(
        f"curves: {FLAGS.run_dir}/curves.png\n"
        f"next: python -m tools.export --run_dir={FLAGS.run_dir} --name=genres"
    )


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
