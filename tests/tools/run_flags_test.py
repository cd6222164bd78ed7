"""Flags that the training tools share."""

import subprocess
import sys

import pytest


def run(program, *arguments):
    """Returns the output of a process, since other tools define the same flags."""
    program = f"import sys; from tools import run_flags; {program}"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_line_of_an_epoch_shows_metrics_and_the_longest_time_left():
    call = "run_flags.epoch_line(1, 31, {'loss': 0.5, 'AUC-ROC': 0.25}, 3000)"
    expected = (
        "epoch 1 of 31: loss 0.500, AUC-ROC 0.250; 3000 s, at most 1 day, 1:00:00"
    )
    assert run(f"print({call})") == f"{expected} left"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "13 8 None 59 5 512 gru 0.3 0.001 probe"),
        (["--preset=paper"], "13 8 None 59 5 512 gru 0.7 1e-05 finetune"),
        (
            ["--J=12", "--Q=4", "--T=1024", "--segment_frames=9", "--method=finetune"],
            "12 4 1024 9 5 512 gru 0.3 0.001 finetune",
        ),
        (
            [
                *("--preset=tiny", "--layers=3", "--units=7", "--cell=lstm"),
                *("--dropout=0.2", "--learning_rate=0.5"),
            ],
            "9 2 None 64 3 7 lstm 0.2 0.5 probe",
        ),
    ],
)
def test_flags_change_the_preset(given, expected):
    program = (
        "from tools import finetune; "
        "run_flags.FLAGS(sys.argv); "
        "p = run_flags.preset('finetune'); f, m = p.frontend, p.model;"
        "print(f.J, f.Q, f.T, f.segment_frames, m.num_layers, m.num_units, m.cell, "
        "m.dropout, p.finetune.learning_rate, p.finetune.method)"
    )
    assert run(program, *given) == expected
