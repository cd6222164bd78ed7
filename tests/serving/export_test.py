"""Versions, model cards and `tools.export`."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.tiny_export import (
    CLIPS,
    FRONTEND,
    LABELS,
    PRESET,
    RECORD,
    SEGMENT,
    data,
    files_of,
    num_paths,
    run_export,
    with_kernel,
)

from genre_tl import files, params
from genre_tl.model import networks
from genre_tl.serving import (
    checks,
    export,
    model_card,
    predictor,
    saved_model,
    tflite_and_keras,
    versions,
)


def test_labels_and_card_can_be_read_without_tensorflow(exported):
    labels = (exported.folder / "assets" / "labels.txt").read_text("utf-8")
    assert labels.splitlines() == LABELS
    card = json.loads((exported.folder / model_card.PATH).read_text("utf-8"))
    assert card["labels"] == LABELS
    assert card["frontend"]["sample_rate_hz"] == 16_000
    assert card["frontend"]["segment_samples"] == SEGMENT
    model_file = exported.run_dir / "model.keras"
    assert card["model_sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert [name.decode() for name in exported.model.labels().numpy()] == LABELS


def test_the_card_says_what_the_run_was_without_naming_clips_or_homes(exported):
    card = model_card.read(exported.folder)
    assert card["data"] == data(train=2, valid=0, test=1)
    assert card["metrics"] == RECORD["metrics"]
    assert card["training"]["start"]["metrics"]["valid"]["macro_auc_roc"] == 0.75
    assert len(card["licence_of_the_data"]) == 2
    command = "python -m tools.finetune --data_dir=data/gtzan"
    assert card["training"]["command"] == command
    text = (exported.folder / model_card.PATH).with_suffix(".md").read_text("utf-8")
    assert text.startswith("# test\n")
    for part in ("## Limits", "Accuracy: 0.875", command, "CC BY-NC-SA", LABELS[2]):
        assert part in text
    assert "1.wav" not in text and "someone" not in text


def test_the_tool_shows_each_check_and_what_to_do_next(exported):
    lines = exported.done.stdout.splitlines()
    assert sum(line.startswith("  ok: ") for line in lines) == 14
    assert any(f"written: {exported.folder}," in line for line in lines)
    assert f"--model={exported.base}" in lines[-1]
    assert exported.done.stderr == ""


def test_the_same_model_is_not_exported_twice(exported):
    done = run_export(exported)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already exported as" in done.stdout
    assert os.listdir(exported.base) == ["1"]


def test_a_damaged_version_does_not_keep_the_next_from_being_written(
    exported, tmp_path
):
    shutil.copytree(exported.folder, tmp_path / "test" / "1")
    (tmp_path / "test" / "1" / model_card.PATH).write_bytes(b"")
    done = run_export(exported, f"--saved_models_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"warning: {tmp_path / 'test' / '1'}")
    assert done.stderr.endswith("the next version will replace it\n")
    assert predictor.Predictor(tmp_path / "test").folder.name == "2"


def test_facts_that_are_no_json_object_are_refused_before_the_export(
    exported, tmp_path
):
    (tmp_path / "facts.json").write_text("[1]")
    done = run_export(exported, "--force", f"--facts={tmp_path / 'facts.json'}")
    assert done.returncode == 1
    assert "facts.json: not a JSON object" in done.stderr
    assert os.listdir(exported.base) == ["1"]


def test_facts_of_a_file_are_in_the_card_beside_those_of_the_run(exported, tmp_path):
    facts = {"teacher": "musicnn", "licence_of_the_data": ["CC0 of everything"]}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    flags = f"--facts={tmp_path / 'facts.json'}", "--name=with_facts"
    done = run_export(exported, *flags)
    assert done.returncode == 0, done.stderr
    card = model_card.read(exported.saved_models / "with_facts" / "1")
    assert card["teacher"] == "musicnn" and card["metrics"] == RECORD["metrics"]
    assert card["licence_of_the_data"] == ["CC0 of everything"]


def test_nothing_in_an_export_names_a_place_of_this_machine(exported):
    for path in exported.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for place in (pathlib.Path(__file__).parents[2], exported.base, "/tmp/"):
            assert os.fsencode(place) not in content, path


def test_an_export_holds_the_weights_of_the_network_and_nothing_else(exported):
    assert files_of(exported.folder) == {
        "saved_model.pb",
        "model.onnx",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/labels.txt",
        "assets.extra/model_card.json",
        "assets.extra/model_card.md",
        "assets.extra/sha256sums.txt",
        "assets.extra/tf_serving_warmup_requests",
        "batching_params.pbtxt",
    }
    saved = tf.train.load_checkpoint(str(exported.folder / "variables/variables"))
    shapes = saved.get_variable_to_shape_map().values()
    found = sum(math.prod(shape) for shape in shapes if shape)
    weights = [w for x in exported.network.layers for w in x.get_weights()]
    assert found == sum(w.size for w in weights if w.dtype == np.float32)


def test_a_fresh_process_with_tensorflow_alone_loads_an_export(exported, tmp_path):
    program = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
clip = tf.constant(np.load(sys.argv[2]))
scores = model.signatures["serving_default"](waveform=clip)["scores"].numpy()
np.save(sys.argv[2], scores)
assert "genre_tl" not in sys.modules and "kymatio" not in sys.modules
"""
    path = tmp_path / "clip.npy"
    np.save(path, CLIPS[0][np.newaxis])
    command = [sys.executable, "-c", program, str(exported.folder), str(path)]
    subprocess.run(command, cwd=tmp_path, check=True)
    expected = exported.predictor.scores(CLIPS[:1])
    np.testing.assert_allclose(np.load(path), expected, atol=1e-6)


