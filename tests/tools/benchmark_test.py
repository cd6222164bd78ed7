import json

import numpy as np
import pytest
from matplotlib import image
from support import runs, tiny_export

from genre_tl import params
from genre_tl.model import networks
from tools.benchmarks import catalogue, runtimes, scattering, training


def test_a_training_step_is_measured_beside_one_of_keras(capsys, monkeypatch):
    monkeypatch.setitem(params.PRESETS, "default", runs.TINY)
    training.speed(1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows if row]
    assert [row[0] for row in rows[2:]] == ["32", "64"]
    for _, ours, theirs, ratio in rows[2:]:
        times = [float(cell.split(" ms")[0]) for cell in (ours, theirs)]
        assert float(ratio) == pytest.approx(times[1] / times[0], rel=0.05)


def test_a_catalogue_is_measured_in_a_fresh_process(capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "_NUM_TRACKS", 30)
    catalogue.speed(2)
    out = capsys.readouterr().out
    assert "30 tracks, " in out
    rows = [line.split("|")[1:-1] for line in out.splitlines() if "|" in line]
    cells = {name.strip(): value.strip() for name, value in rows}
    assert cells["neighbours of 50 tracks"].split(" ms")[0]
    assert float(cells["opened, first page"].removesuffix(" s")) >= 0
    assert 10 < float(cells["peak memory"].removesuffix(" MB")) < 4000


def test_path_errors_are_drawn_by_order(tmp_path, drawn):
    errors = {"standard": np.array([1e-4, 2e-4, 3e-4])}
    path = tmp_path / "errors.png"
    hz = np.array([1.0, 100, 10])
    scattering.draw_errors(errors, np.array([0, 1, 2]), hz, path)
    assert image.imread(path).ndim == 3
    first, second = drawn[0].axes
    assert first.get_lines()[0].get_ydata() == [2e-4]
    assert second.get_lines()[0].get_ydata() == [3e-4]


def test_runtimes_are_compared_in_fresh_processes(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="NOT RUN: no onnxruntime")
    onnx = pytest.importorskip("onnx", reason="NOT RUN: onnx is not installed")
    from genre_tl.serving import onnx_model, saved_model

    network = networks.tagger(tiny_export.PRESET.model, tiny_export.num_paths(), 2)
    trained = saved_model.TrainedModel(network, tiny_export.FRONTEND, ["a", "b"])
    model = onnx_model.build(trained)
    onnx.helper.set_model_props(model, {"labels": json.dumps(["a", "b"])})
    onnx.save(model, tmp_path / "model.onnx")
    runtimes.compare([str(tmp_path)], 1)
    *_, head, _, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    cells = {name.strip(): cell.strip() for name, cell in cells.items() if name}
    assert cells.pop("export") == str(tmp_path)
    assert cells.pop("peak memory").endswith(" MB")
    numbers = {name: float(cell) for name, cell in cells.items()}
    size = (tmp_path / "model.onnx").stat().st_size / 1e6
    assert numbers.pop("size, MB") == pytest.approx(size, abs=0.05)
    assert min(numbers.values()) > 0
    assert numbers["a clip, ms"] <= numbers["99th percentile"]
