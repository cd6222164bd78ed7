"""Flags that several tools share: paths, and how much of a file is used."""

from __future__ import annotations

import os

from absl import flags


class _PathParser(flags.ArgumentParser):
    """Expands `~`, which shells leave alone in `--data_dir=~/music`."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


def define_path(name: str, default: str | None, text: str) -> None:
    """Defines a flag that holds a path."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE(_PathParser(), name, default, text, serializer=serializer)


def define_paths(name: str, text: str) -> None:
    """Defines a repeatable flag that holds paths."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE_multi(_PathParser(), serializer, name, [], text)


flags.DEFINE_float(
    "max_secs", None, "Use only the first seconds of each file; 0 uses all.", 0.0
)
flags.disclaim_key_flags()  # A path that is defined later is a flag of its tool.
