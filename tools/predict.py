r"""Names the genre (or tags) of music files with an exported model.

    python -m tools.predict song.mp3
    python -m tools.predict --model=saved_models/genres song.mp3 albums/ '*.flac'
    find /music -name '*.mp3' -print0 | python -m tools.predict --null - \
        --output=scores.csv --embeddings=vectors.npz

Folders are searched recursively; hidden files are skipped. Files, folders and outputs
may be URLs, such as s3://bucket/albums (docs/scale.md). `-` reads a list of files
and folders from the standard input, one per line. Prints one line per file:

    song.mp3  rock 71 %, metal 20 %, blues 4 %

A file that resembles no training music, such as speech, is called "unlike the training
music"; with --min_precision=0.9 one whose genre is not that certain is "unsure".

Without --model the starter predicts, a tagger: each tag has a score of its own, and
the five highest are printed. A prefix names the teacher of a tag, as in msd:rock.

--format=json prints one object per line and --format=csv a table, both with the
scores of all labels. A file that cannot be used is reported on stderr and in its row;
the exit code is then 1. With --output or --embeddings, rerun the same command to
resume; the result is identical to an uninterrupted run.
"""

from __future__ import annotations

import codecs
import dataclasses
import errno
import hashlib
import importlib.util
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags

from genre_tl import files, storage

from . import command, common_flags, inputs, outputs, terminal

if TYPE_CHECKING:
    from genre_tl.serving import predictor

FLAGS = flags.FLAGS

flags.declare_key_flag("max_secs")
common_flags.define_model()
common_flags.define_workers()
flags.DEFINE_enum(
    "format", "text", ["text", "json", "csv"], "By default that of --output's suffix."
)
common_flags.define_path("output", None, "Output file instead of the standard output.")
flags.DEFINE_integer(
    "top_k",
    None,
    "Labels per file; 0 keeps all. By default 3 genres or 5 tags in text, else all.",
    lower_bound=0,
)
flags.DEFINE_float("threshold", 0, "Leave out labels with a lower score.", 0.0, 1.0)
flags.DEFINE_float(
    "min_precision",
    None,
    "0.9 or 0.95: call files unsure whose best genre is right less often, by the "
    "cross-validation of the model.",
)
flags.DEFINE_boolean("chart", False, "Draw bars instead of a line of text.")
flags.DEFINE_boolean(
    "bom", False, "Begin --output with a byte order mark, for a CSV that Excel opens."
)
flags.DEFINE_boolean("null", False, "The list of `-` is separated by NUL characters.")
common_flags.define_path("embeddings", None, "NPZ of `ids` (paths) and `vectors`.")
common_flags.define_path(
    "taggram", None, "Folder for scores over time: a plot and a CSV per file."
)

_GENRES, _TAGS = 3, 5  # shown in text

# Errors of one file name; any other concerns all files.
_NAME_ERRORS = ("ENAMETOOLONG", "EINVAL", "EILSEQ", "EISDIR", "ENOTDIR", "EEXIST")


def main(argv: list[str]) -> int:
    if not argv[1:]:
        raise app.UsageError("name the files or folders to predict")
    _check_flags()
    paths = inputs.files(argv[1:], null=FLAGS.null)
    from genre_tl.serving import predictor, runtimes

    model = predictor.Predictor(common_flags.model())
    if isinstance(model.runtime, runtimes.TensorFlowRuntime):
        command.skip_graph_rewriting()
    is_unicode = FLAGS.output or "utf" in (sys.stdout.encoding or "").lower()
    kind = "chart" if FLAGS.chart else FLAGS.format
    writer = outputs.Writer(
        kind,
        model.labels,
        _top_k(model),
        FLAGS.threshold,
        ascii_only=not is_unicode,
        lowest=_lowest(model),
    )
    if output := FLAGS.output or FLAGS.embeddings:
        with outputs.opened(output, _key(model, paths)) as chunks:
            failed = _predict(model, paths, writer, chunks)
            found = zip(map(storage.shown, paths), failed, strict=True)
            usable = [path for path, is_bad in found if not is_bad]
            _write_outputs(writer.head(), usable, chunks)
    else:
        failed = _predict(model, paths, writer, None)
    end = f"; {sum(failed)} failed" if any(failed) else ""
    _report(f"{failed.count(False)} of {len(paths)} files{end}")
    return int(any(failed))


