"""One tiny classifier goes through `tools.export`; most tests look at the result."""

import collections
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl import features, params, serving
from genre_tl.audio import decoding
from genre_tl.model import networks
from genre_tl.serving import (
    checks,
    export,
    model_card,
    predictor,
    saved_model,
    warmup,
)

PRESET = params.PRESETS["tiny"]
FRONTEND = PRESET.frontend
SEGMENT, HOP = FRONTEND.segment_samples, FRONTEND.hop_samples
LABELS = ["blues", "drum & bass", "schlager/ünïcode"]


def sensitive(network: keras.Sequential) -> keras.Sequential:
    """Gives random weights the size that training gives them, so that scores vary."""
    for layer in network.layers[:-1]:
        if isinstance(layer, keras.layers.GRU):
            layer.set_weights([3 * weight for weight in layer.get_weights()])
    generator = np.random.default_rng(5)
    num_paths = network.input_shape[-1]
    statistics = generator.normal(-4, 1, num_paths), generator.uniform(2, 6, num_paths)
    networks.standardize(network, *statistics)
    return network


@functools.cache
def frames_of() -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns waveforms of one segment -> log-scattering frames."""
    layer = features.LogScattering.from_params(FRONTEND)
    return tf.function(layer, [tf.TensorSpec([None, SEGMENT], tf.float32)])


@functools.cache
def traced(network: keras.Sequential) -> Callable[[tf.Tensor], tf.Tensor]:
    frames = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return tf.function(lambda x: network(x, training=False), [frames])


def num_paths() -> int:
    return frames_of()(tf.zeros([1, SEGMENT])).shape[-1]


def music(num_samples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16_000
    phase = 2 * np.pi * generator.uniform(100, 2000) * time * (1 + 0.1 * time)
    tone = np.sin(1 + phase)  # the first sample is sound
    noise = generator.standard_normal(num_samples) * (np.sin(9 * time * seed) > 0)
    return (0.3 * tone + 0.1 * noise).astype(np.float32)


def data(**clips: list[str]) -> dict:
    return {"name": "gtzan", "split": "fold 0 of 7", "num_clips": 4} | clips


RECORD = {
    "kind": "finetune",
    "preset": PRESET.to_dict(),
    "seed": 0,
    "start": {
        "data": data(train=["f/a.mp3"], valid=[], test=[]) | {"name": "magnatagatune"},
        "metrics": {"valid": {"macro_auc_roc": 0.75}},
    },
    "data": data(train=["a/1.wav", "a/2.wav"], valid=[], test=["b/1.wav"]),
    "vocabulary": LABELS,
    "command": "/home/someone/genre_tl/tools/finetune.py --data_dir=data/gtzan",
    "versions": {"tensorflow": tf.__version__},
    "metrics": {"test": {"accuracy": 0.875, "confusion": [[1, 0], [0, 1]]}},
    "epochs": 4,
    "best_epoch": 4,
}


def run_export(run: types.SimpleNamespace, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-m", "tools.export", f"--run_dir={run.run_dir}"),
            *(f"--saved_models_dir={run.saved_models}", "--name=test", *flags),
        ],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A finished run, and what `tools.export` made of it."""
    folder = tmp_path_factory.mktemp("serving")
    run = types.SimpleNamespace(
        run_dir=folder / "run",
        saved_models=folder / "saved_models",
        base=folder / "saved_models" / "test",
        network=sensitive(
            networks.classifier(PRESET.model, num_paths(), len(LABELS), seed=3)
        ),
    )
    run.run_dir.mkdir()
    networks.save(run.network, run.run_dir / "model.keras")
    (run.run_dir / "run.json").write_text(json.dumps(RECORD), "utf-8")
    run.done = run_export(run)
    assert run.done.returncode == 0, run.done.stderr
    run.folder = run.base / "1"
    run.predictor = serving.Predictor(run.base)
    run.model = run.predictor._model  # the first call takes seconds: share it
    return run


def scores_of(run: types.SimpleNamespace, batch: np.ndarray) -> np.ndarray:
    serve = run.model.signatures["serving_default"]
    return serve(waveform=tf.constant(batch, tf.float32))["scores"].numpy()


