r"""Cross-validates transfer, random initialisation and an SVM on the same folds.

    python -m tools.cross_validate --data_dir=data/gtzan --start=runs/pretrain \
        --model=transfer --model=random --model=svm --output_dir=runs/gtzan

Rerun the same command to resume: finished folds are kept. Writes report.md,
report.json and pictures to --output_dir.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from genre_tl import params

from . import command, common_flags, data_flags, run_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.data import datasets
    from genre_tl.training import fold_plan

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_flags)
common_flags.define_workers()

common_flags.define_path("output_dir", "runs/cross_validation", "Results folder.")
flags.DEFINE_multi_enum(
    "model",
    ["random"],
    ["transfer", *params.METHODS, "random", "svm"],
    "Model to compare; repeatable. transfer: --start, trained by --method; kernel, "
    "probe, finetune: by this method; random: from random weights; svm: on mean "
    "frames.",
)
common_flags.define_start()
flags.DEFINE_enum("method", None, params.METHODS, "Training of --model=transfer.")
flags.DEFINE_enum(
    "split",
    "folds",
    ["folds", "fault_filtered"],
    "Stratified random folds that keep groups together, or GTZAN's published lists.",
)
flags.DEFINE_integer("num_folds", 10, "Folds of a repeat.", lower_bound=2)
flags.DEFINE_integer("num_repeats", 10, "Repeats; may grow later.", lower_bound=1)
flags.DEFINE_enum(
    "protocol",
    "paper",
    ["paper", "strict"],
    "paper: a fixed number of epochs; strict: the best epoch on a part of the "
    "training clips. Test clips are scored once, at the end.",
)
flags.DEFINE_boolean(
    "curves", False, "Also score test clips after each epoch, only to plot them."
)
flags.DEFINE_integer("clips_per_genre", 0, "Most training clips of a genre; 0: all.", 0)
common_flags.define_path(
    "lists_dir", None, "Folder of the fault-filtered lists; --data_dir if unset."
)


def main(argv: list[str]) -> None:
    from genre_tl.training import cross_validation, finetune, fold_plan, report

    del argv
    preset, plan, table = run_flags.preset("finetune"), _plan(), data_flags.table()
    if FLAGS.start:
        finetune.describe_start(FLAGS.start, preset)
    fold_plan.divide(table, plan, _parts(table))
    data = run_flags.load(table, preset.frontend, FLAGS.split, _parts)
    if FLAGS.start:
        _warn_of_leaks(data.features.digests)
    record = cross_validation.cross_validate(
        FLAGS.output_dir,
        data,
        preset,
        plan,
        on_fold=_show(),
        executor=common_flags.executor(),
    )
    print(report.write(record, start=FLAGS.start))


def _plan() -> fold_plan.Plan:
    from genre_tl.training import fold_plan

    names = "num_folds num_repeats seed protocol clips_per_genre curves start"
    values: dict[str, Any] = {name: FLAGS[name].value for name in names.split()}
    return fold_plan.Plan(models=tuple(dict.fromkeys(FLAGS.model)), **values)


def _warn_of_leaks(digests: tuple[str, ...]) -> None:
    from genre_tl.training import cross_validation

    if num_seen := cross_validation.num_seen(FLAGS.start, digests):
        logging.warning(
            f"{FLAGS.start} was trained or validated on {num_seen} of these "
            f"{len(digests)} clips: transfer results will be optimistic"
        )


def _parts(table: datasets.Dataset) -> dict[str, np.ndarray]:
    from genre_tl.data import splits

    if FLAGS.split == "folds":
        return {}
    return splits.by_name(table, FLAGS.split, lists=FLAGS.lists_dir)


def _show() -> Callable[[Mapping[str, Any], int, int], None]:
    """Returns a callback that prints a line per fold, with the time left."""
    start, counter = time.monotonic(), itertools.count(1)

    def show(line: Mapping[str, Any], done: int, total: int) -> None:
        # Folds of an earlier call took this one no time.
        left = (time.monotonic() - start) / next(counter) * (total - done)
        terminal.say(
            f"{done} of {total}: repeat {line['repeat'] + 1}, fold {line['fold'] + 1}, "
            f"{line['model']}: {line['accuracy']:.1%}; {line['secs']:.0f} s, "
            f"{terminal.duration(left)} left"
        )

    return show


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
