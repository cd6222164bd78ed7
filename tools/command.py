"""What every tool does alike: help, errors, silence, progress.

A tool ends with

    def cli() -> None:
        command.run(main)

and its `main` returns None or an exit code. Exit codes: 0 done, 1 failed, 2 the
command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import os
import re
import sys
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags
from absl import logging as absl_logging

_TRACEBACK = flags.DEFINE_boolean(
    "traceback", False, "Show the stack of an error, not its message alone."
)

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "-h", "-?"}
_ABSENT = re.compile(r"flag --\S+: Flag (--\S+) must have a value other than None\.")

Main = Callable[[list[str]], "int | None"]


def run(main: Main, *, positional: bool = False) -> None:
    """Parses the command line, runs `main` and exits.

    `ValueError` and `OSError` are how the library says that something given to
    it cannot be used: they become one line. Any other exception is a fault of
    the program and keeps its stack trace.

    Args:
      main: takes what the flags left of `sys.argv`, program name first, and
        returns an exit code or None. The docstring and flags of its module are
        what `--help` shows.
      positional: whether the tool takes arguments that are not flags.
    """
    module = sys.modules[main.__module__]
    for stream in (sys.stdout, sys.stderr):
        # No name of a file may end the work because it cannot be printed.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app.run(
        functools.partial(_guarded, main),
        flags_parser=functools.partial(_parse, module, positional),
    )


def leave_room_for_clips() -> None:
    """Has TensorFlow compute an operation in half as many threads as it would.

    For a tool that transforms many clips: two at a time are, with others decoded
    meanwhile. More threads would wait for one another, a tenth of the time that two
    processors have. To be called before TensorFlow is loaded.
    """
    num_threads = max(1, (os.cpu_count() or 1) // 2)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(num_threads))


def begin_soon() -> None:
    """Has TensorFlow run graphs as they are: rewriting an export's takes two seconds.

    For a tool that only transforms clips: its graphs are made as they should be, and
    run no faster for being rewritten.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def meter(label: str) -> Callable[[int, int], None]:
    """Returns a callback that shows on stderr how far a piece of work is.

    A terminal gets one line that is rewritten; anything else a line a minute, so
    that a log stays short and a short piece of work silent.

    Args:
      label: what is being done, such as "features".

    Returns:
      A function of the numbers of items done and to be done, to be called before
      the first and after each.
    """
    terminal = sys.stderr.isatty()
    interval_secs = 0.2 if terminal else 60
    start = shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        last = done >= total and terminal  # It stays, above what is printed next.
        if last or now - shown >= interval_secs:
            shown = now
            text = _clear_line() + _progress(label, done, total, now - start)
            end = "" if terminal and not last else "\n"
            print(text, end=end, file=sys.stderr, flush=True)

    return show


def drop_output() -> None:
    """Has what is printed from now on go nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Gives the name of a file to what the system says against writing it."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise OSError(error.errno, error.strerror or str(error), name) from error


def _clear_line() -> str:
    """Returns what makes room on a terminal where a meter may have written."""
    return "\r\033[K" if sys.stderr.isatty() else ""


def _progress(label: str, done: int, total: int, secs: float) -> str:
    rate = done / max(secs, 1e-9)
    text = f"{label}: {done} of {total}, {rate:.3g} per second"
    if done >= total:
        return f"{text}, {minutes(secs)} taken"
    return f"{text}, {minutes((total - done) / rate)} left" if done else text


def minutes(secs: float) -> str:
    """Returns `1:05` of 65 seconds, and `25:01:05` of a day and an hour more."""
    mins, secs = divmod(round(secs), 60)
    hours, mins = divmod(mins, 60)
    return f"{hours}:{mins:02d}:{secs:02d}" if hours else f"{mins}:{secs:02d}"


def _parse(
    module: types.ModuleType, positional: bool, argv: Sequence[str]
) -> list[str]:
    """Returns what the flags leave of `argv`, or exits: 0 after help, else 2."""
    given = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if _HELP.intersection(given):
        with contextlib.suppress(BrokenPipeError):  # such as of `| head`
            print(_help(module), flush=True)
        drop_output()
        sys.exit(0)
    try:
        rest: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_complain(_ABSENT.sub(r"\1 must be given", str(error)), 2))
    if rest[1:] and not positional:
        sys.exit(_complain(f"unexpected argument {rest[1]!r}: all are flags", 2))
    return rest


def _guarded(main: Main, argv: list[str]) -> int | None:
    """Runs `main` and returns the exit code of whatever happens."""
    _quieten()
    try:
        code = main(argv)
        sys.stdout.flush()  # A closed pipe shows here, not after the last line.
        return code
    except KeyboardInterrupt:
        print(f"{_clear_line()}interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has enough: no error, but nothing to write to.
        drop_output()
        return 0
    except app.UsageError as error:
        return _complain(str(error), 2)
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        return _complain(_one_line(error), 1)


def _complain(message: str, code: int) -> int:
    hint = " (--help explains the flags)" if code == 2 else ""
    text = f"error: {' '.join(message.split())}{hint}"
    print(f"{_clear_line()}{text}", file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _quieten() -> None:
    """Lets through what concerns the user; plain words, no time stamps."""
    absl_logging.get_absl_handler().setFormatter(_PlainFormatter())
    # TensorFlow itself speaks through the same logger as the library does.
    absl_logging.get_absl_logger().addFilter(
        lambda record: "/tensorflow/" not in record.pathname
    )
    for name in ("tensorflow", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The library decodes with soundfile where tensorflow-io does not load.
    warnings.filterwarnings("ignore", module="tensorflow_io")


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        is_info = record.levelno == logging.INFO
        kind = "" if is_info else f"{record.levelname.lower()}: "
        return f"{_clear_line()}{kind}{super().format(record)}"


def _help(module: types.ModuleType) -> str:
    own = flags.FLAGS.get_key_flags_for_module(module)
    return "\n".join(
        [
            inspect.cleandoc(module.__doc__ or ""),
            "\nFlags:",
            *(_describe(flag) for flag in [*own, flags.FLAGS["traceback"]]),
            "\n--helpfull lists the flags of the libraries too.",
        ]
    )


def _describe(flag: flags.Flag) -> str:
    """Returns `--name=<type>  (default: …)` and, below it, what the flag is for."""
    text = flag.help or ""
    if flag.boolean:
        head = f"--[no]{flag.name}"
    elif isinstance(flag, flags.EnumFlag):
        head = f"--{flag.name}={'|'.join(flag.parser.enum_values)}"
        text = text.partition(">: ")[2]  # absl puts the values there once more.
    else:
        head = f"--{flag.name}=<{flag.flag_type()}>"
    required = any("other than None" in check.message for check in flag.validators)
    default = (flag.default_as_str or "none").strip("'")
    notes = ["required" if required else f"default: {default}"]
    notes += [flag.parser.syntactic_help] if flag.parser.syntactic_help else []
    indent = " " * 6
    text = textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent)
    return f"  {head}  ({'; '.join(notes)})\n{text}"