def keras_scores(network: keras.Sequential, clip: np.ndarray) -> np.ndarray:
    """Scores a clip segment by segment, by the definition."""
    total, frames = 0.0, 0
    for start in range(0, len(clip), SEGMENT):
        piece = np.trim_zeros(clip[start : start + SEGMENT], "b")
        if len(piece):
            padded = np.pad(piece, [0, SEGMENT - len(piece)])[np.newaxis]
            weight = -(-len(piece) // HOP)
            total += weight * traced(network)(frames_of()(padded)).numpy()[0]
            frames += weight
    return total / frames


CLIPS = [
    music(SEGMENT, 1),
    music(SEGMENT // 2, 2),
    music(3 * SEGMENT + 1234, 3),
    music(HOP // 3, 4),
    np.concatenate([music(900, 5), np.zeros(2 * SEGMENT, np.float32), music(5000, 6)]),
]


@pytest.mark.parametrize("number", range(len(CLIPS)))
def test_scores_equal_those_of_the_keras_model(exported, number):
    scores = scores_of(exported, CLIPS[number][np.newaxis])
    expected = keras_scores(exported.network, CLIPS[number])
    np.testing.assert_allclose(scores, [expected], atol=1e-5)


def test_the_reference_clips_of_these_tests_get_different_scores(exported):
    scores = exported.predictor.scores(CLIPS)
    assert np.ptp(scores, axis=0).max() > 0.1


@pytest.mark.parametrize("padding", [0, 1, SEGMENT + 5])
def test_scores_depend_neither_on_the_batch_nor_on_padding(exported, padding):
    batch = np.zeros([len(CLIPS), max(map(len, CLIPS)) + padding], np.float32)
    for row, clip in zip(batch, CLIPS, strict=True):
        row[: len(clip)] = clip
    alone = [scores_of(exported, clip[np.newaxis])[0] for clip in CLIPS]
    np.testing.assert_allclose(scores_of(exported, batch), alone, atol=1e-6)


def test_more_segments_than_a_chunk_are_averaged_alike(exported):
    clip = music((saved_model.CHUNK_SEGMENTS + 2) * SEGMENT + 77, 8)
    np.testing.assert_allclose(
        scores_of(exported, clip[np.newaxis])[0],
        keras_scores(exported.network, clip),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "value", [0.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9, 1e-38, 1e-45]
)
def test_whatever_the_samples_scores_are_finite_and_neighbours_untouched(
    exported, value
):
    batch = np.stack([np.full(SEGMENT, value, np.float32), CLIPS[0]])
    scores = scores_of(exported, batch)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scores[1], scores_of(exported, batch[1:])[0], atol=1e-6)


def test_a_clip_without_samples_is_a_silent_one(exported):
    silent = scores_of(exported, np.zeros([1, 5 * SEGMENT]))
    np.testing.assert_allclose(
        scores_of(exported, np.zeros([2, 0])), np.repeat(silent, 2, 0), atol=1e-6
    )


def test_no_clips_give_no_scores(exported):
    assert scores_of(exported, np.zeros([0, 100])).shape == (0, len(LABELS))


def test_every_output_has_the_batch_first(exported):
    waveform = tf.zeros([4, 100])
    serve = exported.model.signatures["serving_default"](waveform=waveform)
    assert {k: v.shape.as_list() for k, v in serve.items()} == {
        "scores": [4, len(LABELS)],
        "classes": [4, len(LABELS)],
    }
    for row in serve["classes"].numpy():
        assert [label.decode() for label in row] == LABELS
    embed = exported.model.signatures["embedding"](waveform=waveform)
    assert embed["embedding"].shape == [4, exported.network.layers[-1].input.shape[1]]


def test_the_embedding_is_what_the_head_reads(exported):
    clip = tf.constant(CLIPS[0][np.newaxis])
    vector = exported.model.signatures["embedding"](waveform=clip)["embedding"]
    weights, bias = exported.network.layers[-1].get_weights()
    logits = vector.numpy() @ weights + bias
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(scores_of(exported, clip.numpy()), expected, atol=1e-5)


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
    assert sum(line.startswith("  ok: ") for line in lines) == 10
    assert any(f"written: {exported.folder}," in line for line in lines)
    assert f"--model={exported.base}" in lines[-1]
    assert exported.done.stderr == ""


def test_the_same_model_is_not_exported_twice(exported):
    done = run_export(exported)
    assert (done.returncode, done.stderr) == (0, "")
    assert "this very model already" in done.stdout
    assert os.listdir(exported.base) == ["1"]


def test_nothing_in_an_export_names_a_place_of_this_machine(exported):
    for path in exported.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for place in (pathlib.Path(__file__).parents[2], exported.base, "/tmp/"):
            assert os.fsencode(place) not in content, path


def test_a_path_left_inside_an_export_is_noticed(tmp_path):
    (tmp_path / "labels.txt").write_text(f"{tmp_path.parent}/labels.txt")
    with pytest.raises(ValueError, match=r"refused: it names .* in labels\.txt"):
        checks._check_traces(tmp_path)


def test_an_operation_that_servers_may_lack_is_noticed(exported, monkeypatch):
    monkeypatch.setattr(checks, "OPERATIONS", checks.OPERATIONS - {"Conv2D", "Softmax"})
    with pytest.raises(ValueError, match=r"\['Conv2D', 'Softmax'\]"):
        checks._check_operations(exported.folder)


SAME = ("alone", "in a batch", "padded", "padded by a server", "as bytes")


@pytest.mark.parametrize(
    "name, reason",
    [
        (
            "alone",
            "scores of 5 reference clips.* differ from the Keras model's by 2.0e",
        ),
        ("in a batch", "scores of a clip in a batch differ"),
        ("padded", "scores of a clip padded differ"),
        ("padded by a server", "scores of a clip padded by a server differ"),
        ("as bytes", "scores of an encoded WAV file differ"),
        ("embedding/embedding", r"\['embedding/embedding'\] are not finite"),
        ("more/scores", "its signatures are .*'more'"),
        ("classes", "classes are not the labels"),
    ],
)
def test_wrong_answers_are_noticed(exported, monkeypatch, name, reason):
    right = np.full([5, len(LABELS)], 0.5)
    answers = dict.fromkeys(SAME, right)
    answers |= {f"{name}/{name}": right for name in warmup.requests()}
    answers["classes"] = np.array([[label.encode() for label in LABELS]])
    answers["secs"] = np.ones(3)
    monkeypatch.setattr(checks, "FILES", files_of(exported.folder))
    monkeypatch.setattr(checks, "keras_scores", lambda *args: right)
    monkeypatch.setattr(checks, "_call", lambda *args: answers)

    def passed():
        return list(checks.run(exported.folder, exported.network, FRONTEND, LABELS))

    assert len(passed()) == 10
    wrong = {"embedding/embedding": right * np.nan, "more/scores": right}
    wrong["classes"] = answers["classes"][:, ::-1]
    answers[name] = wrong.get(name, right + 2e-5)
    with pytest.raises(ValueError, match=f"refused: .*{reason}"):
        passed()


def files_of(folder: pathlib.Path) -> set[str]:
    paths = folder.rglob("*")
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def test_files_that_do_not_belong_into_an_export_are_noticed(exported, monkeypatch):
    with pytest.raises(ValueError, match=r"refused: files .*model_card\.json"):
        checks._check_files(exported.folder, exported.network)


def test_weights_of_the_training_in_an_export_are_noticed(tmp_path, monkeypatch):
    network = networks.tagger(params.Model(num_layers=1, num_units=2), num_paths(), 2)
    module = tf.Module()
    module.weights = [tf.Variable(w) for w in network.get_weights()]
    module.momentum = tf.Variable(tf.zeros([3]))
    tf.saved_model.save(module, str(tmp_path))
    monkeypatch.setattr(checks, "FILES", files_of(tmp_path))
    with pytest.raises(ValueError, match="something of the training"):
        checks._check_files(tmp_path, network)


def test_a_score_that_is_no_number_is_noticed():
    with pytest.raises(ValueError, match="refused"):
        checks.check_difference(np.array([np.nan]), np.zeros(1), "it differs")


def test_an_export_that_cannot_be_called_is_noticed_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="refused: .*SavedModel file does not exist"):
        checks._call(tmp_path, [np.ones(9, np.float32)])


def test_a_tagger_that_reads_out_its_last_state_exports_too(tmp_path):
    model = params.Model(num_layers=1, num_units=4, readout="last")
    network = sensitive(networks.tagger(model, num_paths(), 5))
    saved_model.save(network, FRONTEND, list("abcde"), tmp_path / "model")
    checks._check_operations(tmp_path / "model")
    scores = serving.Predictor(tmp_path / "model").scores(CLIPS[:2])
    expected = [keras_scores(network, clip) for clip in CLIPS[:2]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.fixture
def quick(monkeypatch):
    """Exports without a model: `quick(base)` publishes a folder with three files."""

    def save(network, frontend, labels, folder):
        folder.mkdir()
        (folder / "saved_model.pb").write_text("model")

    monkeypatch.setattr(saved_model, "save", save)
    monkeypatch.setattr(checks, "run", lambda *args: iter(["it is fine"]))
    network = networks.classifier(PRESET.model, 3, 2)

    def exported(base, labels=("a", "b"), **kwargs):
        return export.export(network, FRONTEND, labels, base, card={}, **kwargs)

    return exported


def test_versions_count_up_and_nothing_is_overwritten(quick, tmp_path):
    assert quick(tmp_path / "x").name == "1"
    assert quick(tmp_path / "x").name == "2"
    (tmp_path / "x" / "10").mkdir()
    (tmp_path / "x" / "99-old").mkdir()
    (tmp_path / "x" / "README.md").touch()
    assert quick(tmp_path / "x").name == "11"
    assert export.newest(tmp_path / "x").name == "11"
    assert not any((tmp_path / "x" / "10").iterdir())


def test_a_number_that_was_taken_meanwhile_is_not_overwritten(
    quick, tmp_path, monkeypatch
):
    quick(tmp_path)
    found = iter([[], [1]])  # the first look was too early
    monkeypatch.setattr(export, "_versions", lambda base: next(found))
    assert quick(tmp_path).name == "2"
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_what_a_killed_export_left_goes_with_a_later_one(quick, tmp_path):
    for name, age_secs in ((".export-killed", 10**5), (".export-at-work", 60)):
        (tmp_path / name / "model").mkdir(parents=True)
        at = time.time() - age_secs
        os.utime(tmp_path / name, (at, at))
    quick(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".export-at-work", "1"]


def test_a_version_is_whole_when_it_appears(quick, tmp_path):
    def look(text):
        assert [n for n in os.listdir(tmp_path) if not n.startswith(".")] == []

    folder = quick(tmp_path, on_check=look)
    assert files_of(folder) == {
        "saved_model.pb",
        "assets.extra/model_card.json",
        "assets.extra/model_card.md",
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
    assert reader.communicate()[0] == "[5]\n"


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


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], ["a", ""], ["a", "b\nc"]])
def test_labels_that_do_not_fit_are_refused(quick, tmp_path, labels):
    with pytest.raises(ValueError, match="label"):
        quick(tmp_path, labels)


