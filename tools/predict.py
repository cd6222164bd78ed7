"""Names the genre (or tags) of music files with an exported model.

    python -m tools.predict --model=saved_models/genres song.mp3 albums/ '*.flac'
    find /music -name '*.mp3' -print0 | python -m tools.predict --null - \
        --format=csv --output=scores.csv --embeddings=vectors.npz

Folders are searched to the bottom for audio files, but not where they are hidden; `-`
reads a list of files and folders from the standard input, one a line. Prints a line a
file:

    song.mp3  rock 71 %, metal 20 %, blues 4 %

--format=json gives an object a line and --format=csv a table, both with the scores
of all labels, for programs to read. A file that cannot be used is named on stderr
with the reason, and has a row with it in JSON and CSV; the others go on, and the
exit status is 1.

With --output or --embeddings the same command goes on where it was stopped, however
that was, and ends with the bytes of a call that was not. The files have their names
once all is done; until then they end in .partial.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags

from genre_tl import files

from . import command, journal, result_formats, terminal

if TYPE_CHECKING:
    from genre_tl import serving
    from genre_tl.serving import prediction

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "model", "saved_models/genres", "Export: the folder of its versions, or of one."
)
flags.DEFINE_enum("format", "text", ["text", "json", "csv"], "What is written.")
flags.DEFINE_string("output", None, "File to write instead of the standard output.")
flags.DEFINE_integer(
    "top_k",
    None,
    "Labels kept of each file, the best ones; 0 keeps all. 3 in text and all "
    "elsewhere if not given.",
    lower_bound=0,
)
flags.DEFINE_float("threshold", 0, "Leave out labels with a lower score.", 0.0, 1.0)
flags.DEFINE_float(
    "max_secs", 0, "Use no more than this of each file; 0 uses all.", lower_bound=0
)
flags.DEFINE_boolean("chart", False, "Draw bars instead of a line of text.")
flags.DEFINE_boolean(
    "null", False, "NUL characters, not line ends, divide the list of files of `-`."
)
flags.DEFINE_string(
    "embeddings", None, "NPZ file for a vector a file: `ids` (paths) and `vectors`."
)
flags.DEFINE_string(
    "taggram",
    None,
    "Folder for scores over time: of each file a picture and a CSV, in folders as "
    "theirs.",
)

# What the system has against one name; anything else is against all of them.
_ERRORS_OF_A_NAME = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
}


def main(argv: list[str]) -> int:
    if not argv[1:]:
        raise app.UsageError("name the files or folders to predict")
    if FLAGS.chart and FLAGS.format != "text":
        raise app.UsageError("--chart is a form of --format=text")
    paths = list(_files(_listed(argv[1:])))
    from genre_tl import serving

    command.skip_graph_rewriting()
    predictor = serving.Predictor(FLAGS.model)
    outputs = [path for path in (FLAGS.output, FLAGS.embeddings) if path]
    if outputs:
        with journal.opened(outputs, _key(predictor, paths)) as log:
            if log.done:
                _tell(f"going on after {log.done} of {len(paths)} files")
            num_failed = _predict(predictor, paths, log)
            _publish(log, paths)
    else:
        num_failed = _predict(predictor, paths, None)
    failed = f"; {num_failed} failed" if num_failed else ""
    _tell(f"{len(paths) - num_failed} of {len(paths)} files{failed}")
    return 1 if num_failed else 0


def _listed(names: Iterable[str]) -> Iterator[str]:
    """Yields what is named, by a glob or the standard input too."""
    for name in names:
        if name == "-":
            separator = b"\0" if FLAGS.null else b"\n"
            lines = sys.stdin.buffer.read().split(separator)
            yield from (os.fsdecode(line) for line in lines if line)
        elif glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise ValueError(f"{name}: nothing is called so")
            yield from found
        else:
            yield name


def _files(names: Iterable[str]) -> Iterator[str]:
    """Yields the files, in the order given, and those in the folders, sorted."""
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(_within(name))
        if not found:
            raise ValueError(f"{name}: no audio files in this folder")
        yield from found


def _within(top: str) -> Iterator[str]:
    """Yields the audio files of a folder, and the folders that cannot be read.

    Links to folders are followed, but a folder that was met before is passed over.
    """
    from genre_tl.data import audio_files

    tops, met, closed = [top], set(), []
    for start in tops:  # It grows: links come after what is there itself.
        for folder, below, names in os.walk(
            start, onerror=lambda error: closed.append(error.filename)
        ):
            if (real := os.path.realpath(folder)) in met:
                below.clear()
                continue
            met.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))
            paths = [os.path.join(folder, name) for name in below]
            tops += filter(os.path.islink, paths)
            for name in names:
                suffix = pathlib.PurePath(name).suffix.lower()
                if suffix in audio_files.AUDIO_SUFFIXES and not name.startswith("."):
                    yield os.path.join(folder, name)
    yield from closed


def _key(predictor: serving.Predictor, paths: Sequence[str]) -> dict[str, Any]:
    """Returns what the outputs depend on, under the names that users know."""
    from genre_tl.features import feature_store

    parts = sorted(path for path in predictor.folder.rglob("*") if path.is_file())
    model = "".join(feature_store.sha256(part) for part in parts)
    names = ("format", "top_k", "threshold", "max_secs", "chart", "output")
    return {
        "model": hashlib.sha256(model.encode()).hexdigest(),
        "list of files": hashlib.sha256(os.fsencode("\0".join(paths))).hexdigest(),
        **{f"--{name}": FLAGS[name].value for name in names},
        "--embeddings": FLAGS.embeddings,
        "--taggram": FLAGS.taggram,
    }


def _predict(
    predictor: serving.Predictor, paths: Sequence[str], log: journal.Journal | None
) -> int:
    """Writes a result a file, or those that are missing; returns how many failed."""
    from genre_tl.serving import prediction

    write = _text_writer(predictor.labels, log if FLAGS.output else None)
    failed: list[int] = log.notes.get("failed", []) if log else []
    start = log.done if log else 0
    base = _common_folder(paths)
    if FLAGS.taggram:
        os.makedirs(FLAGS.taggram, exist_ok=True)
    results = prediction.predict(
        predictor,
        paths[start:],
        max_secs=FLAGS.max_secs or None,
        embeddings=bool(FLAGS.embeddings),
        taggrams=bool(FLAGS.taggram),
    )
    for index, result in enumerate(_metered(results, len(paths) - start), start):
        if result.taggram is not None:
            result = _with_taggram(result, predictor.labels, base)
        if result.error:
            failed.append(index)
            _tell(f"{result_formats.shown(result.path)}: {result.error}")
        write(result)
        if log and result.embedding is not None:
            vector = result.embedding.astype("<f4")
            log.write(-1, vector.tobytes())
        if log and (index + 1) % prediction.GROUP_FILES == 0:
            log.commit(index + 1, {"failed": failed})
    if log:
        log.commit(len(paths), {"failed": failed})
    return len(failed)


def _metered(
    results: Iterable[prediction.Result], total: int
) -> Iterator[prediction.Result]:
    # On a terminal the results themselves show how far it is.
    is_shown = FLAGS.output is None and sys.stdout.isatty()
    show = (lambda done, total: None) if is_shown else terminal.meter("files")
    show(0, total)
    for done, result in enumerate(results, 1):
        yield result
        show(done, total)


def _text_writer(
    labels: Sequence[str], log: journal.Journal | None
) -> Callable[[prediction.Result], None]:
    """Begins the output and returns what goes on with it."""
    is_unicode = log or "utf" in (sys.stdout.encoding or "").lower()
    kind = "chart" if FLAGS.chart else FLAGS.format
    texts = result_formats.Writer(
        kind, labels, FLAGS.top_k, FLAGS.threshold, ascii_only=not is_unicode
    )

    def write(text: str) -> None:
        if log:
            log.write(0, text.encode("utf-8", "backslashreplace"))
        else:
            _print(text)

    if not log or not log.done:
        write(texts.head())
    return lambda result: write(texts.text(result))


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # The reader, such as `head`, has enough.
        if not (FLAGS.embeddings or FLAGS.taggram):
            raise
        command.drop_output()


def _publish(log: journal.Journal, paths: Sequence[str]) -> None:
    """Gives the finished files their names."""
    if FLAGS.embeddings:
        failed = set(log.notes["failed"])
        ids = [path for index, path in enumerate(paths) if index not in failed]
        _write_npz(f"{FLAGS.embeddings}.partial", ids)
    if FLAGS.output:
        log.publish(0)
    log.close()


def _write_npz(vectors_file: str, ids: Sequence[str]) -> None:
    import numpy as np

    vectors = np.zeros([0, 0], np.float32)
    if ids:
        flat = np.memmap(vectors_file, "<f4", mode="r")
        vectors = flat.reshape(len(ids), -1)
    unfinished = f"{FLAGS.embeddings}.unfinished"
    with files.named(unfinished):
        with open(unfinished, "wb") as file:
            np.savez(file, ids=np.array(ids, str), vectors=vectors)
        os.replace(unfinished, FLAGS.embeddings)


def _common_folder(paths: Sequence[str]) -> str:
    """Returns the folder that all files are in."""
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    return os.path.commonpath(parents) if parents else os.curdir


def _with_taggram(
    result: prediction.Result, labels: Sequence[str], base: str
) -> prediction.Result:
    """Writes scores over time; a name that this cannot be done for is an error."""
    from genre_tl.serving import prediction

    try:
        _write_taggram(result, labels, base)
    except OSError as error:
        if error.errno not in _ERRORS_OF_A_NAME:
            raise
        reason = f"its --taggram cannot be written ({error.strerror})"
        return prediction.Result(result.path, None, error=reason)
    return result


def _write_taggram(result: prediction.Result, labels: Sequence[str], base: str) -> None:
    from genre_tl.evaluation import plots

    assert result.taggram is not None
    times, scores = result.taggram.times_secs, result.taggram.scores
    name = os.path.relpath(os.path.abspath(result.path), base)
    target = os.path.join(FLAGS.taggram, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    lines = [
        ",".join([f"{secs:.3f}", *(f"{score:.6f}" for score in row)])
        for secs, row in zip(times, scores, strict=True)
    ]
    head = result_formats.csv_row(["secs", *labels])
    files.write_text(f"{target}.csv", head + "".join(f"{line}\n" for line in lines))
    title = result_formats.shown(os.path.basename(result.path))
    if len(times):
        plots.taggram(times, scores, labels, f"{target}.png", title=title)


def _tell(text: str) -> None:
    terminal.say(text, sys.stderr)


def cli() -> None:
    command.halve_threads()
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
