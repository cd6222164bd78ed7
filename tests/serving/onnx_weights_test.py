"""ONNX files that take their weights from the SavedModel beside them."""

import json
import types

import numpy as np
import pytest
from support import tiny_export

from genre_tl.model import networks
from genre_tl.serving import runtimes, saved_model

onnx = pytest.importorskip("onnx", reason="NOT RUN: onnx is not installed")
pytest.importorskip("onnxruntime", reason="NOT RUN: no onnxruntime")

from genre_tl.serving import onnx_model, onnx_weights  # noqa: E402


@pytest.fixture(scope="module")
def trained():
    settings = vars(tiny_export.PRESET.model) | {"num_units": 48}
    network = networks.tagger(
        types.SimpleNamespace(**settings), tiny_export.num_paths(), 3, seed=4
    )
    network = networks.to_half(tiny_export.sensitive(network))
    frontend, labels = tiny_export.FRONTEND, tiny_export.LABELS
    return saved_model.TrainedModel(network, frontend, labels, half=True)


def built(trained):
    model = onnx_model.build(trained)
    onnx.helper.set_model_props(model, {"labels": json.dumps(tiny_export.LABELS)})
    return model


def store(folder, weights):
    """Writes weights as a SavedModel does: one after the other."""
    path = folder / onnx_weights.FILE
    path.parent.mkdir(exist_ok=True)
    arrays = (weight.astype(np.float16) for weight in weights)
    path.write_bytes(b"".join(x.tobytes() for x in arrays))


def scores(path):
    waveform = tiny_export.CLIPS[2][np.newaxis]
    return runtimes.OnnxRuntime(path).answers(waveform)["scores"]


@pytest.fixture
def alone(trained, tmp_path):
    path = tmp_path / "alone.onnx"
    onnx.save(built(trained), path)
    return path


def test_weights_are_not_stored_twice_and_scores_stay_the_same(
    trained, alone, tmp_path
):
    weights = trained.network.get_weights()
    store(tmp_path, weights)
    model = built(trained)
    onnx_weights.share(model, tmp_path)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    large = sum(2 * x.size for x in weights if 2 * x.size >= 4096)
    saved = alone.stat().st_size - path.stat().st_size
    assert large > 50_000 and saved > 0.95 * large
    np.testing.assert_array_equal(scores(path), scores(alone))
    onnx.save(onnx.load(path), tmp_path / "again.onnx")
    store(tmp_path, [])
    np.testing.assert_array_equal(scores(tmp_path / "again.onnx"), scores(alone))
    with pytest.raises(ValueError, match=r"model\.onnx: damaged ONNX file"):
        scores(path)


def test_a_weight_that_the_saved_model_lacks_stays_in_the_file(
    trained, alone, tmp_path
):
    store(tmp_path, [x for x in trained.network.get_weights() if x.shape[0] != 48])
    model = built(trained)
    onnx_weights.share(model, tmp_path)
    kept = [x for x in model.graph.initializer if 48 in x.dims and x.raw_data]
    assert kept and any(x.external_data for x in model.graph.initializer)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    np.testing.assert_array_equal(scores(path), scores(alone))
