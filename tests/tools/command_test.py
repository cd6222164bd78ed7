"""Tools are tried as people use them: as programs of their own."""

import os
import pathlib
import pty
import signal
import subprocess
import sys

import pytest

from tools import command

PROGRAM = '''
"""Does what the test says.

Example:
  probe --output_dir=x
"""
import os, sys, time
from absl import flags, logging
from tools import command

ACTION = flags.DEFINE_enum("action", "return", {actions}, "What to do.")
OUTPUT = flags.DEFINE_string("output_dir", None, "Folder to fill.", required=True)
EPOCHS = flags.DEFINE_integer("num_epochs", 3, "Passes.", lower_bound=1)
FAST = flags.DEFINE_boolean("fast", True, "Hurry.")

def main(argv):
    action = ACTION.value
    if action == "return":
        print(EPOCHS.value, *argv[1:])
        return EPOCHS.value
    if action == "value":
        raise ValueError("clips.csv: 3 rows\\nhave no file; see README")
    if action == "absent":
        open("no/such.wav")
    if action == "bug":
        raise KeyError("fault")
    if action == "wait":
        print("ready", flush=True)
        time.sleep(60)
    if action == "write":
        for _ in range(100_000):
            print("line")
    if action == "warn":
        logging.info("3 clips")
        logging.warning("1 clip is empty")
    if action == "name":
        print(os.fsdecode(b"\\xffm\\xc3\\xbcsik.wav"))
        print(os.fsdecode(b"\\xff.wav"), file=sys.stderr)

def cli():
    command.run(main, positional={positional})

if __name__ == "__main__":
    cli()
'''
ACTIONS = ["return", "value", "absent", "bug", "wait", "write", "warn", "name"]


@pytest.fixture
def start(tmp_path, root):
    """Starts a tool that does the action its flag names."""

    def start_(
        *args: str, positional: bool = False, code: str | None = None, **env: str
    ):
        path = tmp_path / "probe.py"
        path.write_text(PROGRAM.format(actions=ACTIONS, positional=positional))
        program = ["-c", code, *args] if code else [str(path), *args]
        return subprocess.Popen(
            [sys.executable, *program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores it, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start_


@pytest.fixture
def run(start):
    """Runs it to its end: exit code, stdout, stderr."""

    def run_(*args: str, **kwargs):
        process = start(*args, **kwargs)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return run_


def test_help_has_the_docstring_and_the_flags_with_type_and_default(run):
    code, out, err = run("--help")
    assert code == 0 and not err
    assert out.startswith("Does what the test says.\n\nExample:\n  probe --out")
    for text in (
        "--action=return|value|absent|bug|wait|write|warn|name  (default: return)\n"
        "      What to do.",
        "--output_dir=<string>  (required)\n      Folder to fill.",
        "--num_epochs=<int>  (default: 3; a positive integer)\n      Passes.",
        "--[no]fast  (default: true)",
        "--[no]traceback",
        "--helpfull",
    ):
        assert text in out
    assert "run_with_pdb" not in out


def test_help_is_the_same_from_a_console_script(run):
    console = "import probe; probe.cli()"
    assert run("--help", code=console) == run("--help")


def test_helpfull_lists_the_flags_of_absl_too(run):
    assert "run_with_pdb" in run("--helpfull")[1]


def test_the_exit_code_is_what_main_returns(run):
    assert run("--output_dir=x", "--num_epochs=7")[:2] == (7, "7\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--output_dir=x", "--num_epoch=2"], "Did you mean: num_epochs"),
        (["--output_dir=x", "--num_epochs=two"], "num_epochs=two"),
        (["--output_dir=x", "--num_epochs=0"], "--num_epochs=0"),
        (["--output_dir=x", "--action=dance"], "return|value"),
        ([], "--output_dir must be given"),
        (["--output_dir=x", "music"], "'music'"),
    ],
)
def test_a_wrong_command_line_exits_2_with_one_line(run, args, message):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_positional_arguments_reach_a_tool_that_takes_them(run):
    code, out, _ = run("a.wav", "--output_dir=x", "--", "--help", positional=True)
    assert (code, out) == (3, "3 a.wav --help\n")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("value", "error: clips.csv: 3 rows have no file; see README\n"),
        ("absent", "error: no/such.wav: No such file or directory\n"),
    ],
)
def test_an_error_of_the_library_is_one_line_and_exits_1(run, action, message):
    assert run("--output_dir=x", f"--action={action}") == (1, "", message)


