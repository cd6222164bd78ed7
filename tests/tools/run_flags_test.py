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
        ([], "12 8 None 118 5 512 gru 0.45 0.0001 kernel (6, 10, 10, 20, 40) True"),
        (["--preset=paper"], "13 8 None 59 5 512 gru 0.7 1e-05 finetune () False"),
        (
            [
                *("--J=10", "--Q=4", "--T=1024", "--segment_frames=9"),
                *("--method=finetune", "--noaugment"),
                *("--crop_frames=9", "--crop_frames=5"),
            ],
            "10 4 1024 9 5 512 gru 0.45 0.0001 finetune (9, 5) False",
        ),
        (
            [
                *("--preset=tiny", "--layers=3", "--units=7", "--cell=lstm"),
                *("--dropout=0.2", "--learning_rate=0.5"),
            ],
            "9 2 None 64 3 7 lstm 0.2 0.5 kernel (32,) False",
        ),
    ],
)
def test_flags_change_the_preset(given, expected):
    program = (
        "from tools import finetune; "
        "run_flags.FLAGS(sys.argv); "
        "p = run_flags.preset('finetune'); f, m, t = p.frontend, p.model, p.finetune;"
        "print(f.J, f.Q, f.T, f.segment_frames, m.num_layers, m.num_units, m.cell, "
        "m.dropout, t.learning_rate, t.method, t.crop_frames, t.augment)"
    )
    assert run(program, *given) == expected
