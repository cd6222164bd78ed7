"""Computes the features of a collection once, into a feature store.

    python -m tools.extract_features --data_dir=data/gtzan

A second call computes only what was added or changed since, a call after an
interruption goes on where that one stopped. Files that cannot be used are listed
with the reason in the store's index.csv, and do not stop the others.

Exit code: 0 if any clip has features, even if others failed; 1 if none has.
"""

from __future__ import annotations

from absl import flags

from . import command, data_flags, frontend_flags

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(frontend_flags)


def main(argv: list[str]) -> int:
    del argv
    table = data_flags.table()
    frontend = frontend_flags.preset().frontend
    command.skip_graph_rewriting()
    summary = data_flags.extract(table, frontend)
    return 0 if summary.num_usable else 1


def cli() -> None:
    command.halve_threads()
    command.run(main)


if __name__ == "__main__":
    cli()
