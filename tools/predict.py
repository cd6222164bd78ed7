r"""Names the genre (or tags) of music files with an exported model.

    python -m tools.predict --model=saved_models/genres song.mp3 albums/ '*.flac'
    find /music -name '*.mp3' -print0 | python -m tools.predict --null - \
        --output=scores.csv --embeddings=vectors.npz

Folders are searched recursively; hidden files are skipped. `-` reads a list of files
and folders from the standard input, one per line. Prints one line per file:

    song.mp3  rock 71 %, metal 20 %, blues 4 %

--format=json prints one object per line and --format=csv a table, both with the
scores of all labels. A file that cannot be used is reported on stderr and in its row;
the exit code is then 1. With --output or --embeddings, rerun the same command to
resume; the result is identical to an uninterrupted run.
"""

from __future__ import annotations

import collections
import errno
import glob
import hashlib
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags

from genre_tl import files

from . import command, result_formats, terminal, unfinished

if TYPE_CHECKING:
    from genre_tl.serving import predictor

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "model", "saved_models/genres", "Export: a version, or the folder of versions."
)
flags.DEFINE_enum(
    "format",
    "text",
    ["text", "json", "csv"],
    "Output format; by default that of the suffix of --output.",
)
flags.DEFINE_string("output", None, "Output file instead of the standard output.")
flags.DEFINE_integer(
    "top_k",
    None,
    "Number of labels per file, best first; 0 keeps all. By default 3 in text, all in "
    "JSON and CSV.",
    lower_bound=0,
)
flags.DEFINE_float("threshold", 0, "Leave out labels with a lower score.", 0.0, 1.0)
flags.DEFINE_float(
    "max_secs", 0, "Use at most this much of each file; 0 uses all.", lower_bound=0
)
flags.DEFINE_boolean("chart", False, "Draw bars instead of a line of text.")
flags.DEFINE_boolean("null", False, "The list of `-` is separated by NUL characters.")
flags.DEFINE_string(
    "embeddings",
    None,
    "NPZ file for one embedding per file: `ids` (paths) and `vectors`.",
)
flags.DEFINE_string(
    "taggram",
    None,
    "Folder for scores over time: a plot and a CSV per file, keeping the folder "
    "structure.",
)

# Errors of one file name; any other concerns all files.
_NAME_ERRORS = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
}


def main(argv: list[str]) -> int:
    if not argv[1:]:
        raise app.UsageError("name the files or folders to predict")
    _check_flags()
    paths = list(_files(_listed(argv[1:])))
    from genre_tl.serving import predictor

    command.skip_graph_rewriting()
    model = predictor.Predictor(FLAGS.model)
    output = FLAGS.output or FLAGS.embeddings
    if output:
        with unfinished.opened(output, _key(model, paths)) as chunks:
            num_failed = _predict(model, paths, chunks)
            _write_outputs(_writer(model.labels).head(), paths, chunks)
    else:
        num_failed = _predict(model, paths, None)
    failed = f"; {num_failed} failed" if num_failed else ""
    _report(f"{len(paths) - num_failed} of {len(paths)} files{failed}")
    return 1 if num_failed else 0


def _check_flags() -> None:
    """Completes the flags, and refuses those that contradict each other."""
    for name in ("model", "output", "embeddings", "taggram"):
        FLAGS[name].value = os.path.expanduser(FLAGS[name].value or "") or None
    for name in ("output", "embeddings"):
        path = FLAGS[name].value
        if path and os.path.lexists(path) and not os.path.isfile(path):
            raise ValueError(f"--{name}={path}: not a regular file; give another name")
    if FLAGS.embeddings and not FLAGS.embeddings.endswith(".npz"):
        raise app.UsageError(f"--embeddings={FLAGS.embeddings}: end the name in .npz")
    if FLAGS.output:
        suffix = pathlib.PurePath(FLAGS.output).suffix.lower()
        kind = result_formats.SUFFIXES.get(suffix, FLAGS.format)
        if FLAGS["format"].present and FLAGS.format != kind:
            raise app.UsageError(
                f"--format={FLAGS.format} contradicts --output={FLAGS.output}"
            )
        FLAGS["format"].value = kind
    if FLAGS.chart and FLAGS.format != "text":
        raise app.UsageError(f"--chart needs text, not {FLAGS.format}")


