"""What all tools share: help, errors, exit codes, log lines.

A tool ends with

    def cli() -> None:
        command.run(main)

and its `main` returns None or an exit code. Exit codes: 0 done, 1 failed, 2 wrong
command line, 130 interrupted (Ctrl-C), 141 output closed early, 143 terminated.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import os
import re
import signal
import sys
import types
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging

from . import common_flags, terminal

_TRACEBACK = flags.DEFINE_boolean("traceback", False, "Show the stack of an error.")

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "-h", "-?"}
_ABSENT = re.compile(r"flag --\S+: Flag (--\S+) must have a value other than None\.")

Main = Callable[[list[str]], "int | None"]


def run(main: Main, *, positional: bool = False) -> None:
    """Parses the command line, runs `main` and exits.

    `ValueError` and `OSError` mean that an input cannot be used: they become one
    line. Any other exception is a bug and keeps its stack trace.

    Args:
      main: takes `sys.argv` without its flags and returns an exit code or None.
        `--help` shows the docstring and the flags of its module.
      positional: whether the tool takes arguments other than flags.
    """
    _prepare_streams()
    parse = functools.partial(_parse, sys.modules[main.__module__], positional)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        app.run(functools.partial(_guarded, main), flags_parser=parse)
    except KeyboardInterrupt as error:
        terminal.say("terminated" if error.args else "interrupted", sys.stderr)
        sys.exit(128 + (signal.SIGTERM if error.args else signal.SIGINT))


def check_name(name: str) -> None:
    """Raises `UsageError` if an export cannot have this name."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise app.UsageError(
            f"--name={name!r}: use letters, digits, dots, hyphens, underscores"
        )


def halve_threads() -> None:
    """Limits TensorFlow to half the processors for each operation.

    For a tool that transforms two clips at a time. Call it before TensorFlow loads.
    """
    count = max(1, (os.cpu_count() or 1) // 2)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(count))


def skip_graph_rewriting() -> None:
    """Saves the two seconds in which TensorFlow optimizes an export's graph.

    For a tool that only transforms clips: rewriting makes its graphs no faster.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def drop_output() -> None:
    """Discards what is printed from here on: the reader of the pipe has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams() -> None:
    """Lets any file name be printed, and refuses a closed standard output."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:  # A file that is opened later would get its number.
        sys.exit(_complain("standard output is closed; redirect it to /dev/null", 1))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _terminate(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt(number)  # Unfinished files are removed as after Ctrl-C.


def _parse(tool: types.ModuleType, positional: bool, argv: Sequence[str]) -> list[str]:
    """Returns the arguments that are not flags; exits after help or an error."""
    given = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if _HELP.intersection(given):
        with contextlib.suppress(BrokenPipeError):
            print(_help(tool), flush=True)
        drop_output()
        sys.exit(0)
    try:
        rest: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_complain(_ABSENT.sub(r"\1 must be given", str(error)), 2))
    if rest[1:] and not positional:
        hint = f"; did you mean --data_dir={rest[1]}?" * ("data_dir" in flags.FLAGS)
        sys.exit(_complain(f"unexpected argument {rest[1]!r}{hint}", 2))
    return rest


def _help(tool: types.ModuleType) -> str:
    """Returns the docstring of a tool and absl's description of its flags."""
    text = flags.FLAGS.module_help(tool).split("\n", 2)[2]
    for flag in flags.FLAGS.get_key_flags_for_module(tool):
        if any("other than None" in check.message for check in flag.validators):
            text = text.replace(f"  --{flag.name}: ", f"  --{flag.name}: (required) ")
    text = re.sub(r"\n(?=  --)", "\n\n", text)
    end = "--traceback shows the stack of an error, --helpfull the flags of libraries."
    return f"{inspect.cleandoc(tool.__doc__ or '')}\n\nFlags:\n{text}\n\n{end}"


def _guarded(main: Main, argv: list[str]) -> int | None:
    """Runs `main` and returns the exit code, after a message if it failed."""
    _quieten()
    try:
        common_flags.pull()
        code = main(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        drop_output()
        terminal.say("stopped: the output was closed", sys.stderr)
        return 141
    except ImportError as error:
        # A library may take Ctrl-C during its imports for an absent package.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except app.UsageError as error:
        return _complain(str(error), 2)
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror and error.filename:
            text = f"{error.filename}: {error.strerror}"
        return _complain(text, 1)


def _complain(message: str, code: int) -> int:
    hint = " (--help explains the flags)" if code == 2 else ""
    terminal.say(f"error: {' '.join(message.split())}{hint}", sys.stderr)
    return code


def _quieten() -> None:
    """Shows only log lines for the user: plain text without time stamps."""
    absl_logging.get_absl_handler().setFormatter(_PlainFormatter())
    # TensorFlow uses the same logger as the library.
    absl_logging.get_absl_logger().addFilter(
        lambda record: "/tensorflow/" not in record.pathname
    )
    for name in ("tensorflow", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The library decodes with soundfile where tensorflow-io does not load.
    warnings.filterwarnings("ignore", module="tensorflow_io")
    # Exports are tried with it where LiteRT is not installed.
    warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprec")


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        terminal.status("")
        is_info = record.levelno == logging.INFO
        # One line, without what a terminal would take for commands.
        record.msg, record.args = terminal.printable(record.getMessage()), ()
        kind = "" if is_info else f"{record.levelname.lower()}: "
        return f"{kind}{super().format(record)}"
