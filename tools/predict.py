"""Names the genre (or tags) of music files with an exported model.

    python -m tools.predict --model=saved_models/genres song.mp3 albums/

Folders are searched to the bottom for audio files. Prints a line a file:

    song.mp3  rock 71 %, metal 20 %, blues 4 %

--format=json gives an object a line and --format=csv a table, both with the scores
of all labels, for programs to read. A file that cannot be used is named on stderr
with the reason, and has a row with it in JSON and CSV; the others go on, and the
exit status is 1.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

import numpy as np
from absl import app, flags

from . import command

if TYPE_CHECKING:
    from genre_tl import audio, serving

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "model", "saved_models/genres", "Export: the folder of its versions, or of one."
)
flags.DEFINE_enum("format", "text", ["text", "json", "csv"], "What is written.")
flags.DEFINE_string("output", None, "File to write instead of the standard output.")
flags.DEFINE_integer(
    "top_k", 3, "Labels shown of each file in text; 0 shows all.", lower_bound=0
)
flags.DEFINE_float(
    "max_secs", 0, "Use no more than this of each file; 0 uses all.", lower_bound=0
)
flags.DEFINE_boolean("chart", False, "Draw bars instead of a line of text.")

# Clips scored in one go, unless they are longer than this together.
_GROUP_CLIPS, _GROUP_SAMPLES = 32, 600 * 16_000


class _Result(NamedTuple):
    """What became of a file: scores `[labels]`, or an error."""

    path: str
    scores: np.ndarray | None
    note: str
    error: str


_Format = Callable[[_Result], str]


def main(argv: list[str]) -> int:
    if not argv[1:]:
        raise app.UsageError("name the files or folders to predict")
    if FLAGS.chart and FLAGS.format != "text":
        raise app.UsageError("--chart is a form of --format=text")
    paths = list(_files(argv[1:]))
    from genre_tl import audio, serving

    with _output(FLAGS.output) as stream:
        predictor = serving.Predictor(FLAGS.model)
        clips = audio.read(paths, max_secs=FLAGS.max_secs or None)
        head, text_of = _formatter(predictor.labels, stream)
        stream.write(head)
        num_failed = 0
        for result in _metered(_results(predictor, clips), len(paths), stream):
            if result.error:
                num_failed += 1
                _tell(f"{_shown(result.path)}: {result.error}")
            stream.write(text_of(result))
            stream.flush()
    failed = f"; {num_failed} failed" if num_failed else ""
    _tell(f"{len(paths) - num_failed} of {len(paths)} files{failed}")
    return 1 if num_failed else 0


def _files(names: Iterable[str]) -> Iterator[str]:
    """Yields the files, in the order given, and those in the folders, sorted."""
    from genre_tl import datasets

    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(
            os.path.join(folder, file)
            for folder, _, files in os.walk(name, onerror=_refuse)
            for file in files
            if pathlib.PurePath(file).suffix.lower() in datasets.AUDIO_SUFFIXES
            and not file.startswith(".")
        )
        if not found:
            raise ValueError(f"{name}: no audio files in this folder")
        yield from found


def _refuse(error: OSError) -> NoReturn:
    raise error


def _results(
    predictor: serving.Predictor, clips: Iterable[audio.Clip]
) -> Iterator[_Result]:
    """Yields a result a clip, in order, holding few clips at a time."""
    group: list[audio.Clip] = []
    num_samples = 0
    for clip in clips:
        group.append(clip)
        num_samples += 0 if clip.waveform is None else len(clip.waveform)
        if len(group) == _GROUP_CLIPS or num_samples > _GROUP_SAMPLES:
            yield from _score(predictor, group)
            group, num_samples = [], 0
    yield from _score(predictor, group)


def _score(
    predictor: serving.Predictor, clips: Sequence[audio.Clip]
) -> Iterator[_Result]:
    waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
    scores = iter(predictor.scores(waveforms))
    for clip in clips:
        score = None if clip.waveform is None else next(scores)
        yield _Result(clip.path, score, clip.note, clip.error)


def _metered(
    results: Iterable[_Result], total: int, stream: TextIO
) -> Iterator[_Result]:
    # On a terminal the results themselves show how far it is.
    show = None if stream.isatty() else command.meter("files")
    for done, result in enumerate(results):
        if show:
            show(done, total)
        yield result
    if show:
        show(total, total)


def _formatter(labels: Sequence[str], stream: TextIO) -> tuple[str, _Format]:
    """Returns what comes first, and what makes a result text."""
    if FLAGS.format == "csv":
        columns = ["path", "best", "note", "error", *labels]
        return _csv_row(columns), lambda result: _csv_row(_cells(result, labels))
    if FLAGS.format == "json":
        return "", lambda result: _json(result, labels)
    if FLAGS.chart:
        width = shutil.get_terminal_size().columns - 1
        ascii_only = "utf" not in (stream.encoding or "").lower()
        return "", lambda result: _chart(result, labels, width, ascii_only)
    return "", lambda result: _line(result, labels)


def _ranked(scores: np.ndarray, labels: Sequence[str]) -> Mapping[str, float]:
    order = np.argsort(-scores, kind="stable")
    return {labels[i]: round(float(scores[i]), 6) for i in order}


def _json(result: _Result, labels: Sequence[str]) -> str:
    values: dict[str, Any] = {"path": result.path}
    if result.scores is not None:
        values["scores"] = _ranked(result.scores, labels)
    values |= {
        name: getattr(result, name)
        for name in ("note", "error")
        if getattr(result, name)
    }
    # Escaped, so that a name that is no valid text comes through as well.
    return json.dumps(values) + "\n"


def _cells(result: _Result, labels: Sequence[str]) -> list[str]:
    best, scores = "", [""] * len(labels)
    if result.scores is not None:
        best = labels[int(result.scores.argmax())]
        scores = [f"{score:.6f}" for score in result.scores]
    return [result.path, best, result.note, result.error, *scores]


def _csv_row(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _line(result: _Result, labels: Sequence[str]) -> str:
    if result.scores is None:
        return ""  # stderr has it
    ranked = list(_ranked(result.scores, labels).items())[: FLAGS.top_k or None]
    shown = ", ".join(f"{label} {100 * score:.0f} %" for label, score in ranked)
    note = f"  ({result.note})" if result.note else ""
    return f"{_shown(result.path)}  {shown}{note}\n"


def _chart(result: _Result, labels: Sequence[str], width: int, ascii_only: bool) -> str:
    from genre_tl import evaluation

    if result.scores is None:
        return ""
    bars = evaluation.bar_chart(
        result.scores,
        labels,
        max(width, 40),
        top=FLAGS.top_k or None,
        ascii_only=ascii_only,
    )
    note = f"  ({result.note})" if result.note else ""
    return f"{_shown(result.path)}{note}\n{bars}\n\n"


def _tell(text: str) -> None:
    """Prints to stderr, in the place of the meter if there is one."""
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(start + text, file=sys.stderr)


def _shown(path: str) -> str:
    """Returns a file name without anything that a terminal would act on."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Yields the standard output, or a file that appears when all is written."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    partial = f"{path}.partial"
    try:
        with open(
            partial, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            yield file
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