def test_traceback_shows_the_stack_of_such_an_error(run):
    code, _, err = run("--output_dir=x", "--action=value", "--traceback")
    assert code == 1 and "Traceback" in err


def test_a_fault_of_the_program_keeps_its_stack(run):
    code, _, err = run("--output_dir=x", "--action=bug")
    assert code == 1 and "Traceback" in err and "KeyError: 'fault'" in err


def test_an_interrupt_is_one_line_and_exits_130(start):
    process = start("--output_dir=x", "--action=wait")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_a_reader_that_has_enough_is_no_error(start):
    process = start("--output_dir=x", "--action=write")
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0


def test_log_lines_are_plain_words(run):
    _, _, err = run("--output_dir=x", "--action=warn")
    assert err == "3 clips\nwarning: 1 clip is empty\n"


def test_a_name_that_cannot_be_printed_stops_no_tool(run):
    given = ["--output_dir=x", "--action=name"]
    strict = run(*given, PYTHONIOENCODING="utf-8:strict")
    assert strict == (0, "\\udcffmüsik.wav\n", "\\udcff.wav\n")
    ascii_only = run(*given, PYTHONIOENCODING="ascii:strict")
    assert ascii_only == (0, "\\udcffm\\xfcsik.wav\n", "\\udcff.wav\n")


def test_importing_a_tool_keeps_a_log_level_that_is_set():
    code = "import os, tools; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    for level, shown in (("0", "0"), (None, "3")):
        env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        env |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == shown, done.stderr


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
    show = command.meter("clips")
    for done in range(6):
        show(done, 5)
    assert capsys.readouterr() == ("", "")


def test_a_meter_writes_a_line_a_minute_to_a_log(capsys, monkeypatch):
    clock = iter([0, 0, 30, 60, 90, 120, 150])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    show = command.meter("clips")
    for done in range(6):
        show(done, 5)
    assert capsys.readouterr().err.splitlines() == [
        "clips: 2 of 5, 0.0333 per second, 1:30 left",
        "clips: 4 of 5, 0.0333 per second, 0:30 left",
    ]


def test_a_meter_rewrites_one_line_of_a_terminal_and_leaves_the_count(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        clock = iter(range(10))
        monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
        show = command.meter("clips")
        for done in range(4):
            show(done, 3)
    text = read_all(reader)
    assert text.count("\r\033[K") == 4 and text.count("\n") == 1
    assert text.endswith("clips: 3 of 3, 0.75 per second, 0:04 taken\r\n")


def test_the_time_that_is_left_shows_hours_beyond_a_day():
    secs = (0, 59.6, 65, 3599, 3665, 86_400 + 3665)
    shown = ["0:00", "1:00", "1:05", "59:59", "1:01:05", "25:01:05"]
    assert [command.minutes(each) for each in secs] == shown


def test_an_epochs_line_tells_how_long_the_others_take_at_most():
    # In a process of its own, since other tools define flags of the same names.
    program = (
        "from tools import run_flags; "
        "run_flags.progress(31, {}).on_epoch({'epoch': 1}, 3000.0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.endswith("; 3000 s, at most 25:00:00 left\n"), done.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [([], "0.0 (0.0, 10.0, 40.0, 160.0)"), (["--head_pull=30"], "30.0 ()")],
)
def test_a_pull_that_is_given_leaves_nothing_to_choose(given, told):
    # In a process of its own, since other tools define flags of the same names.
    program = (
        "import sys; from tools import run_flags; run_flags.FLAGS(sys.argv); "
        "training = run_flags.preset('finetune').finetune; "
        "print(training.head_pull, training.head_pulls)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True
    )
    assert done.stdout.strip() == told