def test_a_network_without_a_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="head"):
        export.export(
            networks.backbone(PRESET.model, 3), FRONTEND, ["a"], tmp_path, card={}
        )


def test_the_predictor_takes_versions_or_one_version(exported):
    assert exported.predictor.folder == exported.folder
    assert exported.predictor.labels == tuple(LABELS)
    assert predictor._locate(exported.folder) == exported.folder


def test_the_predictor_keeps_the_order_of_clips_of_any_length(exported, monkeypatch):
    monkeypatch.setattr(predictor, "_BATCH_SAMPLES", 2 * SEGMENT)
    clips = [*CLIPS, np.zeros(0, np.float32), CLIPS[1].astype(np.float64)]
    expected = [scores_of(exported, clip[np.newaxis])[0] for clip in clips]
    np.testing.assert_allclose(exported.predictor.scores(clips), expected, atol=1e-6)
    assert exported.predictor.scores([]).shape == (0, len(LABELS))


def test_batches_hold_every_clip_once_and_no_more_than_their_share():
    lengths = np.random.default_rng(0).integers(0, 10**6, 100).tolist()
    batches = list(predictor._batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(100))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= predictor._BATCH_SAMPLES


@pytest.mark.parametrize(
    "waveform", [np.zeros([2, 9], np.float32), np.zeros(9, np.int16)]
)
def test_the_predictor_refuses_what_is_no_waveform(exported, waveform):
    with pytest.raises(ValueError, match=r"waveforms\[1\] is .*floating-point"):
        exported.predictor.scores([np.zeros(9, np.float32), waveform])


