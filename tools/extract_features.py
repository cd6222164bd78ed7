"""Computes the features of a collection once, into a feature store.

    python -m tools.extract_features --data_dir=data/gtzan

Only new and changed files are computed; rerun it to resume after an interruption.
Files that fail are listed with the reason in the store's problems.csv. Several
processes may extract into one store at the same time: they share the work.

Exit code: 0 if any clip has features, 1 if none has.
"""

from __future__ import annotations

from absl import flags

from . import command, common_flags, data_flags, frontend_flags

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(frontend_flags)
common_flags.define_workers()


def main(argv: list[str]) -> int:
    del argv
    table = data_flags.table()
    frontend = frontend_flags.preset().frontend
    command.skip_graph_rewriting()
    executor = common_flags.executor(command.skip_graph_rewriting)
    summary = data_flags.extract(table, frontend, executor)
    return 0 if summary.num_usable else 1


def cli() -> None:
    command.halve_threads()
    command.run(main)


if __name__ == "__main__":
    cli()
