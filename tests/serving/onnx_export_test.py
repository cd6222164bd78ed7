"""ONNX exports, and predictions from them without TensorFlow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import soundfile
from support import tiny_export
from support.tiny_export import CLIPS, FRONTEND, LABELS, PRESET, SEGMENT, music

from genre_tl.data import datasets
from genre_tl.model import familiarity, networks
from genre_tl.serving import checks, model_card, predictor, runtimes, saved_model

onnx = pytest.importorskip("onnx", reason="NOT RUN: onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="NOT RUN: no onnxruntime")

from genre_tl.serving import onnx_builder, onnx_export, onnx_model  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
MODEL = PRESET.model

# Packages that `pip install --no-deps genre_tl onnxruntime numpy ...` leaves out.
WITHOUT = "tensorflow keras tensorflow_io sklearn kymatio matplotlib onnx".split()
BLOCKED = f"""
import importlib.abc, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {WITHOUT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def version(exported):
    """The folder that `tools.export --format=onnx` makes of the shared run."""
    done = tiny_export.run_export(exported, "--format=onnx")
    assert done.returncode == 0, done.stderr
    return exported.saved_models / "test-onnx" / "1"


@pytest.fixture(scope="module")
def model(version):
    return predictor.Predictor(version)


def run_blocked(*args):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def network(**settings):
    """Returns a classifier, other than the default one, whose scores vary."""
    size = types.SimpleNamespace(**{**vars(MODEL), **settings})
    built = networks.classifier(size, tiny_export.num_paths(), len(LABELS), seed=3)
    for layer in built.layers:
        if isinstance(layer, keras.layers.LSTM | keras.layers.Bidirectional):
            layer.set_weights([3 * weight for weight in layer.get_weights()])
    return tiny_export.sensitive(built)


NETWORKS = {
    "kernel": tiny_export.with_kernel,
    "tagger": lambda: tiny_export.sensitive(
        networks.tagger(MODEL, tiny_export.num_paths(), len(LABELS), seed=4)
    ),
    "sequential": lambda: network(readout="last", embedding_units=0),
    "calibrated": lambda: networks.calibrated(network(), 0.7),
    "lstm": lambda: network(cell="lstm"),
    "bidirectional": lambda: network(cell="bidirectional", readout="last"),
    "bidirectional, all": lambda: network(cell="bidirectional"),
}


UNITS = MODEL.embedding_units
KNOWN = {
    "calibrated": familiarity.Familiarity(
        *map(np.float32, (np.zeros(UNITS), np.eye(UNITS, 2) / 2, 2)),
        segments=np.eye(5, UNITS, dtype=np.float32),
        centre=np.float32(1),
        spread=np.float32(2),
    )
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_answers_as_the_saved_model_does(tmp_path, name):
    labels = [datasets.BACKGROUND, *LABELS[1:]] if name in KNOWN else LABELS
    trained = saved_model.TrainedModel(
        NETWORKS[name](), FRONTEND, labels, known=KNOWN.get(name)
    )
    model = onnx_model.build(trained)
    onnx.helper.set_model_props(model, {"labels": json.dumps(LABELS)})
    onnx.save(model, tmp_path / "model.onnx")
    runtime = runtimes.OnnxRuntime(tmp_path / "model.onnx")
    clips = [*CLIPS, np.zeros(9, np.float32)]
    batch = checks.padded(clips, max(map(len, clips)) + 7)
    expected = onnx_export.answers_of_saved_model(trained, batch)
    assert np.ptp(expected[0], axis=0).max() > 0.05  # else nothing is compared
    for found, wanted in zip(runtime.answers(batch).values(), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_takes_half_the_room_and_gives_the_same_scores():
    half = networks.to_half(network())
    full, small = (
        onnx_model.build(saved_model.TrainedModel(half, FRONTEND, LABELS, is_half))
        for is_half in (False, True)
    )
    assert full.ByteSize() - small.ByteSize() > 1.8 * half.count_params()
    found = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(
            ["scores"], {"waveform": CLIPS[2][np.newaxis]}
        )[0]
        for model in (full, small)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: str(len(clip)))
def test_padding_of_a_batch_changes_no_score(model, clip):
    (expected,) = model.scores([clip])
    zeros, first = np.zeros(100, np.float32), np.full(100, clip[0])
    for more in ([zeros], [first], [zeros, first], [first, zeros]):
        batch = np.concatenate([clip, *more])[np.newaxis]
        found = model.runtime.answers(batch)["scores"][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_clip_that_begins_with_silence_or_has_broken_samples(exported, version):
    runtime = runtimes.OnnxRuntime(version / "model.onnx")
    late = np.concatenate([np.zeros(3 * SEGMENT + 5), music(SEGMENT, 7)])
    broken = music(SEGMENT, 8)
    broken[[5, 700]] = np.nan, np.inf
    offset = np.concatenate([np.full(70, 0.25), music(2 * SEGMENT, 9)])
    for clip in (late, broken, offset, np.zeros(0), np.zeros(1)):
        batch = clip.astype(np.float32)[np.newaxis]
        expected = tiny_export.scores_of(exported, batch)
        np.testing.assert_allclose(
            runtime.answers(batch)["scores"], expected, atol=1e-4
        )


def test_no_clips_have_no_scores(model):
    assert model.scores([]).shape == (0, len(LABELS))


def test_the_file_has_labels_front_end_and_card_in_its_metadata(version):
    session = onnxruntime.InferenceSession(version / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == LABELS
    assert json.loads(facts["frontend"])["segment_samples"] == SEGMENT
    assert facts["intended_use"] == model_card.read(version)["intended_use"]
    assert (version / "labels.txt").read_text("utf-8").splitlines() == LABELS


def test_only_standard_operations_are_used_and_only_waveforms_must_be_given(version):
    model = onnx.load(version / "model.onnx")
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(version / "model.onnx")
    assert [value.name for value in session.get_inputs()] == ["waveform"]


def test_an_export_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    trained = saved_model.TrainedModel(network(), FRONTEND, LABELS)
    other = saved_model.TrainedModel(network(num_units=8), FRONTEND, LABELS)
    wrong = onnx_model.build(other)
    monkeypatch.setattr(onnx_model, "build", lambda trained: wrong)
    with pytest.raises(ValueError, match="refused: scores of 5 reference clips"):
        list(onnx_export.write_onnx(trained, tmp_path))


def test_predictions_are_those_of_the_saved_model(exported, model, tmp_path):
    paths = [str(tmp_path / f"{i}.wav") for i in range(len(CLIPS))]
    for path, clip in zip(paths, CLIPS, strict=True):
        soundfile.write(path, clip, 16_000, "FLOAT")
    long = np.concatenate([music(SEGMENT, seed) for seed in range(35)])
    paths.append(str(tmp_path / "long.wav"))
    soundfile.write(paths[-1], long, 16_000, "FLOAT")
    found = predictor.predict(model, paths, taggrams=True)
    expected = predictor.predict(exported.predictor, paths, taggrams=True)
    for one, other in zip(found, expected, strict=True):
        assert (one.path, one.secs, one.note) == (other.path, other.secs, other.note)
        for name in ("scores", "embedding"):
            values = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)
        for values in zip(one.taggram, other.taggram, strict=True):
            np.testing.assert_allclose(*values, atol=1e-4)


def test_predict_works_where_tensorflow_is_not_installed(version, exported, tmp_path):
    soundfile.write(tmp_path / "a.flac", CLIPS[0], 16_000)
    soundfile.write(tmp_path / "b.mp3", np.repeat(CLIPS[2], 2), 32_000)
    (tmp_path / "c.mp3").write_bytes(b"no sound" * 9)
    names = [str(tmp_path / name) for name in ("a.flac", "b.mp3", "c.mp3")]
    table, vectors = tmp_path / "light.csv", tmp_path / "light.npz"
    flags = [f"--output={table}", f"--embeddings={vectors}"]
    done = run_blocked("tools.predict", f"--model={version}", *flags, *names)
    assert done.returncode == 1, done.stderr
    assert "c.mp3: not audio" in done.stderr and "Traceback" not in done.stderr
    rows = table.read_text("utf-8").splitlines()
    expected = list(predictor.predict(exported.predictor, names[:2]))
    for row, result in zip(rows[1:3], expected, strict=True):
        scores = list(map(float, row.split(",")[-len(LABELS) :]))
        np.testing.assert_allclose(scores, result.scores, atol=1e-4)
    with np.load(vectors) as stored:
        assert stored["ids"].tolist() == names[:2]


def test_without_tensorflow_the_onnx_file_of_a_saved_model_is_used(exported, tmp_path):
    soundfile.write(tmp_path / "a.wav", CLIPS[0], 16_000)
    done = run_blocked(
        "tools.predict", f"--model={exported.folder}", tmp_path / "a.wav"
    )
    assert done.returncode == 0, done.stderr


def test_of_two_files_the_one_is_loaded_that_can_be(
    version, exported, tmp_path, monkeypatch
):
    folder = shutil.copytree(version, tmp_path / "1")
    shutil.copytree(exported.folder, folder, dirs_exist_ok=True)
    assert isinstance(runtimes.load(folder), runtimes.OnnxRuntime)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(runtimes.load(folder), runtimes.TensorFlowRuntime)
    (folder / "saved_model.pb").unlink()
    with pytest.raises(ValueError, match="model.onnx: needs ONNX Runtime"):
        runtimes.load(folder)


def test_a_saved_model_and_its_onnx_file_are_one_version_for_either_runtime(exported):
    model = predictor.Predictor(exported.base)
    assert isinstance(model.runtime, runtimes.OnnxRuntime)
    expected = runtimes.TensorFlowRuntime(model.folder)
    given = CLIPS[2][np.newaxis], np.zeros(1, np.float32)
    for found, wanted in zip(
        model.runtime.score(*given), expected.score(*given), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    passed = "\n".join(model_card.read(model.folder)["checks"])
    assert "warm-up requests" in passed and "standard operations" in passed


def test_a_damaged_onnx_file_is_an_error_that_names_it(version, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((version / "model.onnx").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.onnx: damaged ONNX file"):
        runtimes.OnnxRuntime(path)
    builder = onnx_builder.Builder()
    builder.rename("x", "y")
    values = (onnx_builder.info(name, np.float32, [1]) for name in "xy")
    onnx.save(builder.model([next(values)], {}, list(values)), path)
    with pytest.raises(ValueError, match="of another program"):
        runtimes.OnnxRuntime(path)