def test_the_predictor_says_why_it_cannot_load(tmp_path, exported):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        serving.Predictor(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
        serving.Predictor(tmp_path)
    (tmp_path / "3").mkdir()
    with pytest.raises(FileNotFoundError, match="3: holds no SavedModel"):
        serving.Predictor(tmp_path)
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"\x0anonsense")
    with pytest.raises(ValueError, match="damaged SavedModel"):
        serving.Predictor(tmp_path)
    graph = (exported.folder / "saved_model.pb").read_bytes()
    (tmp_path / "3" / "saved_model.pb").write_bytes(graph)  # no variables
    with pytest.raises(ValueError, match="damaged SavedModel"):
        serving.Predictor(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "4"))
    with pytest.raises(ValueError, match="not of this package"):
        serving.Predictor(tmp_path)


@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_what_a_server_pads_with_changes_no_score(exported, value):
    clip = CLIPS[1].copy()
    clip[0] = value
    padded = np.concatenate([clip, np.full(SEGMENT, value, np.float32)])
    np.testing.assert_allclose(
        scores_of(exported, padded[np.newaxis]),
        scores_of(exported, clip[np.newaxis]),
        atol=1e-6,
    )


def answer(run: types.SimpleNamespace, name: str, *batch) -> dict[str, np.ndarray]:
    (value,) = run.model.signatures[name].structured_input_signature[1].values()
    dtype = value.dtype
    (argument,) = run.model.signatures[name].structured_input_signature[1]
    given = {argument: tf.constant(list(batch), dtype)}
    return {k: v.numpy() for k, v in run.model.signatures[name](**given).items()}


