"""Pre-trains a tagger on a tagged collection.

    python -m tools.pretrain --data_dir=data/magnatagatune --run_dir=runs/pretrain

Missing features are extracted first. Training stops when the validation AUC-ROC is
stable; the best epoch is kept. Rerun the same command to resume. Watch it with
`tensorboard --logdir=runs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import app, flags

from . import command, common_flags, data_flags, run_flags

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_flags)

common_flags.define_path("run_dir", "runs/pretrain", "Folder of the run.")
flags.DEFINE_enum(
    "split",
    None,
    ["paper", "literature", "random"],
    "Validation clips. paper: MagnaTagATune's folder f (Song et al. 2017); "
    "literature: folder c, without d to f, its test set; random: a tenth of the "
    "groups. By default paper, or random with --table.",
)
flags.DEFINE_integer("num_tags", None, "Only the commonest tags, such as 50.")
flags.DEFINE_integer(
    "min_positives", 5, "Validation clips a tag needs to count in the metrics."
)

_RANDOM_PARTS = 10
_SHOWN = {
    "loss": "loss",
    "val_macro_auc_roc": "AUC-ROC macro",
    "val_micro_auc_roc": "micro",
    "val_macro_pr_auc": "PR-AUC macro",
    "val_micro_pr_auc": "micro PR-AUC",
}


def main(argv: list[str]) -> None:
    from genre_tl.training import pretrain

    del argv
    preset, table = run_flags.preset("pretrain"), _table()
    pretrain.check_tags(table)
    data = run_flags.load(table, preset.frontend, _split(), _parts)
    print(
        f"training on {len(data.parts['train'])} clips, {len(data.parts['valid'])} "
        f"for validation, {len(data.table.vocabulary)} tags"
    )
    record = pretrain.pretrain(
        FLAGS.run_dir,
        data,
        preset,
        seed=FLAGS.seed,
        min_positives=FLAGS.min_positives,
        callbacks=[run_flags.progress(_SHOWN)],
    )
    _report(record)


def _table() -> datasets.Dataset:
    from genre_tl.data import magnatagatune

    if FLAGS.num_tags is None:
        return data_flags.table()
    if FLAGS.table or not FLAGS.data_dir:
        raise app.UsageError("--num_tags needs MagnaTagATune in --data_dir")
    return magnatagatune.load(FLAGS.data_dir, FLAGS.num_tags)


def _split() -> str:
    return FLAGS.split or ("random" if FLAGS.table else "paper")


def _parts(table: datasets.Dataset) -> dict[str, np.ndarray]:
    from genre_tl.data import splits

    if _split() == "random":
        return splits.random(table, _RANDOM_PARTS, FLAGS.seed)
    parts = splits.by_name(table, _split())
    return {part: parts[part] for part in ("train", "valid")}


def _report(record: dict[str, Any]) -> None:
    found = record["metrics"]["valid"]
    print(
        f"kept epoch {record['best_epoch']} of {record['epochs']}; validation, "
        f"{found['num_tags']} tags with at least {found['min_positives']} clips:\n"
        f"  AUC-ROC {found['macro_auc_roc']:.3f} macro, "
        f"{found['micro_auc_roc']:.3f} micro\n"
        f"  PR-AUC  {found['macro_pr_auc']:.3f} macro, "
        f"{found['micro_pr_auc']:.3f} micro\n"
        f"curves: {FLAGS.run_dir}/curves.png\n"
        f"next: fine-tune with --start={FLAGS.run_dir}"
    )


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
