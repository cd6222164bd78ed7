"""Lines and progress on a terminal or in a log."""

from __future__ import annotations

import datetime
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from genre_tl import storage


def meter(label: str) -> Callable[[int, int], None]:
    """Returns a callback that shows progress on stderr: count, rate, time left.

    A terminal shows one line that is rewritten; a log gets a line a minute. Call it
    with the numbers of finished items and of all, before the first and after each.
    """
    is_terminal = sys.stderr.isatty()
    start = shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        is_last = done >= total and is_terminal
        if is_last or now - shown >= (0.2 if is_terminal else 60):
            shown = now
            text = _progress(label, done, total, now - start)
            status(text) if is_terminal and not is_last else say(text, sys.stderr)

    return show


def status(text: str) -> None:
    """Shows a text on a terminal until the next `status` or `say` replaces it."""
    if sys.stderr.isatty():
        text = printable(text)[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints lines, control characters escaped, in place of a status if one is shown.

    Names of files and labels may hold what a terminal takes for commands.
    """
    status("")
    lines = map(printable, text.split("\n"))
    print("\n".join(lines), file=file or sys.stdout, flush=True)


def printable(text: str) -> str:
    """Returns a text with control characters escaped, and URLs as they were given."""
    text = storage.shown(text)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def duration(secs: float) -> str:
    """Returns a number of seconds as `1:01:05`."""
    return str(datetime.timedelta(seconds=round(secs)))


def _progress(label: str, done: int, total: int, secs: float) -> str:
    text = f"{label}: {done} of {total}, {done / max(secs, 1e-9):.3g} per second"
    if done >= total:
        return f"{text}, {duration(secs)} taken"
    return f"{text}, {duration((total - done) * secs / done)} left" if done else text