def _listed(names: Iterable[str]) -> Iterator[str]:
    """Yields the names on the command line, with `-` and patterns expanded."""
    for name in map(os.path.expanduser, names):
        if name == "-":
            separator = b"\0" if FLAGS.null else b"\n"
            lines = sys.stdin.buffer.read().split(separator)
            yield from (os.fsdecode(line) for line in lines if line)
        elif glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise ValueError(f"{name}: no file matches this pattern")
            yield from found
        else:
            yield name


def _files(names: Iterable[str]) -> Iterator[str]:
    """Yields files in the order given, and those in folders, sorted."""
    from genre_tl.data import audio_files

    skipped: collections.Counter[str] = collections.Counter()
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = []
        for path in audio_files.walk(pathlib.Path(name)):
            suffix = path.suffix.lower()
            if suffix in audio_files.AUDIO_SUFFIXES or path.is_dir():
                found.append(str(path))
            skipped[suffix] += suffix in audio_files.OTHER_AUDIO
        if not found and not skipped.total():
            raise ValueError(f"{name}: no audio files in this folder")
        yield from sorted(found)
    if skipped.total():
        counts = ", ".join(f"{n} {suffix}" for suffix, n in skipped.items() if n)
        _report(f"skipped: {counts} (unsupported; convert them to FLAC or MP3)")


def _key(model: predictor.Predictor, paths: Sequence[str]) -> dict[str, Any]:
    """Returns what the outputs depend on."""
    parts = sorted(path for path in model.folder.rglob("*") if path.is_file())
    digests = [hashlib.sha256(part.read_bytes()).digest() for part in parts]
    names = ("format", "top_k", "threshold", "max_secs", "chart", "output")
    return {
        "model": hashlib.sha256(b"".join(digests)).hexdigest(),
        "list of files": hashlib.sha256(os.fsencode("\0".join(paths))).hexdigest(),
        **{f"--{name}": FLAGS[name].value for name in names},
        "--embeddings": FLAGS.embeddings,
        "--taggram": FLAGS.taggram,
    }


def _predict(
    model: predictor.Predictor, paths: Sequence[str], chunks: unfinished.Chunks | None
) -> int:
    """Prints or stores the missing results; returns the number of failed files."""
    from genre_tl.serving import predictor

    writer, num_failed, start = _writer(model.labels), 0, 0
    _print(writer.head())
    for chunk in chunks or ():
        _print(chunk["text"].tobytes().decode())
        num_failed += chunk["failed"].sum()
        start += len(chunk["failed"])
    if start:
        _report(f"resuming after {start} of {len(paths)} files")
    group: list[tuple[str, predictor.Result]] = []
    for done, result in enumerate(_results(model, paths, start), start + 1):
        if result.error:
            num_failed += 1
            _report(f"{result.path}: {result.error}")
        group.append((writer.text(result), result))
        _print(group[-1][0])
        if done % predictor.GROUP_FILES == 0 or done == len(paths):
            _store(group, chunks)
            group = []
    return num_failed


def _results(
    model: predictor.Predictor, paths: Sequence[str], start: int
) -> Iterator[predictor.Result]:
    """Yields the results of the files from `start` on, and shows progress."""
    from genre_tl.serving import predictor

    # On a terminal the results themselves are progress.
    is_shown = FLAGS.output is None and sys.stdout.isatty()
    show = (lambda done, total: None) if is_shown else terminal.meter("files")
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    base = os.path.commonpath(parents) if parents else os.curdir
    if FLAGS.taggram:
        os.makedirs(FLAGS.taggram, exist_ok=True)
    results = predictor.predict(
        model,
        paths[start:],
        max_secs=FLAGS.max_secs or None,
        embeddings=bool(FLAGS.embeddings),
        taggrams=bool(FLAGS.taggram),
    )
    show(0, len(paths) - start)
    for done, result in enumerate(results, 1):
        if result.taggram is not None:
            result = _with_taggram(result, model.labels, base)
        yield result
        show(done, len(paths) - start)


