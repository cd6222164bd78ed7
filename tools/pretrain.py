"""Pre-trains a tagger on a tagged collection.

    python -m tools.pretrain --data_dir=data/magnatagatune --run_dir=runs/pretrain

Features are extracted first where they are missing. After each epoch the
validation AUC-ROC decides whether to go on; the best weights are kept. The same
command again goes on where a run was stopped. Watch it with
`tensorboard --logdir=runs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import app, flags

from . import command, data_flags, run_flags

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(run_flags)

flags.DEFINE_string("run_dir", "runs/pretrain", "Folder of this run.")
flags.DEFINE_enum(
    "split",
    None,
    ["paper", "literature", "random"],
    "Validation clips. paper: MagnaTagATune's folder f (Song et al. 2017); "
    "literature: folder c, without d to f, its test set; random: a tenth of the "
    "groups. By default paper, or random with --table.",
)
flags.DEFINE_integer("num_tags", None, "Commonest tags only, such as 50; all if unset.")
flags.DEFINE_integer(
    "min_positives", 5, "Validation clips a tag needs to count in the metrics."
)

_RANDOM_PARTS = 10

_FIGURES = {
    "loss": "loss",
    "val_macro_auc_roc": "AUC-ROC macro",
    "val_micro_auc_roc": "micro",
    "val_macro_pr_auc": "PR-AUC macro",
    "val_micro_pr_auc": "micro",
}


def main(argv: list[str]) -> None:
    from genre_tl.training import run_folder, training

    del argv
    preset = run_flags.preset("pretrain")
    table = _table()
    # What is wrong is said before the features are extracted, which may take hours.
    training.check_tags(table)
    _rows(table)
    features, table = data_flags.features(table, preset.frontend)
    rows = _rows(table)
    data = run_folder.Data(
        features=features,
        table=table,
        train=rows["train"],
        valid=rows["valid"],
        test=rows["train"][:0],
        split=_split(),
    )
    print(
        f"{len(data.train)} clips to learn from, {len(data.valid)} for validation, "
        f"{len(table.vocabulary)} tags"
    )
    record = training.pretrain(
        FLAGS.run_dir,
        data,
        preset,
        seed=FLAGS.seed,
        min_positives=FLAGS.min_positives,
        progress=run_flags.progress(preset.pretrain.max_epochs, _FIGURES),
    )
    _report(record)


def _table() -> datasets.Dataset:
    from genre_tl.data import magnatagatune

    if FLAGS.num_tags is None:
        return data_flags.table()
    if FLAGS.table or not FLAGS.data_dir:
        raise app.UsageError("--num_tags is for MagnaTagATune in --data_dir alone")
    return magnatagatune.load(FLAGS.data_dir, FLAGS.num_tags)


def _split() -> str:
    return FLAGS.split or ("random" if FLAGS.table else "paper")


def _rows(table: datasets.Dataset) -> dict[str, np.ndarray]:
    from genre_tl.data import splits

    if _split() == "random":
        return splits.random(table, _RANDOM_PARTS, FLAGS.seed)
    return splits.by_name(table, _split())


def _report(record: dict[str, Any]) -> None:
    figures = record["metrics"]["valid"]
    print(
        f"kept epoch {record['best_epoch']} of {record['epochs']}; validation, "
        f"{figures['num_tags']} tags with {figures['min_positives']} clips or more:\n"
        f"  AUC-ROC {figures['macro_auc_roc']:.3f} macro, "
        f"{figures['micro_auc_roc']:.3f} micro\n"
        f"  PR-AUC  {figures['macro_pr_auc']:.3f} macro, "
        f"{figures['micro_pr_auc']:.3f} micro\n"
        f"curves: {FLAGS.run_dir}/curves.png\n"
        f"next: fine-tune with --start={FLAGS.run_dir}"
    )


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
