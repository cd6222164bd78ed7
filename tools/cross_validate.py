r"""Cross-validates fine-tuning: with transfer, from random weights, and an SVM.

    python -m tools.cross_validate --data_dir=data/gtzan --start=runs/pretrain \
        --model=transfer --model=random --model=svm --output_dir=runs/gtzan

All models get the same folds. Each finished fold is kept at once, and the same
command again goes on where it was stopped. Writes report.md, report.json and
pictures to --output_dir.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from . import command, data_flags, run_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(run_flags)

flags.DEFINE_string("output_dir", "runs/cross_validation", "Folder of the results.")
flags.DEFINE_multi_enum(
    "model",
    ["random"],
    ["transfer", "random", "svm"],
    "What to compare; give it once for each.",
)
flags.DEFINE_string("start", None, "Finished pre-training run, for transfer.")
flags.DEFINE_enum(
    "split",
    "folds",
    ["folds", "fault_filtered"],
    "Random stratified folds, groups of clips kept whole, or GTZAN's published lists.",
)
flags.DEFINE_integer("num_folds", 10, "Folds of a repeat.", lower_bound=2)
flags.DEFINE_integer("num_repeats", 10, "Repeats; may grow later.", lower_bound=1)
flags.DEFINE_enum(
    "protocol",
    "paper",
    ["paper", "strict"],
    "paper: a fixed number of epochs; strict: the best epoch on a part of the "
    "training clips. Test clips are read once, at the end.",
)
flags.DEFINE_boolean(
    "curves",
    False,
    "Also read the test clips after each epoch, for the plot of accuracy against "
    "epoch alone: nothing is chosen by it.",
)
flags.DEFINE_integer(
    "clips_per_genre",
    0,
    "Most clips of a genre to train on; 0 takes all.",
    lower_bound=0,
)
flags.DEFINE_string(
    "lists_dir", None, "Where the fault-filtered lists lie, if not in --data_dir."
)


def main(argv: list[str]) -> None:
    from genre_tl.training import cross_validation, report, training

    del argv
    preset = run_flags.preset("finetune")
    plan = cross_validation.Plan(
        num_folds=FLAGS.num_folds,
        num_repeats=FLAGS.num_repeats,
        seed=FLAGS.seed,
        protocol=FLAGS.protocol,
        clips_per_genre=FLAGS.clips_per_genre,
        curves=FLAGS.curves,
    )
    table = data_flags.table()
    # What is wrong is said before the features are extracted, which may take hours.
    if ("transfer" in FLAGS.model) != bool(FLAGS.start):
        raise app.UsageError("--model=transfer needs --start, and no other model does")
    if FLAGS.start:
        training.check_start(FLAGS.start, preset)
        _warn_of_leaks(table)
    cross_validation.divide(table, plan, _parts(table))
    features, table = data_flags.features(table, preset.frontend)
    record = cross_validation.cross_validate(
        FLAGS.output_dir,
        cross_validation.Data(features, table, _parts(table), FLAGS.split),
        preset,
        plan,
        compared=tuple(dict.fromkeys(FLAGS.model)),
        start=FLAGS.start,
        progress=cross_validation.Progress(_show_epoch, _shown()),
    )
    print(report.write(record, start=FLAGS.start))


def _warn_of_leaks(table: datasets.Dataset) -> None:
    from genre_tl.training import run_folder, training

    source = run_folder.read_run(FLAGS.start)
    num_seen = training.num_seen(source, table.name, table.paths)
    if num_seen:
        logging.warning(
            "%s was trained on %d of these %d clips, or stopped by them: what comes of "
            "transfer flatters it",
            FLAGS.start,
            num_seen,
            len(table),
        )


def _parts(table: datasets.Dataset) -> dict[str, np.ndarray] | None:
    from genre_tl.data import splits

    if FLAGS.split == "folds":
        return None
    return splits.by_name(table, FLAGS.split, lists=FLAGS.lists_dir)


def _show_epoch(model: str, done: int, total: int) -> None:
    terminal.status(f"{model}: epoch {done} of {total}")


def _shown() -> Callable[[Mapping[str, Any], int, int], None]:
    """Returns what prints a line a fold, with an estimate of the time that is left."""
    start, ran = time.monotonic(), 0

    def show(line: Mapping[str, Any], done: int, total: int) -> None:
        nonlocal ran
        ran += 1  # Folds of an earlier call took this one no time.
        left = (time.monotonic() - start) / ran * (total - done)
        text = (
            f"{done} of {total}: repeat {line['repeat'] + 1}, fold {line['fold'] + 1}, "
            f"{line['model']}: {line['accuracy']:.1%}; "
            f"{sum(line['time'].values()):.0f} s, {terminal.duration(left)} left"
        )
        terminal.say(text)

    return show


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