def test_encoded_files_get_the_scores_of_what_they_hold(exported):
    rate = 22_050
    sound = decoding.resample(CLIPS[0], 16_000, rate).numpy()
    expected = decoding.resample(sound, rate, 16_000).numpy()
    files = [warmup.wav_bytes(sound, rate), warmup.wav_bytes(CLIPS[1])]
    found = answer(exported, "audio_bytes", *files)
    np.testing.assert_allclose(
        found["scores"], exported.predictor.scores([expected, CLIPS[1]]), atol=1e-6
    )
    assert [x.decode() for x in found["classes"][1]] == LABELS
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"audio_bytes\[1\]: its fmt"
    ):
        answer(exported, "audio_bytes", files[0], files[1][:21])


def example(**features) -> bytes:
    made = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(float_list=tf.train.FloatList(value=value))
        for name, value in features.items()
    }
    features = tf.train.Features(feature=made)
    return tf.train.Example(features=features).SerializeToString()


def test_examples_hold_samples_or_a_file(exported):
    batch = [
        example(waveform=CLIPS[1]),
        example(audio=warmup.wav_bytes(CLIPS[0]), other=b"x"),
        example(waveform=CLIPS[3]),
    ]
    found = answer(exported, "classify", *batch)
    assert set(found) == {"classes", "scores"}
    clips = [CLIPS[1], CLIPS[0], CLIPS[3]]
    np.testing.assert_allclose(
        found["scores"], exported.predictor.scores(clips), atol=1e-6
    )
    np.testing.assert_allclose(
        answer(exported, "classify", batch[0])["scores"], found["scores"][:1], atol=1e-6
    )


@pytest.mark.parametrize(
    "bad, reason",
    [
        (example(), r"inputs\[2\]: the Example has neither"),
        (example(audio=b"RIFF"), r"inputs\[2\]: it has no RIFF"),
        (b"no example", "Could not parse example"),
    ],
)
def test_a_bad_example_is_refused_by_its_number(exported, bad, reason):
    fine = example(waveform=CLIPS[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        answer(exported, "classify", fine, fine, bad)


def test_the_classify_signature_is_one_to_a_server(exported):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported.folder / "saved_model.pb").read_bytes())
    definitions = dict(saved.meta_graphs[0].signature_def)
    assert set(definitions) >= set(warmup.requests())
    classify = definitions["classify"]
    assert classify.method_name == "tensorflow/serving/classify"
    assert set(classify.inputs) == {"inputs"}
    assert set(classify.outputs) == {"classes", "scores"}
    for name, definition in definitions.items():
        if name in warmup.requests():
            tensors = [*definition.inputs.values(), *definition.outputs.values()]
            assert all(t.tensor_shape.dim[0].size == -1 for t in tensors), name


