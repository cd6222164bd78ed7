"""Flags that the training tools share."""

import subprocess
import sys

import pytest


def test_an_epochs_line_shows_the_longest_time_left():
    # In a process of its own, since other tools define flags of the same names.
    program = (
        "from tools import run_flags; "
        "run_flags.progress(31, {}).on_epoch({'epoch': 1}, 3000.0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.endswith("; 3000 s, at most 1 day, 1:00:00 left\n"), done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], "0.0 (0.0, 10.0, 40.0, 160.0)"), (["--head_pull=30"], "30.0 ()")],
)
def test_a_given_penalty_leaves_nothing_to_choose(given, expected):
    # In a process of its own, since other tools define flags of the same names.
    program = (
        "import sys; from tools import run_flags; run_flags.FLAGS(sys.argv); "
        "training = run_flags.preset('finetune').finetune; "
        "print(training.head_pull, training.head_pulls)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True
    )
    assert done.stdout.strip() == expected
