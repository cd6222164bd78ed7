r"""Pre-trains a tagger on a tagged collection.

    python -m tools.pretrain --data_dir=data/magnatagatune --run_dir=runs/pretrain
    python -m tools.pretrain --table=tags.csv --table=soft_tags.csv \
        --target_vectors=vectors.npz --run_dir=runs/pretrain

Several tables are joined by file. Missing features are extracted first. The epoch with
the best validation AUC-ROC is kept. Rerun the same command to resume. Watch it with
`tensorboard --logdir=runs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import app, flags

from . import command, common_flags, data_flags, run_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets
    from genre_tl.training import run_folder

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
common_flags.define_path(
    "target_vectors",
    None,
    "NPZ of vectors to learn beside the tags: paths and float arrays [paths, dims].",
)
flags.DEFINE_integer("num_tags", None, "Only the commonest tags, such as 50.")
flags.DEFINE_integer(
    "min_clips",
    None,
    "Clips that a tag needs to be learned; soft tags always are. By default 8, or 0 "
    "for MagnaTagATune alone.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "min_positives", 5, "Validation clips a tag needs to count in the metrics."
)

_RANDOM_PARTS, _MIN_CLIPS = 10, 8
_SHOWN = {
    "loss": "loss",
    "val_macro_auc_roc": "AUC-ROC macro",
    "val_micro_auc_roc": "micro",
    "val_macro_pr_auc": "PR-AUC macro",
    "val_micro_pr_auc": "micro PR-AUC",
    "val_binary_macro_auc_roc": "AUC-ROC of real tags",
    "val_soft_macro_auc_roc": "of soft tags",
    "val_soft_correlation": "correlation of soft tags",
    "val_vectors_r": "of target vectors",
}


def main(argv: list[str]) -> None:
    from genre_tl.training import pretrain

    del argv
    preset, table = run_flags.preset("pretrain"), _table()
    data = run_flags.load(table, preset.frontend, _split(), _parts)
    print(_summary(data))
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
    from genre_tl.data import magnatagatune, tables
    from genre_tl.training import pretrain

    if FLAGS.num_tags is None:
        table = data_flags.table()
    elif FLAGS.table or not FLAGS.data_dir:
        raise app.UsageError("--num_tags needs MagnaTagATune in --data_dir")
    else:
        table = magnatagatune.load(FLAGS.data_dir, FLAGS.num_tags)
    pretrain.check_tags(table)
    least = 0 if table.name in ("magnatagatune", "demo") else _MIN_CLIPS
    table = table.common_tags(least if FLAGS.min_clips is None else FLAGS.min_clips)
    vectors = FLAGS.target_vectors
    return tables.load_vectors(vectors, table) if vectors else table


def _split() -> str:
    return FLAGS.split or ("random" if FLAGS.table else "paper")


def _parts(table: datasets.Dataset) -> dict[str, np.ndarray]:
    from genre_tl.data import splits

    if _split() == "random":
        return splits.random(table, _RANDOM_PARTS, FLAGS.seed)
    parts = splits.by_name(table, _split())
    return {part: parts[part] for part in ("train", "valid")}


def _summary(data: run_folder.Data) -> str:
    import numpy as np

    table, num_soft = data.table, int(data.table.is_soft.sum())
    sizes = [len(data.parts[part]) for part in ("train", "valid")]
    tags = f"{len(table.vocabulary)} tags" + f" ({num_soft} soft)" * bool(num_soft)
    vectors = ""
    if table.vectors is not None:
        num_clips = int(np.sum(~np.isnan(table.vectors[:, 0])))
        num_dims = table.vectors.shape[1]
        vectors = f", target vectors of {num_dims} dimensions for {num_clips} clips"
    return f"training on {sizes[0]} clips, {sizes[1]} for validation, {tags}{vectors}"


def _report(record: dict[str, Any]) -> None:
    found = record["metrics"]["valid"]
    print(
        f"kept epoch {record['best_epoch']} of {record['epochs']}; validation, "
        f"{found['num_tags']} tags with at least {found['min_positives']} clips:\n"
        f"  AUC-ROC {found['macro_auc_roc']:.3f} macro, "
        f"{found['micro_auc_roc']:.3f} micro\n"
        f"  PR-AUC  {found['macro_pr_auc']:.3f} macro, "
        f"{found['micro_pr_auc']:.3f} micro"
    )
    for line in _soft_lines(found):
        print(f"  {line}")
    terminal.say(
        f"curves: {FLAGS.run_dir}/curves.png\n"
        f"next: fine-tune with --start={FLAGS.run_dir}"
    )


def _soft_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields what the report says of real tags, soft tags and target vectors."""
    num_soft = found["num_soft_tags"]
    counts = {"binary": found["num_tags"] - num_soft, "soft": num_soft}
    for kind, name in (("binary", "real"), ("soft", "soft")):
        if f"{kind}_macro_auc_roc" in found:
            yield (
                f"{counts[kind]} {name} tags: AUC-ROC "
                f"{found[f'{kind}_macro_auc_roc']:.3f}, PR-AUC "
                f"{found[f'{kind}_macro_pr_auc']:.3f} macro"
            )
    if num_soft:
        yield "positive for a soft tag: its highest tenth of the validation clips"
        yield f"correlation with the soft tags {found['soft_correlation']:.3f}"
    if "vectors_r" in found:
        yield f"correlation with the target vectors {found['vectors_r']:.3f}"


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
