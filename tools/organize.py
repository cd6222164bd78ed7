r"""Puts genres into the tags of music files, sorts files by genre, writes playlists.

    python -m tools.predict --model=saved_models/mine albums/ --output=scores.csv
    python -m tools.organize scores.csv --tag
    python -m tools.organize scores.csv --tag --playlists=lists --write
    python -m tools.organize albums/ --model=saved_models/mine --tag --write
    python -m tools.organize scores.csv --sort_into=sorted --how=move --write
    python -m tools.organize --undo=organize_undo.jsonl

Give a CSV or JSON lines of tools.predict, or files and folders, which --model
predicts first; without --model the starter does. Without --write, nothing is changed:
the program prints what it would do. One line on stderr names each file that cannot be
changed, and the exit code is then 1; the other files are done.

Only empty genre tags are written, unless --replace is given. Audio is never changed.
All changes are recorded in --undo_file first. Rerun the same command to finish an
interrupted run; --undo takes the last run back.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

from genre_tl import files
from genre_tl.library import changes, genres, journal, organizing

from . import command, common_flags, inputs, outputs, terminal

FLAGS = flags.FLAGS

flags.declare_key_flag("max_secs")
common_flags.define_model()
flags.DEFINE_boolean("tag", False, "Write genres into empty genre tags.")
flags.DEFINE_boolean("replace", False, "With --tag: replace other genres too.")
flags.DEFINE_boolean("keep_times", False, "Keep the modification times of files.")
common_flags.define_path(
    "sort_into", "", "Folder for one folder per genre.", is_local=True
)
flags.DEFINE_enum("how", changes.HOW[0], changes.HOW, "How files get there.")
common_flags.define_path(
    "playlists", "", "Folder for one M3U8 playlist per genre.", is_local=True
)
flags.DEFINE_float("min_score", 0.5, "Least score of a genre.", 0.0, 1.0)
flags.DEFINE_integer("max_genres", 1, "Genres per file at most.", lower_bound=1)
flags.DEFINE_string(
    "genres",
    "",
    "Labels that are genres: rock,msd:punk=Punk. By default all labels of a "
    "classifier; of a tagger those that docs/organize.md lists.",
)
flags.DEFINE_boolean("write", False, "Do it. By default nothing is changed.")
common_flags.define_path(
    "undo_file", "organize_undo.jsonl", "Records the changes, to finish or undo them."
)
common_flags.define_path(
    "undo", None, "Undo the last run that this file records.", is_local=True
)

_TABLES = [suffix for suffix, kind in outputs.SUFFIXES.items() if kind != "text"]
_ACTIONS = "tag sort_into playlists"
_CHOICES = "tag replace keep_times sort_into how playlists min_score max_genres genres"

Genres = tuple[str, tuple[str, ...], str]  # of a file: path, genres, error


def main(argv: list[str]) -> int:
    if FLAGS.undo:
        return _undo(argv[1:])
    table = _check(argv[1:])
    options = organizing.Options(
        tag=FLAGS.tag,
        replace=FLAGS.replace,
        keep_times=FLAGS.keep_times,
        sort_into=FLAGS.sort_into,
        how=FLAGS.how,
        playlists=FLAGS.playlists,
    )
    if not FLAGS.write:
        return _organize(organizing.items(_genres(table, argv[1:]), options), options)
    with files.lock(FLAGS.undo_file):
        log = journal.Journal(FLAGS.undo_file)
        key = _key(table, argv[1:])
        if log.run.get("key") == key and not log.is_done:
            todo = organizing.from_record(log.run["items"])
            changes.clean(log, organizing.folders(todo, options))
            terminal.say(f"resuming the run in {FLAGS.undo_file}", sys.stderr)
        else:
            todo = organizing.items(_genres(table, argv[1:]), options)
            record = organizing.to_record(todo)
            log.begin(key=key, playlists=options.playlists, items=record)
        return _organize(todo, options, log)


def _check(args: Sequence[str]) -> str:
    """Refuses flags that contradict each other; returns the table, if one is given."""
    if not args:
        raise app.UsageError("name a table of tools.predict, or files and folders")
    if not any(FLAGS[name].value for name in _ACTIONS.split()):
        raise app.UsageError("say what to do: --tag, --sort_into or --playlists")
    for name, other in (
        ("replace", "tag"),
        ("keep_times", "tag"),
        ("how", "sort_into"),
    ):
        if FLAGS[name].present and not FLAGS[other].value:
            raise app.UsageError(f"--{name} needs --{other}")
    tables = [x for x in args if pathlib.PurePath(x).suffix.lower() in _TABLES]
    if not tables:
        return ""
    if args[1:]:
        raise app.UsageError(f"{tables[0]} is a table: give it alone, or audio files")
    for name in ("model", "max_secs"):
        if FLAGS[name].present:
            raise app.UsageError(f"--{name} is for audio files, not for {tables[0]}")
    return tables[0]


def _genres(table: str, args: Sequence[str]) -> Iterator[Genres]:
    """Yields the genres of each file: of the table, or of a prediction."""
    if not table:
        yield from _predicted(args)
        return
    labels: dict[str, None] = {}
    is_tagger = False
    for row in outputs.read(table):
        labels |= dict.fromkeys(row.scores)
        is_tagger = is_tagger or genres.are_tags(row.scores, [row.scores.values()])
    if not labels:
        raise ValueError(f"{table}: no file has scores")
    names = _names(list(labels), is_tagger)
    for each in outputs.read(table):
        error = each.error and f"no prediction: {each.error}"
        scores = {} if each.verdict else each.scores
        yield each.path, _chosen(scores, names), error


def _predicted(args: Sequence[str]) -> Iterator[Genres]:
    paths = inputs.files(args)
    if FLAGS.sort_into:
        top = os.path.join(os.path.abspath(FLAGS.sort_into), "")
        paths = [x for x in paths if not os.path.abspath(x).startswith(top)]
    from genre_tl.serving import predictor

    command.skip_graph_rewriting()
    model = predictor.Predictor(common_flags.model())
    names = _names(model.labels, model.is_tagger)
    show = terminal.meter("files")
    show(0, len(paths))
    results = predictor.predict(model, paths, max_secs=FLAGS.max_secs or None)
    for done, result in enumerate(results, 1):
        found: dict[str, float] = {}
        if result.scores is not None and result.has_sound and not result.is_unfamiliar:
            scores = map(float, result.scores)
            found = dict(zip(model.labels, scores, strict=True))
        error = result.error and f"no prediction: {result.error}"
        yield result.path, _chosen(found, names), error
        show(done, len(paths))


def _names(labels: Sequence[str], is_tagger: bool) -> dict[str, str]:
    try:
        return genres.names(labels, is_tagger=is_tagger, chosen=FLAGS.genres)
    except ValueError as error:
        raise ValueError(f"--genres={FLAGS.genres}: {error}") from error


def _chosen(scores: dict[str, float], names: dict[str, str]) -> tuple[str, ...]:
    limits = {"min_score": FLAGS.min_score, "max_genres": FLAGS.max_genres}
    return genres.choose(scores, names, **limits)


def _key(table: str, args: Sequence[str]) -> dict[str, Any]:
    """Returns what says whether a command is that of a run that was not finished."""
    folder = os.path.abspath(FLAGS.model) if FLAGS.model else ""
    digest = files.sha256(table) if table else ""
    paths = hashlib.sha256(os.fsencode("\0".join(map(os.path.abspath, args))))
    key = {name: FLAGS[name].value for name in (*_CHOICES.split(), "max_secs")}
    return {**key, "model": folder, "table": digest, "arguments": paths.hexdigest()}


def _organize(
    todo: Sequence[organizing.Item],
    options: organizing.Options,
    log: journal.Journal | None = None,
) -> int:
    """Does or shows what is to be done, and returns the exit code."""
    num_changed = num_failed = 0
    for outcome in organizing.organize(todo, options, log):
        path = terminal.printable(os.path.relpath(outcome.path))
        for line in outcome.lines:
            terminal.say(f"{path}  {line}")
        if outcome.error:
            terminal.say(f"{path}: {terminal.printable(outcome.error)}", sys.stderr)
        num_changed += bool(outcome.lines)
        num_failed += bool(outcome.error)
    without = sum(not (item.genres or item.error) for item in todo)
    parts = [
        f"{num_changed} changed" if log else f"{num_changed} to change: use --write",
        f"{without} without a genre of at least {FLAGS.min_score:g}" * bool(without),
        f"{num_failed} failed" * bool(num_failed),
        f"--undo={FLAGS.undo_file} undoes it" * bool(log and num_changed),
    ]
    terminal.say("; ".join(filter(None, parts)), sys.stderr)
    if log:
        log.finish()
    return int(num_failed > 0)


def _undo(args: Sequence[str]) -> int:
    if args or FLAGS.write:
        raise app.UsageError("--undo takes no other arguments")
    if not os.path.isfile(FLAGS.undo):
        raise ValueError(f"--undo={FLAGS.undo}: no such file")
    with files.lock(FLAGS.undo):
        log = journal.Journal(FLAGS.undo)
        if not log.run:
            raise ValueError(f"--undo={FLAGS.undo}: records no run")
        todo = organizing.from_record(log.run["items"])
        options = organizing.Options(playlists=log.run["playlists"])
        changes.clean(log, organizing.folders(todo, options))
        failed = done = 0
        for path, reason in changes.undo(log):
            done += 1
            if reason:
                failed += 1
                text = f"{os.path.relpath(path)}: {reason}"
                terminal.say(terminal.printable(text), sys.stderr)
        if not failed:
            log.drop()
    end = f"; {failed} failed" if failed else ""
    terminal.say(f"{done - failed} changes undone{end}", sys.stderr)
    return int(failed > 0)


def cli() -> None:
    command.halve_threads()
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
