r"""From a folder of genre folders to an exported classifier, in one command.

    python -m tools.train --data_dir=my_music --name=mine

Extracts features, estimates the accuracy by cross-validation, trains on all clips, and
exports to saved_models/<name>. It starts from the starter, the tagger that ships, if
the flags leave front end and network as they are; --start gives another tagger.
Each step is a tool of its own, shown before it runs. Rerun the same command to resume.
After adding, removing or moving music, the same command says what is new and makes the
next version; features are reused.
Other flags of both training tools are passed on by --extra, such as
--extra=--max_epochs=40.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from absl import flags

from genre_tl import starter

from . import changes, command, common_flags, data_flags, frontend_flags, terminal

if TYPE_CHECKING:
    from genre_tl.data import datasets

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(frontend_flags)
common_flags.define_workers()

flags.DEFINE_string("name", "mine", "Name of the runs and of the export.")
common_flags.define_start("the starter, if it fits the other flags")
common_flags.define_path("runs_dir", "runs", "Folder of the runs.", is_local=True)
common_flags.define_path(
    "saved_models_dir", "saved_models", "Folder of the exports.", is_local=True
)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer(
    "folds", 5, "Folds of the cross-validation; 0 skips it.", lower_bound=0
)
flags.DEFINE_integer("repeats", 1, "Repeats of the cross-validation.", lower_bound=1)
flags.DEFINE_multi_string(
    "extra", [], "Flag that is passed on to both training tools; repeatable."
)

_REPORT = "_cross_validation"
_NETWORK_FLAGS = re.compile("--?(layers|units|cell|dropout)(=|$)")


def main(argv: list[str]) -> int:
    del argv
    _begin_version(_check())
    FLAGS["start"].value, reason = _start()
    print(f"starting from {FLAGS.start or 'random weights'}{reason}", flush=True)
    for tool, arguments in _steps():
        program = [sys.executable, "-m", f"{__package__}.{tool}", *arguments]
        print(f"\n$ {shlex.join(['python', *program[1:]])}", flush=True)
        if code := _run(program):
            print(
                f"{tool} failed: fix the error above and rerun; finished steps are "
                f"kept. For other flags give another --name, or remove "
                f"{_run_dir()} and {_run_dir()}{_REPORT}",
                file=sys.stderr,
            )
            return code
    if FLAGS.folds:
        report = pathlib.Path(f"{_run_dir()}{_REPORT}")
        results = json.loads((report / "report.json").read_text("utf-8"))
        text = next(iter(results["models"].values()))["in_words"]
        terminal.say(f"\n{text[0].upper()}{text[1:]}.\nreport: {report / 'report.md'}")
    return 0


def _run(program: list[str]) -> int:
    """Returns the exit code of a program; when this one is stopped, so is that."""
    with subprocess.Popen(program) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as error:
            if not error.args:  # Ctrl-C reaches both.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            process.terminate()  # It removes its unfinished files.
            raise


def _begin_version(table: datasets.Dataset) -> None:
    """Sets runs on other clips aside, and says what is new."""
    before, now = changes.read(_run_dir()), changes.of_table(table)
    if before is not None and (found := changes.compare(before, now)):
        # The folder with the list is the last, in case this is interrupted.
        folders = pathlib.Path(f"{_run_dir()}{_REPORT}"), _run_dir()
        kept = changes.set_aside(folders)
        terminal.say(f"new since the last version:\n{found}")
        terminal.say(f"its runs are kept: {', '.join(map(str, kept))}")
    if before != now:
        changes.write(_run_dir(), now)


def _check() -> datasets.Dataset:
    """Returns the table; raises errors that else come after hours of extraction."""
    command.check_name(FLAGS.name)
    common_flags.executor()
    from genre_tl.data import splits
    from genre_tl.serving import saved_model
    from genre_tl.training import run_folder

    table = data_flags.table()
    saved_model.check_labels(table.vocabulary)
    if FLAGS.start:
        run_folder.start_facts(FLAGS.start)
    try:
        if FLAGS.folds:
            splits.folds(table, FLAGS.folds, FLAGS.seed)
    except ValueError as error:
        raise ValueError(f"{error}. Use --folds=0 to skip cross-validation") from error
    return table


def _start() -> tuple[str | None, str]:
    """Returns the run or export to start from, and the reason for the choice."""
    from genre_tl.training import run_folder

    if FLAGS["start"].present:
        return FLAGS.start, ""
    if any(map(_NETWORK_FLAGS.match, FLAGS.extra)):
        return None, ": --extra changes the network that the starter has"
    try:
        path = str(starter.folder())
    except FileNotFoundError as error:
        return None, f": {error}"
    found, wanted = run_folder.start_facts(path)["preset"], frontend_flags.preset()
    differing = run_folder.differences(found, wanted.to_dict())
    if any(x.startswith(("frontend.", "model.")) for x in differing):
        return None, ": the starter has another front end or network"
    return path, ", the starter (--start=none: from random weights)"


def _run_dir() -> pathlib.Path:
    return pathlib.Path(FLAGS.runs_dir, FLAGS.name)


def _steps() -> list[tuple[str, list[str]]]:
    """Returns the tools to run, in order, and their flags."""
    frontend = ("preset", "J", "Q", "T", "segment_frames")
    features = _given("data_dir", "table", "dataset", "max_secs", *frontend)
    features.append(f"--features_dir={data_flags.store_dir()}")
    training = [*features, *_given("seed", "start"), *FLAGS.extra]
    final = f"--run_dir={_run_dir()}"
    workers = [x for x in _given("workers", "ray") if x != "--workers=1"]
    steps = [("extract_features", [*features, *workers])]
    if FLAGS.folds:
        arguments = [
            f"--model={'transfer' if FLAGS.start else 'random'}",
            f"--num_folds={FLAGS.folds}",
            f"--num_repeats={FLAGS.repeats}",
            f"--output_dir={_run_dir()}{_REPORT}",
        ]
        steps.append(("cross_validate", [*training, *workers, *arguments]))
    steps.append(("finetune", [*training, "--split=none", final]))
    export = [final, *_given("name", "saved_models_dir")]
    if FLAGS.folds:
        export.append(f"--cross_validation={_run_dir()}{_REPORT}")
    return [*steps, ("export", export)]


def _given(*names: str) -> list[str]:
    values = ((name, FLAGS[name].value) for name in names)
    lists = ((x, y if isinstance(y, list) else [y]) for x, y in values)
    return [f"--{x}={y}" for x, ys in lists for y in ys if y is not None]


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