def _writer(labels: Sequence[str]) -> result_formats.Writer:
    is_unicode = FLAGS.output or "utf" in (sys.stdout.encoding or "").lower()
    kind = "chart" if FLAGS.chart else FLAGS.format
    return result_formats.Writer(
        kind, labels, FLAGS.top_k, FLAGS.threshold, ascii_only=not is_unicode
    )


def _print(text: str) -> None:
    """Prints a text unless it goes to --output."""
    if FLAGS.output:
        return
    if sys.stdout.isatty():
        text = "\n".join(map(result_formats.printable, text.split("\n")))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        if not (FLAGS.embeddings or FLAGS.taggram):
            raise
        command.drop_output()  # The other outputs are still wanted.


def _store(
    group: Sequence[tuple[str, predictor.Result]], chunks: unfinished.Chunks | None
) -> None:
    if chunks is None:
        return
    texts = "".join(text for text, _ in group).encode("utf-8", "backslashreplace")
    vectors = [r.embedding for _, r in group if not r.error and r.embedding is not None]
    chunks.add(
        text=np.frombuffer(texts, np.uint8),
        failed=np.array([bool(result.error) for _, result in group]),
        vectors=np.array(vectors, "<f4"),
    )


def _write_outputs(head: str, paths: Sequence[str], chunks: unfinished.Chunks) -> None:
    if FLAGS.embeddings:
        _write_npz(paths, chunks)
    if FLAGS.output:
        target = os.path.realpath(FLAGS.output)
        with files.whole(target) as path, open(path, "wb") as file:
            file.write(head.encode("utf-8", "backslashreplace"))
            file.writelines(chunk["text"].tobytes() for chunk in chunks)
    chunks.remove()


def _write_npz(paths: Sequence[str], chunks: unfinished.Chunks) -> None:
    """Writes what `np.savez` would, but never holds all vectors in memory."""
    failed = [is_failed for chunk in chunks for is_failed in chunk["failed"]]
    ids = [path for path, is_bad in zip(paths, failed, strict=True) if not is_bad]
    width = max((chunk["vectors"].shape[-1] for chunk in chunks), default=0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), width)}
    target = os.path.realpath(FLAGS.embeddings)
    with files.whole(target) as path, zipfile.ZipFile(path, "w") as archive:
        with archive.open("ids.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.array(ids, str))
        with archive.open("vectors.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(chunk["vectors"].tobytes())


def _with_taggram(
    result: predictor.Result, labels: Sequence[str], base: str
) -> predictor.Result:
    """Writes scores over time; an impossible file name is an error of its file."""
    from genre_tl.serving import predictor

    try:
        _write_taggram(result, labels, base)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        reason = f"its --taggram cannot be written ({error.strerror})"
        return predictor.Result(result.path, None, error=reason)
    return result


def _write_taggram(result: predictor.Result, labels: Sequence[str], base: str) -> None:
    from genre_tl.evaluation import plots

    assert result.taggram is not None
    times, scores = result.taggram
    name = os.path.relpath(os.path.abspath(result.path), base)
    target = os.path.join(FLAGS.taggram, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    head = result_formats.csv_row(["secs", *labels]).rstrip("\n")
    formats = ["%.3f", *["%.6f"] * len(labels)]
    with files.whole(f"{target}.csv") as path:
        rows = np.column_stack([times, scores])
        np.savetxt(path, rows, formats, ",", header=head, comments="", encoding="utf-8")
    title = result_formats.printable(os.path.basename(result.path))
    if len(times):
        plots.taggram(times, scores, labels, f"{target}.png", title=title)


def _report(text: str) -> None:
    terminal.say(result_formats.printable(text), sys.stderr)


def cli() -> None:
    command.halve_threads()
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
