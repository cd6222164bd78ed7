r"""From a folder of genre folders to an exported classifier, in one command.

    python -m tools.train --data_dir=my_music --name=mine

Extracts features, cross-validates (what to expect of the classifier), trains on all
clips, and exports that to saved_models/<name>; from random weights, or those of a
pre-training run (--start). Each step is a tool of its own, shown before it runs; what
is done already is not done again, so the same command goes on where it was stopped.
Flags that cross_validate and finetune have in common and that are not listed here are
passed to both by --extra, such as --extra=--max_epochs=40.
"""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from genre_tl import params

from . import command, data_flags

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)

flags.DEFINE_string("name", "mine", "What runs and the export are called.")
flags.DEFINE_string("start", None, "Finished pre-training run; random if not given.")
flags.DEFINE_string("runs_dir", "runs", "Where the runs go.")
flags.DEFINE_string("saved_models_dir", "saved_models", "Where exports lie.")
flags.DEFINE_enum("preset", "default", list(params.PRESETS), "Configuration.")
flags.DEFINE_integer("seed", 0, "Of folds, weights, dropout, order and excerpts.")
flags.DEFINE_integer(
    "folds",
    5,
    "Of the cross-validation: no more than there are groups of clips in any genre; 0 "
    "leaves it out.",
    lower_bound=0,
)
flags.DEFINE_integer("repeats", 1, "Of the cross-validation.", lower_bound=1)
flags.DEFINE_multi_string("extra", [], "Another flag that both training tools know.")


def main(argv: list[str]) -> int:
    del argv
    _check()
    for tool, arguments in _steps():
        code = _run(tool, arguments)
        if code:
            print(
                f"stopped at {tool}; the same command goes on from there. With other "
                f"clips or flags give another --name, or remove {_run_dir()} and "
                f"{_report_dir()}",
                file=sys.stderr,
            )
            return code
    return 0


def _check() -> None:
    """Says what is wrong before the features are extracted, which may take hours."""
    from genre_tl.data import splits
    from genre_tl.training import run_folder

    table = data_flags.table()
    if FLAGS.start:
        run_folder.read_run(FLAGS.start)
    if FLAGS.folds:
        try:
            splits.folds(table, FLAGS.folds, FLAGS.seed)
        except ValueError as error:
            message = f"{error}: give --folds, 0 for no cross-validation"
            raise ValueError(message) from error


def _run_dir() -> pathlib.Path:
    return pathlib.Path(FLAGS.runs_dir, FLAGS.name)


def _report_dir() -> pathlib.Path:
    return pathlib.Path(FLAGS.runs_dir, f"{FLAGS.name}_cross_validation")


def _steps() -> list[tuple[str, list[str]]]:
    """Returns the tools to run, in order, and their flags."""
    preset = [f"--preset={FLAGS.preset}"]
    data = [
        f"--{name}={FLAGS[name].value}"
        for name in ("data_dir", "table", "dataset", "max_secs")
        if FLAGS[name].value is not None
    ]
    data.append(f"--features_dir={data_flags.store_dir()}")
    training = [*data, *preset, f"--seed={FLAGS.seed}", *FLAGS.extra]
    start = [f"--start={FLAGS.start}"] if FLAGS.start else []
    final = f"--run_dir={_run_dir()}"
    steps = [("extract_features", [*data, *preset])]
    if FLAGS.folds:
        numbers = [f"--num_folds={FLAGS.folds}", f"--num_repeats={FLAGS.repeats}"]
        model = f"--model={'transfer' if FLAGS.start else 'random'}"
        report = f"--output_dir={_report_dir()}"
        arguments = [*training, *start, model, *numbers, report]
        steps.append(("cross_validate", arguments))
    steps.append(("finetune", [*training, *start, "--split=none", final]))
    base = f"--saved_models_dir={FLAGS.saved_models_dir}"
    return [*steps, ("export", [final, f"--name={FLAGS.name}", base])]


def _run(tool: str, arguments: Sequence[str]) -> int:
    """Runs a tool as a person would, and returns its exit code."""
    program = [sys.executable, "-m", f"{__package__}.{tool}", *arguments]
    shown = shlex.join(["python", *program[1:]])
    print(f"\n$ {shown}", flush=True)
    return subprocess.run(program, check=False).returncode


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