def test_versions_count_up_and_nothing_is_overwritten(quick, tmp_path):
    assert quick(tmp_path / "x").name == "1"
    assert quick(tmp_path / "x").name == "2"
    (tmp_path / "x" / "10").mkdir()
    (tmp_path / "x" / "99-old").mkdir()
    (tmp_path / "x" / "README.md").touch()
    assert quick(tmp_path / "x").name == "11"
    assert versions.newest(tmp_path / "x").name == "11"
    assert not any((tmp_path / "x" / "10").iterdir())


def test_two_exports_at_once_are_refused(quick, tmp_path):
    with files.lock(tmp_path), pytest.raises(ValueError, match="another process"):
        quick(tmp_path)
    assert quick(tmp_path).name == "1"


def test_an_export_removes_what_a_killed_one_left(quick, tmp_path):
    (tmp_path / f"1{files.UNFINISHED}" / "variables").mkdir(parents=True)
    quick(tmp_path)
    assert os.listdir(tmp_path) == ["1"]


def test_a_version_is_whole_when_it_appears(quick, tmp_path):
    def look(text):
        assert not [n for n in os.listdir(tmp_path) if n.isdigit()]

    folder = quick(tmp_path, on_check=look)
    assert files_of(folder) == {
        "saved_model.pb",
        "assets.extra/model_card.json",
        "assets.extra/model_card.md",
        "assets.extra/sha256sums.txt",
        "assets.extra/tf_serving_warmup_requests",
        "batching_params.pbtxt",
    }


def test_who_polls_the_folder_never_sees_a_part_of_a_version(quick, tmp_path):
    program = """
import os, sys
base, seen = sys.argv[1], {}
print("ready", flush=True)
while len(seen) < 40:
    for name in filter(str.isdigit, os.listdir(base)):
        files = [f for _, _, found in os.walk(f"{base}/{name}") for f in found]
        seen.setdefault(name, len(files))
print(sorted(set(seen.values())))
"""
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout.readline() == "ready\n"
    for _ in range(40):
        quick(tmp_path)
    assert reader.communicate()[0] == "[6]\n"


def test_servers_of_another_user_may_read_an_export(quick, tmp_path):
    folder = quick(tmp_path)
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044


def test_a_failed_check_leaves_nothing_behind(quick, tmp_path, monkeypatch):
    def fail(*args):
        yield "the first is fine"
        raise ValueError("the second is not")

    monkeypatch.setattr(checks, "run", fail)
    with pytest.raises(ValueError, match="the second is not"):
        quick(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "write", [export.write_saved_model, tflite_and_keras.write_keras]
)
def test_an_export_to_a_full_disk_names_the_file_and_leaves_nothing(small_disk, write):
    network = networks.classifier(PRESET.model, num_paths(), len(LABELS))
    trained = saved_model.TrainedModel(network, FRONTEND, LABELS)
    (small_disk / "ballast").write_bytes(bytes(13 * 4096))
    with pytest.raises(OSError, match="No space left") as error:
        export.export(trained, small_disk / "x", card={}, write=write)
    assert str(error.value.filename).startswith(f"{small_disk}/x/1")
    assert os.listdir(small_disk / "x") == []
    with pytest.raises(OSError, match="No space left") as error:
        networks.save(network, small_disk / "model.keras")
    assert error.value.filename == str(small_disk / "model.keras")
    assert sorted(os.listdir(small_disk)) == ["ballast", "x"]


