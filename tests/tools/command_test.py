"""Tools are tried as people use them: as programs of their own."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "tools"
PROGRAM = '''
"""Does what the test says.

Example:
  probe --output_dir=x
"""
import os, sys, time
from absl import flags, logging
from tools import command, terminal

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
    if action == "keras":
        import genre_tl.model
    if action == "warn":
        logging.info("3 clips")
        logging.warning("1 clip is empty")
    if action == "import":
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise ImportError("install optree")
    if action == "escape":
        terminal.say("  failed: \\033[31m.wav")
        logging.warning("%s is empty", "a\\nerror: \\033]0;b\\007")
        raise ValueError("\\033[31mclips\\x9b.csv: 3 rows")
    if action == "name":
        print(os.fsdecode(b"\\xffm\\xc3\\xbcsik.wav"))
        print(os.fsdecode(b"\\xff.wav"), file=sys.stderr)

def cli():
    command.run(main, positional={positional})

if __name__ == "__main__":
    cli()
'''
ACTIONS = ["return", "value", "absent", "bug", "wait", "write", "keras", "warn", "name"]
ACTIONS += ["escape", "import"]


@pytest.fixture
def start(tmp_path, root):
    """Starts a tool that does the action its flag names."""

    def start_(*args: str, positional=False, code=None, shell=None, **env: str):
        path = tmp_path / "probe.py"
        path.write_text(PROGRAM.format(actions=ACTIONS, positional=positional))
        program = ["-c", code, *args] if code else [str(path), *args]
        command = [sys.executable, *program]
        return subprocess.Popen(
            ["sh", "-c", shell, *command] if shell else command,
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
        "--action: <return|value|absent|bug|wait|write|keras|warn|name|escape|",
        "--output_dir: (required) Folder to fill.",
        "--num_epochs: Passes.\n    (default: '3')\n    (a positive integer)\n\n",
        "--[no]fast: Hurry.\n    (default: 'true')",
        "--traceback",
        "--helpfull",
    ):
        assert text in out
    assert "run_with_pdb" not in out


TOOLS = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("name", [x for x in TOOLS if "\ndef cli(" in TOOLS[x]])
def test_help_of_a_tool_lists_all_its_flags_and_fits_a_terminal(name):
    command = [sys.executable, "-m", f"tools.{name}", "--help"]
    text = subprocess.check_output(command, cwd=FOLDER.parent, text=True)
    defined = re.findall(r'(?:DEFINE_\w+|define_path)\(\s*"(\w+)"', TOOLS[name])
    listed = re.findall(r"^  --(?:\[no\])?(\w+): ", text, re.MULTILINE)
    assert set(defined) <= set(listed)
    assert max(map(len, text.splitlines())) <= 90


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
        (["--output_dir=x", "music"], "unexpected argument 'music' (--help"),
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


def test_no_control_character_reaches_the_terminal(run):
    code, out, err = run("--output_dir=x", "--action=escape")
    assert (code, out) == (1, "  failed: \\x1b[31m.wav\n")
    assert err == (
        "warning: a\\nerror: \\x1b]0;b\\x07 is empty\n"
        "error: \\x1b[31mclips\\x9b.csv: 3 rows\n"
    )
    code, _, err = run("--output_dir=x", "--a\x1b[2Jction=1", "a\x1b[2J")
    assert code == 2 and "\x1b" not in err


def test_traceback_shows_the_stack_of_such_an_error(run):
    code, _, err = run("--output_dir=x", "--action=value", "--traceback")
    assert code == 1 and "Traceback" in err


def test_a_fault_of_the_program_keeps_its_stack(run):
    code, _, err = run("--output_dir=x", "--action=bug")
    assert code == 1 and "Traceback" in err and "KeyError: 'fault'" in err


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "terminated\n")],
)
def test_a_signal_is_one_word_and_an_exit_code(start, number, code, message):
    process = start("--output_dir=x", "--action=wait")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, message)


def test_an_interrupt_while_a_tool_imports_is_one_word(run):
    code, _, err = run(code="import tools\nraise KeyboardInterrupt")
    assert (code, err) == (-signal.SIGINT, "interrupted\n")


def test_an_interrupt_that_a_library_takes_for_an_absent_package_is_one_word(run):
    code, _, err = run("--output_dir=x", "--action=import")
    assert (code, err) == (130, "interrupted\n")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_keras_backend_is_refused_in_one_line(run, backend):
    given = ["--output_dir=x", "--action=keras"]
    code, _, err = run(*given, KERAS_BACKEND=backend)
    assert code == 1 and err.count("\n") == 1
    assert err.startswith(f"error: KERAS_BACKEND={backend}: ")
    assert run("--help", KERAS_BACKEND=backend)[0] == 0


def test_a_closed_pipe_is_no_success_while_work_remains(start):
    process = start("--output_dir=x", "--action=write")
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == "stopped: the output was closed\n"
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "2>&-"])
def test_a_closed_stream_is_refused_or_ignored(tmp_path, run, closed):
    shell = f'exec "$0" "$@" {closed}'
    code, out, err = run("--output_dir=x", "--action=return", shell=shell)
    if closed == "2>&-":
        assert (code, out, err) == (3, "3\n", "")
    else:
        assert code == 1 and not out
        assert ("standard output is closed" in err) == (closed == ">&-")


def test_log_lines_are_plain_words(run):
    _, _, err = run("--output_dir=x", "--action=warn")
    assert err == "3 clips\nwarning: 1 clip is empty\n"


def test_a_name_that_cannot_be_printed_stops_no_tool(run):
    given = ["--output_dir=x", "--action=name"]
    strict = run(*given, PYTHONIOENCODING="utf-8:strict")
    assert strict == (0, "\\udcffmüsik.wav\n", "\\udcff.wav\n")
    ascii_only = run(*given, PYTHONIOENCODING="ascii:strict")
    assert ascii_only == (0, "\\udcffm\\xfcsik.wav\n", "\\udcff.wav\n")


@pytest.mark.parametrize(
    ("name", "default", "other"),
    [
        ("TF_CPP_MIN_LOG_LEVEL", "3", "0"),
        ("TF_FORCE_GPU_ALLOW_GROWTH", "true", "false"),
    ],
)
def test_importing_a_tool_keeps_what_is_set_of_tensorflow(name, default, other):
    code = f"import os, tools; print(os.environ['{name}'])"
    for given, shown in ((other, other), (None, default)):
        env = {k: v for k, v in os.environ.items() if k != name}
        env |= {name: given} if given else {}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=FOLDER.parent,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == shown, done.stderr


LOADS = "import tools, tensorflow as tf; print(tf.reduce_sum(tf.ones([3])).numpy())"


def test_tensorflow_loads_and_looks_for_a_gpu_without_a_word(run):
    # conftest.py hides GPUs, and so the complaint that there is none.
    shown = run(code=LOADS, shell='unset CUDA_VISIBLE_DEVICES; exec "$0" "$@"')
    assert shown == (0, "3.0\n", "")
    assert run(code=LOADS, shell='exec "$0" "$@" 2>&-') == (0, "3.0\n", "")


@pytest.mark.parametrize("fails, level, shown", [(0, 3, 0), (1, 3, 1), (0, 0, 1)])
def test_what_tensorflow_writes_is_shown_if_it_fails_or_on_request(
    run, tmp_path, fails, level, shown
):
    (tmp_path / "tensorflow.py").write_text(
        "import os, types\n"
        "os.write(2, b'needs AVX\\n')\n"
        f"1 / {1 - fails}\n"
        "config = types.SimpleNamespace(list_physical_devices=list)\n"
    )
    code, out, err = run(
        code="import sys; sys.path.insert(0, ''); import tools, tensorflow; print(1)",
        TF_CPP_MIN_LOG_LEVEL=str(level),
    )
    assert (code, out) == (fails, "" if fails else "1\n")
    assert ("needs AVX" in err) == shown
    assert ("ZeroDivisionError" in err) == fails
