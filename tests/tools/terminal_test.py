"""Progress and lines, on a pseudo-terminal and in a log."""

import os
import pty
import sys

from tools import terminal


def read_all(reader: int) -> str:
    """Reads a pseudo-terminal whose other end is closed."""
    text = b""
    try:
        while part := os.read(reader, 10_000):
            text += part
    except OSError:  # How Linux says that nothing more will come.
        pass
    os.close(reader)
    return text.decode()


def test_a_meter_leaves_the_log_of_a_short_run_alone(capsys):
    show = terminal.meter("clips")
    for done in range(6):
        show(done, 5)
    assert capsys.readouterr() == ("", "")


def test_a_meter_writes_a_line_a_minute_to_a_log(capsys, monkeypatch):
    clock = iter([0, 0, 30, 60, 90, 120, 150])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    show = terminal.meter("clips")
    for done in range(6):
        show(done, 5)
    assert capsys.readouterr().err.splitlines() == [
        "clips: 2 of 5, 0.0333 per second, 0:01:30 left",
        "clips: 4 of 5, 0.0333 per second, 0:00:30 left",
    ]


def test_a_meter_rewrites_one_line_of_a_terminal_and_leaves_the_count(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        clock = iter(range(10))
        monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
        show = terminal.meter("clips")
        for done in range(4):
            show(done, 3)
    text = read_all(reader)
    assert text.count("\r\033[K") == 4 and text.count("\n") == 1
    assert text.endswith("clips: 3 of 3, 0.75 per second, 0:00:04 taken\r\n")


def test_the_time_that_is_left_shows_hours_beyond_a_day():
    secs = (0, 59.6, 3665, 86_400 + 3665)
    shown = ["0:00:00", "0:01:00", "1:01:05", "1 day, 1:01:05"]
    assert [terminal.duration(each) for each in secs] == shown