def _check_flags() -> None:
    """Completes the flags, and refuses those that contradict each other."""
    for name in ("output", "embeddings"):
        path = FLAGS[name].value
        if path and os.path.lexists(path) and not os.path.isfile(path):
            raise ValueError(f"--{name}={path}: not a regular file; give another name")
    if FLAGS.embeddings and not FLAGS.embeddings.endswith(".npz"):
        raise app.UsageError(f"--embeddings={FLAGS.embeddings}: end the name in .npz")
    if FLAGS.output:
        suffix = pathlib.PurePath(FLAGS.output).suffix.lower()
        kind = outputs.SUFFIXES.get(suffix, FLAGS.format)
        if FLAGS["format"].present and FLAGS.format != kind:
            reason = f"--format={FLAGS.format} contradicts --output={FLAGS.output}"
            raise app.UsageError(reason)
        FLAGS["format"].value = kind
    if FLAGS.bom and not FLAGS.output:
        raise app.UsageError("--bom is for --output")
    if FLAGS.taggram and not importlib.util.find_spec("matplotlib"):
        raise ValueError("--taggram draws with matplotlib; `pip install matplotlib`")
    if FLAGS.chart and FLAGS.format != "text":
        raise app.UsageError(f"--chart needs text, not {FLAGS.format}")


def _top_k(model: predictor.Predictor) -> int:
    """Returns how many labels to show; 0 for all."""
    if FLAGS.top_k is not None or FLAGS.format != "text":
        return FLAGS.top_k or 0
    return _TAGS if model.is_tagger else _GENRES


def _lowest(model: predictor.Predictor) -> dict[str, float | None] | None:
    """Returns the lowest score of each genre for --min_precision, if it is given."""
    from genre_tl.serving import model_card

    if FLAGS.min_precision is None:
        return None
    known = model_card.read(model.folder).get("thresholds", {})
    if not known:
        raise ValueError(
            f"--min_precision: {model.folder} has no thresholds; export it with "
            "--cross_validation, as tools.train does unless --folds=0"
        )
    if f"{FLAGS.min_precision:g}" not in known:
        raise app.UsageError(
            f"--min_precision={FLAGS.min_precision:g}: {model.folder} has thresholds "
            f"for {', '.join(known)}; give one of them"
        )
    return dict(known[f"{FLAGS.min_precision:g}"]["genres"])


def _key(model: predictor.Predictor, paths: Sequence[str]) -> dict[str, Any]:
    """Returns what the outputs depend on."""
    from genre_tl.serving import model_card

    sums = (model.folder / model_card.SUMS).read_bytes()
    names = "format top_k threshold min_precision max_secs chart bom output "
    names += "embeddings taggram"
    return {
        "model": hashlib.sha256(sums).hexdigest(),
        "list of files": hashlib.sha256(os.fsencode("\0".join(paths))).hexdigest(),
        **{f"--{name}": FLAGS[name].value for name in names.split()},
    }


def _predict(
    model: predictor.Predictor,
    paths: Sequence[str],
    writer: outputs.Writer,
    chunks: outputs.Chunks | None,
) -> list[bool]:
    """Prints or stores the missing results; returns which files failed."""
    from genre_tl.serving import predictor

    _print(writer.head())
    failed: list[bool] = []
    for chunk in chunks or ():
        _print(chunk["text"].tobytes().decode())
        failed += chunk["failed"].tolist()
    if failed:
        _report(f"resuming after {len(failed)} of {len(paths)} files")
    texts: list[str] = []
    vectors: list[np.ndarray | None] = []
    for result in _results(model, paths, len(failed)):
        result = dataclasses.replace(result, path=storage.shown(result.path))
        failed.append(bool(result.error))
        if result.error:
            _report(f"{result.path}: {result.error}")
        elif FLAGS.embeddings:
            vectors.append(result.embedding)
        texts.append(writer.text(result))
        _print(texts[-1])
        if len(failed) % predictor.GROUP_FILES == 0 or len(failed) == len(paths):
            if chunks:
                text = "".join(texts).encode("utf-8", "backslashreplace")
                chunks.add(
                    text=np.frombuffer(text, np.uint8),
                    failed=np.array(failed[-len(texts) :]),
                    vectors=np.array(vectors, "<f4"),
                )
            texts, vectors = [], []
    return failed


