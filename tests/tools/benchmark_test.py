import pytest
from support import runs

from genre_tl import params
from tools.benchmarks import training


def test_a_training_step_is_measured_beside_one_of_keras(capsys, monkeypatch):
    monkeypatch.setitem(params.PRESETS, "default", runs.TINY)
    training.speed(1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows if row]
    assert [row[0] for row in rows[2:]] == ["32", "64"]
    for _, ours, theirs, ratio in rows[2:]:
        times = [float(cell.split(" ms")[0]) for cell in (ours, theirs)]
        assert float(ratio) == pytest.approx(times[1] / times[0], rel=0.05)
