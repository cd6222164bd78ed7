"""Flags that several tools share: paths, models, how much of a file is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags

from genre_tl import starter, storage

from . import terminal

if TYPE_CHECKING:
    from genre_tl import workers

FLAGS = flags.FLAGS


_pulled: list[str] = []  # names of the flags that may be URLs


class _PathParser(flags.ArgumentParser):
    """Expands `~`, which shells leave alone in `--data_dir=~/music`."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


class _LocalParser(_PathParser):
    """Takes no URLs."""

    def parse(self, argument: str) -> str:
        if storage.is_url(argument):
            raise ValueError("must be on this machine")
        return super().parse(argument)


class _StartParser(_PathParser):
    """Takes `none` and `starter` for no start and the starter's folder."""

    def parse(self, argument: str) -> str | None:  # type: ignore[override]
        if argument == "none":
            return None
        if argument != "starter":
            return super().parse(argument)
        try:
            return str(starter.folder())
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error


def define_path(
    name: str, default: str | None, text: str, *, is_local: bool = False
) -> None:
    """Defines a flag that holds a path, or a URL unless `is_local`."""
    parser = _LocalParser() if is_local else _PathParser()
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE(parser, name, default, text, serializer=serializer)
    if not is_local:
        _pulled.append(name)


def define_paths(name: str, text: str) -> None:
    """Defines a repeatable flag that holds paths."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE_multi(_PathParser(), serializer, name, [], text)
    _pulled.append(name)


def pull() -> None:
    """Replaces URLs in flags by their places in the cache, brought up to date."""
    for flag in (FLAGS[name] for name in _pulled):
        if isinstance(flag.value, list):
            flag.value = [_place(path) for path in flag.value]
        elif flag.value:
            flag.value = _place(flag.value)


def _place(path: str) -> str:
    return str(storage.pulled(path)) if storage.is_url(path) else path


def define_start(default: str = "none") -> None:
    """Defines --start; its help says what an absent one means, `default`."""
    text = (
        "Finished pre-training run or exported tagger; starter: the one that ships; "
        f"none: random weights. By default {default}."
    )
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    flags.DEFINE(_StartParser(), "start", None, text, serializer=serializer)
    _pulled.append("start")


def define_features_in() -> None:
    """Defines --features_in, for tools that train or evaluate."""
    flags.DEFINE_enum(
        "features_in",
        "auto",
        ["auto", "memory", "disk"],
        "Where features are during training. The result is the same; auto: in memory "
        "if they take at most half of what is free.",
    )


def define_workers() -> None:
    """Defines --workers, for tools whose work can be divided."""
    flags.DEFINE_integer(
        "workers",
        1,
        "Processes that share the work; 1 works in the tool's own.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "ray",
        None,
        "Address of a Ray cluster that does the work; auto: that of this machine.",
    )


def executor(prepare: Callable[[], None] | None = None) -> workers.Executor | None:
    """Returns what runs units of work; None for this process.

    Each other process calls `prepare`, as this one has, so that results are the same.
    """
    from genre_tl import workers

    if FLAGS.ray and FLAGS.workers > 1:
        raise app.UsageError("give --workers or --ray, not both")
    if not FLAGS.ray and FLAGS.workers == 1:
        return None
    chosen = workers.Ray(FLAGS.ray) if FLAGS.ray else workers.Pool(FLAGS.workers)
    return workers.Prepared(chosen, prepare) if prepare else chosen


def define_model() -> None:
    """Defines --model, an export."""
    text = "Export: a version, or the folder of versions. By default the starter."
    define_path("model", None, text)


def model() -> str:
    """Returns --model; if absent, the starter, and says so on the standard error."""
    if FLAGS.model:
        return FLAGS.model
    path = str(starter.folder())
    terminal.say(f"using the starter, {path}; --model gives another", sys.stderr)
    return path


flags.DEFINE_float(
    "max_secs", None, "Use only the first seconds of each file; 0 uses all.", 0.0
)
flags.disclaim_key_flags()  # A path that is defined later is a flag of its tool.
