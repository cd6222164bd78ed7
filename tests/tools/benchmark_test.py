import numpy as np
import pytest
from matplotlib import image
from support import runs

from genre_tl import params
from tools.benchmarks import scattering, training


def test_a_training_step_is_measured_beside_one_of_keras(capsys, monkeypatch):
    monkeypatch.setitem(params.PRESETS, "default", runs.TINY)
    training.speed(1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows if row]
    assert [row[0] for row in rows[2:]] == ["32", "64"]
    for _, ours, theirs, ratio in rows[2:]:
        times = [float(cell.split(" ms")[0]) for cell in (ours, theirs)]
        assert float(ratio) == pytest.approx(times[1] / times[0], rel=0.05)


def test_path_errors_are_drawn_by_order(tmp_path, drawn):
    errors = {"standard": np.array([1e-4, 2e-4, 3e-4])}
    path = tmp_path / "errors.png"
    hz = np.array([1.0, 100, 10])
    scattering.draw_errors(errors, np.array([0, 1, 2]), hz, path)
    assert image.imread(path).ndim == 3
    first, second = drawn[0].axes
    assert first.get_lines()[0].get_ydata() == [2e-4]
    assert second.get_lines()[0].get_ydata() == [3e-4]