def _results(
    model: predictor.Predictor, paths: Sequence[str], start: int
) -> Iterator[predictor.Result]:
    """Yields the results of the files from `start` on, and shows progress."""
    from genre_tl.serving import dividing, predictor, runtimes

    # On a terminal the results themselves are progress.
    is_shown = FLAGS.output is None and sys.stdout.isatty()
    show = (lambda done, total: None) if is_shown else terminal.meter("files")
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    base = os.path.commonpath(parents) if parents else os.curdir
    if FLAGS.taggram:
        os.makedirs(FLAGS.taggram, exist_ok=True)
    secs, taggrams = FLAGS.max_secs or None, bool(FLAGS.taggram)
    is_rewritten = isinstance(model.runtime, runtimes.TensorFlowRuntime)
    prepare = command.skip_graph_rewriting if is_rewritten else None
    if executor := common_flags.executor(prepare):
        job = dividing.Job(str(model.folder), secs, taggrams)
        results = dividing.predict(job, paths[start:], executor)
    else:
        results = predictor.predict(
            model, paths[start:], max_secs=secs, taggrams=taggrams
        )
    show(0, len(paths) - start)
    for done, result in enumerate(results, 1):
        try:
            if result.taggram:
                _write_taggram(result, model.labels, base)
        except OSError as error:
            if errno.errorcode.get(error.errno or 0) not in _NAME_ERRORS:
                raise
            reason = f"its --taggram cannot be written ({error.strerror})"
            result = dataclasses.replace(result, scores=None, error=reason)
        yield result
        show(done, len(paths) - start)


def _print(text: str) -> None:
    """Prints a text unless it goes to --output."""
    if FLAGS.output:
        return
    if sys.stdout.isatty():
        text = "\n".join(map(terminal.printable, text.split("\n")))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        if not (FLAGS.embeddings or FLAGS.taggram):
            raise
        command.drop_output()  # The other outputs are still wanted.


def _write_outputs(head: str, usable: Sequence[str], chunks: outputs.Chunks) -> None:
    if FLAGS.output:
        target = os.path.realpath(FLAGS.output)
        with files.whole(target) as path, open(path, "wb") as file:
            file.write(codecs.BOM_UTF8 if FLAGS.bom else b"")
            file.write(head.encode("utf-8", "backslashreplace"))
            file.writelines(chunk["text"].tobytes() for chunk in chunks)
    if not FLAGS.embeddings:
        return
    # What `np.savez` would write, but never all vectors in memory.
    width = max((chunk["vectors"].shape[-1] for chunk in chunks), default=0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(usable), width)}
    target = os.path.realpath(FLAGS.embeddings)
    with files.whole(target) as path, zipfile.ZipFile(path, "w") as archive:
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(usable, str))
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for chunk in chunks:
                member.write(chunk["vectors"].tobytes())


def _write_taggram(result: predictor.Result, labels: Sequence[str], base: str) -> None:
    from genre_tl.evaluation import plots

    assert result.taggram is not None
    times, scores = result.taggram
    name = os.path.relpath(os.path.abspath(result.path), base)
    target = os.path.join(FLAGS.taggram, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    lines = [outputs.csv_head(["secs"], labels)]
    for secs, row in zip(times, scores, strict=True):
        numbers = [f"{secs:.3f}", *(f"{score:.6f}" for score in row)]
        lines.append(outputs.csv_row(numbers))
    files.write_text(f"{target}.csv", "".join(lines))
    title = terminal.printable(os.path.basename(result.path))
    if len(times):
        plots.taggram(times, scores, labels, f"{target}.png", title=title)


def _report(text: str) -> None:
    # One line: a name may hold a line break.
    terminal.say(terminal.printable(text), sys.stderr)


def cli() -> None:
    command.halve_threads()
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