@pytest.mark.parametrize(
    "label", ["a", "", " ", "b\nc", "b\x1b[31m", "b\x00", "b\u2028c", "\udcff"]
)
def test_labels_that_do_not_fit_are_refused_before_the_work(quick, tmp_path, label):
    with pytest.raises(ValueError, match="label"):
        quick(tmp_path / "x", ["a", label])
    assert not (tmp_path / "x").exists()


def test_a_network_without_a_head_is_refused():
    network = networks.classifier(PRESET.model, 3, 2)
    backbone = keras.Model(network.input, network.layers[-1].input)
    with pytest.raises(ValueError, match="head"):
        saved_model.TrainedModel(backbone, FRONTEND, ["a", "b"])


@pytest.mark.parametrize("name", ["my genres", "../genres", ".hidden", "", "ä"])
def test_a_name_that_is_no_folder_name_is_refused_at_once(exported, name):
    done = run_export(exported, f"--name={name}")
    assert done.returncode == 2 and "use letters, digits" in done.stderr


@pytest.mark.parametrize(
    "cell, readout",
    [
        ("gru", "last"),
        ("lstm", "all"),
        ("bidirectional", "all"),
        ("bidirectional", "last"),
    ],
)
def test_networks_of_every_kind_pass_the_checks(tmp_path, cell, readout):
    model = params.Model(num_layers=2, num_units=4, cell=cell, readout=readout)
    network = networks.tagger(model, num_paths(), 2, seed=1)
    trained = saved_model.TrainedModel(network, FRONTEND, ["a", "b"])
    folder = export.export(trained, tmp_path, card={})
    assert len(predictor.Predictor(folder).taggram(CLIPS[1])[1]) > 1


@pytest.mark.parametrize(
    "write",
    [
        export.write_saved_model,
        tflite_and_keras.write_tflite,
        tflite_and_keras.write_keras,
    ],
)
def test_a_network_with_a_kernel_passes_the_checks_of_every_format(tmp_path, write):
    network = with_kernel()
    trained = saved_model.TrainedModel(network, FRONTEND, LABELS)
    scores = checks.keras_scores(trained, checks.reference_clips(FRONTEND))
    assert np.ptp(scores, axis=0).max() > 0.05
    folder = export.export(trained, tmp_path, card={}, write=write)
    assert model_card.read(folder)["checks"]


@pytest.fixture(scope="module")
def half(exported):
    """The same run, exported in half precision by the tool."""
    done = run_export(exported, "--half", "--name=half")
    assert done.returncode == 0, done.stderr
    return exported.saved_models / "half" / "1"


def variables_bytes(folder):
    return sum(path.stat().st_size for path in (folder / "variables").iterdir())


def test_weights_in_half_precision_take_half_the_room(exported, half):
    saved = variables_bytes(exported.folder) - variables_bytes(half)
    assert saved >= 2 * exported.network.count_params()


def test_half_precision_hardly_changes_a_score(exported, half):
    found = predictor.Predictor(half).scores(CLIPS)
    difference = np.abs(found - exported.predictor.scores(CLIPS)).max()
    assert 0 < difference < 0.02


def test_an_export_in_half_precision_passes_the_same_checks(exported, half):
    passed = (model_card.read(x)["checks"] for x in (exported.folder, half))
    ours, theirs = ([text.split(" by ")[0] for text in texts] for texts in passed)
    assert ours == theirs and len(ours) == 14


@pytest.mark.parametrize("name", ["tflite", "keras"])
def test_half_precision_is_that_of_a_saved_model(exported, name):
    done = run_export(exported, "--half", f"--format={name}")
    assert done.returncode == 2
    assert "--half is for saved_model and onnx" in done.stderr
