"""The Python examples of docs/serving.md run as they are."""

import pathlib
import re

import numpy as np
import pytest
import soundfile
from support.tiny_export import FRONTEND, LABELS, music

from genre_tl.serving import export, onnx_export, saved_model, tflite_and_keras

TEXT = pathlib.Path(__file__).parents[2].joinpath("docs/serving.md").read_text("utf8")
EXAMPLES = [
    example
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    if "import grpc" not in example  # needs a server
]


@pytest.fixture(scope="module")
def place(exported, tmp_path_factory):
    """A folder with the files that the examples name."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("song.mp3", "song.wav"):
        soundfile.write(folder / name, music(60_000, 1), 16_000)
    (folder / "saved_models").mkdir()
    (folder / "saved_models/genres").symlink_to(exported.base)
    trained = saved_model.TrainedModel(exported.network, FRONTEND, LABELS)
    for name, write in (
        ("tflite", tflite_and_keras.write_tflite),
        ("keras", tflite_and_keras.write_keras),
        ("onnx", onnx_export.write_onnx),
    ):
        base = folder / f"saved_models/genres-{name}"
        export.export(trained, base, card={}, write=write)
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_written(place, number, monkeypatch, capsys):
    for name in ("ai_edge_litert", "onnxruntime"):
        if name in EXAMPLES[number]:
            pytest.importorskip(name, reason=f"NOT RUN: {name} is not installed")
    monkeypatch.chdir(place)
    values = {}
    exec(EXAMPLES[number], values)
    if "best" in values:
        assert values["best"] in LABELS
    if "scores_over_time" in values:
        assert values["scores"].shape == (1, len(LABELS))
        assert len(values["times"]) == len(values["scores_over_time"])
        assert not np.isnan(values["scores"]).any()
        assert "song.wav {" in capsys.readouterr().out