def test_a_taggram_has_a_row_for_every_frame_with_sound(exported):
    found = answer(exported, "taggram", np.pad(CLIPS[4], [0, 300]))
    num_frames = -(-900 // HOP)
    times, scores = found["times"][0], found["scores"][0]
    per_segment = times.reshape(-1, FRONTEND.segment_frames)
    expected = np.arange(times.size).reshape(per_segment.shape) * HOP / 16_000
    # Sound for 900 samples, two segments of silence, sound for 5000 samples.
    is_frame = np.zeros(per_segment.shape, bool)
    is_frame[0, :num_frames] = True
    start, end = 900 + 2 * SEGMENT, 900 + 2 * SEGMENT + 5000
    assert start // SEGMENT == 2 and end // SEGMENT == 2
    is_frame[2, : -(-(end - 2 * SEGMENT) // HOP)] = True
    np.testing.assert_allclose(per_segment[is_frame], expected[is_frame], atol=1e-6)
    assert (per_segment[~is_frame] == saved_model.NO_TIME).all()
    assert not scores[times == saved_model.NO_TIME].any()
    np.testing.assert_allclose(scores[times >= 0].sum(axis=1), 1, atol=1e-5)


def test_a_taggram_of_one_window_is_the_score_of_the_clip(exported):
    # A window is longer than a segment of this front end.
    times, scores = exported.predictor.taggram(CLIPS[1])
    assert len(times) == -(-len(CLIPS[1]) // HOP)
    expected = exported.predictor.scores([CLIPS[1]])
    np.testing.assert_allclose(scores, np.repeat(expected, len(times), 0), atol=1e-5)


def test_taggrams_of_a_batch_are_those_of_its_clips(exported):
    batch = np.zeros([len(CLIPS), max(map(len, CLIPS))], np.float32)
    for row, clip in zip(batch, CLIPS, strict=True):
        row[: len(clip)] = clip
    found = answer(exported, "taggram", *batch)
    for clip, times, scores in zip(CLIPS, found["times"], found["scores"], strict=True):
        alone = exported.predictor.taggram(clip)
        is_frame = times >= 0
        np.testing.assert_allclose(times[is_frame], alone[0], atol=1e-6)
        np.testing.assert_allclose(scores[is_frame], alone[1], atol=1e-5)


def test_the_predictor_gives_embeddings_at_the_price_of_scores(exported):
    scores, vectors = exported.predictor.scores_and_embeddings(CLIPS)
    np.testing.assert_array_equal(scores, exported.predictor.scores(CLIPS))
    np.testing.assert_array_equal(vectors, exported.predictor.embeddings(CLIPS))
    expected = [answer(exported, "embedding", clip)["embedding"][0] for clip in CLIPS]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert exported.predictor.embeddings([]).shape == (0, vectors.shape[1])


def test_the_warm_up_file_holds_requests_that_a_server_understands(exported):
    name = "tensorflow_serving.apis.prediction_log_pb2"
    logs = pytest.importorskip(name, reason="NOT RUN: needs tensorflow-serving-api")
    replayed = set()
    for record in tf.data.TFRecordDataset(str(exported.folder / warmup.REQUESTS)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.SerializeToString(deterministic=True) == record.numpy()
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        name = request.model_spec.signature_name
        if kind == "classify_log":
            examples = request.input.example_list.examples
            batch = [each.SerializeToString() for each in examples]
        else:
            (tensor,) = request.inputs.values()
            batch = tf.make_ndarray(tensor)
        results = answer(exported, name, *batch).values()
        assert all(len(result) == 1 for result in results)
        replayed.add(name)
    assert replayed == set(exported.model.signatures)


def test_batches_of_a_server_are_those_that_are_computed_at_once(exported):
    text = (exported.folder / warmup.BATCHING).read_text("utf-8")
    fields = dict(re.findall(r"^(\w+)(?: \{ value)?: (\w+)(?: \})?$", text, re.M))
    # Of tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    assert set(fields) == {
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "pad_variable_length_inputs",
    }
    assert int(fields["max_batch_size"]) == saved_model.CHUNK_SEGMENTS
    assert fields["pad_variable_length_inputs"] == "true"


def tensor_names(run: types.SimpleNamespace, name: str) -> list[str]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((run.folder / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[name]
    (given,) = definition.inputs.values()
    return [given.name, definition.outputs["scores"].name]


def test_a_program_in_c_gets_the_same_scores(exported, tmp_path):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("NOT RUN: there is no C compiler")
    libraries = pathlib.Path(tf.sysconfig.get_lib())
    if not (libraries / "libtensorflow_cc.so.2").is_file():
        pytest.skip(f"NOT RUN: there is no libtensorflow_cc.so.2 in {libraries}")
    program = tmp_path / "serve"
    subprocess.run(
        [
            *(compiler, "-O1", "-Wall", "-Werror", "-std=c11", "-o", str(program)),
            str(pathlib.Path(__file__).with_name("serve.c")),
            f"-I{tf.sysconfig.get_include()}",
            *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
            *(f"-L{libraries}", f"-Wl,-rpath,{libraries}"),
        ],
        check=True,
    )
    CLIPS[0].tofile(tmp_path / "clip.raw")
    (tmp_path / "clip.wav").write_bytes(warmup.wav_bytes(CLIPS[0], 22_050))
    done = subprocess.run(
        [
            *(program, exported.folder, tmp_path / "clip.raw", tmp_path / "clip.wav"),
            *tensor_names(exported, "serving_default"),
            *tensor_names(exported, "audio_bytes"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    resampled = decoding.resample(CLIPS[0], 22_050, 16_000).numpy()
    expected = exported.predictor.scores([CLIPS[0], resampled])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def fuzzed(generator: np.random.Generator) -> bytes:
    """Returns a WAV file, or what is left of one after a few accidents."""
    rate = int(generator.choice([8_000, 16_000, 22_050, 44_100]))
    file = io.BytesIO()
    samples = generator.uniform(-1, 1, [generator.integers(0, 400), 2])
    subtype = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
    kind = str(generator.choice(["WAV", "WAVEX"]))
    soundfile.write(file, samples, rate, str(generator.choice(subtype)), format=kind)
    data = bytearray(file.getvalue())
    for _ in range(generator.integers(0, 4)):
        at = int(generator.integers(0, min(len(data), 90) + 1))
        end = at + int(generator.integers(0, 9))
        extreme = generator.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data)])
        accident = generator.integers(0, 7)
        if accident == 0:
            data[at : at + 1] = generator.bytes(1)
        elif accident == 1:
            data[at : at + 4] = int(extreme).to_bytes(4, "little")
        elif accident == 2:
            data[at:end] = b""
        elif accident == 3:
            data[at:at] = generator.bytes(end - at)
        elif accident == 4:
            data = data[: generator.integers(0, len(data) + 1)]
        elif accident == 5:
            data[at:at] = data[at:end]
        else:
            data = bytearray(generator.bytes(end))
    return bytes(data)


def resident_bytes() -> int:
    num_pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def test_whatever_the_bytes_there_are_scores_or_a_reason(exported):
    # GENRE_TL_FUZZ=10000 makes it thorough.
    count = int(os.environ.get("GENRE_TL_FUZZ", "300"))
    serve = exported.model.signatures["audio_bytes"]
    outcomes, resident = collections.Counter(), []
    for number in range(count):
        data = fuzzed(np.random.default_rng([7, number]))
        try:
            scores = serve(tf.constant([data]))["scores"].numpy()
            assert scores.shape == (1, len(LABELS)) and np.isfinite(scores).all()
            outcomes["scores"] += 1
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r"audio_bytes\[0\]: ([^\]0-9]+)", error.message)
            assert found, (number, error.message)
            outcomes[found[1].strip()] += 1
        resident.append(resident_bytes())
    print(outcomes, [round(each / 1e6) for each in resident[:: count // 10]])
    assert len(outcomes) > 8 and outcomes["scores"] > count / 10
    # A rate that has no divisor in common with 16 kHz takes 200 MB for a moment.
    assert resident[-1] - max(resident[: count // 3]) < 100e6
