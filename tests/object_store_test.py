"""From and to an object store that fails now and then: the same bytes as on a disk.

`tests/support/object_store.py` is a server of the S3 protocol, from moto.
"""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from support import loudness, object_store, runs, small_features

from genre_tl import storage, workers
from genre_tl.features import extraction
from genre_tl.serving import predictor
from genre_tl.training import finetune, run_folder
from tools import command, predict

FAULTS = 0.05


@pytest.fixture
def server(monkeypatch, tmp_path):
    with object_store.serving(monkeypatch, tmp_path / "cache") as faults:
        yield faults


def set_times(folder, copy):
    """Gives files the times of their copies."""
    for path in copy.rglob("*.*"):
        found = path.stat()
        os.utime(folder / path.relative_to(copy), ns=(found.st_mtime_ns,) * 2)


def here(folder):
    files = small_features.contents(folder)
    return {name.replace(os.sep, "/"): x for name, x in files.items()}


@pytest.fixture
def music(server, tmp_path):
    """A collection on disk and its URL; then the server begins to fail."""
    folder = tmp_path / "music"
    small_features.make(folder)
    object_store.put(folder, "music")
    set_times(folder, storage.pulled("s3://bucket/music"))
    server.share = FAULTS
    return folder


class Elsewhere(workers.Here):
    """A machine whose cache is empty."""

    def run(self, function, units):
        shutil.rmtree(storage.local("s3://bucket/music"))
        yield from super().run(function, units)
        storage.pulled("s3://bucket/music")


def test_features_are_the_same_bytes_with_one_process_and_with_two(
    server, music, tmp_path, monkeypatch
):
    monkeypatch.setattr(extraction, "_SHARD_FILES", 2)
    small_features.extract(music, tmp_path / "local")
    place = storage.pulled("s3://bucket/music")
    executors = {"one": None, "other": Elsewhere(), "two": workers.Pool(2)}
    for url, executor in executors.items():
        store = storage.pulled(f"s3://bucket/{url}")
        summary = small_features.extract(place, store, executor=executor)
        assert (summary.num_computed, len(summary.failures)) == (5, 1)
        assert object_store.contents(url) == here(tmp_path / "local")
        assert small_features.extract(place, store).num_unchanged == 6
    shutil.rmtree(storage.local("s3://bucket/one"))  # as on another machine
    features, _ = small_features.load(place, storage.pulled("s3://bucket/one"))
    local, _ = small_features.load(music, tmp_path / "local")
    for clip in range(len(features.counts)):
        np.testing.assert_array_equal(
            small_features.frames_of(features, clip),
            small_features.frames_of(local, clip),
        )


def training(root, store, run_dir, **changes):
    """Fine-tunes on the features of a store."""
    features, table = small_features.load(root, store)
    rows = np.arange(len(table))
    parts = {"train": rows, "valid": rows[:0], "test": rows[:2]}
    data = run_folder.Data(features, table, small_features.FRONTEND, "all", parts)
    preset = runs.tuned(method="finetune", crop_frames=(4,), batch_size=2)
    return finetune.finetune(run_dir, data, preset, **changes)


def test_a_run_is_the_same_and_resumes_on_another_machine(server, music, tmp_path):
    small_features.extract(music, tmp_path / "features")
    training(music, tmp_path / "features", tmp_path / "run")
    place = storage.pulled("s3://bucket/music")
    store = storage.pulled("s3://bucket/features")
    small_features.extract(place, store)
    with pytest.raises(runs.Killed):
        run = storage.pulled("s3://bucket/run")
        training(place, store, run, callbacks=runs.kill_at(3, 1))
    shutil.rmtree(storage.local("s3://bucket/run"))
    training(place, store, storage.pulled("s3://bucket/run"))
    found = object_store.contents("run")
    local = here(tmp_path / "run")
    assert {*local} - {*found} <= {x for x in local if x.startswith("logs/")}
    for name in ("history.csv", "familiarity.npz"):
        assert found[name] == local[name]
    (tmp_path / "again").mkdir()
    (tmp_path / "again/model.keras").write_bytes(found["model.keras"])
    for one, other in zip(
        runs.weights(tmp_path / "again"), runs.weights(tmp_path / "run"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def predicted(monkeypatch, capsys, *arguments):
    """Runs the tool in this process; returns exit code and standard error."""
    listed = io.BytesIO(b"s3://bucket/music/b/1.wav\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(listed))
    with flagsaver.flagsaver():
        rest = flags.FLAGS(["predict", *map(str, arguments)])
        code = command._guarded(predict.main, rest)
    return code, capsys.readouterr().err


def test_predictions_are_the_same_bytes(server, music, tmp_path, monkeypatch, capsys):
    model = loudness.Model(tmp_path / "model")
    monkeypatch.setattr(predictor, "Predictor", lambda path: model)
    monkeypatch.setattr(predictor, "GROUP_FILES", 2)
    monkeypatch.setattr(command, "skip_graph_rewriting", lambda: None)
    outputs = "--output={}/scores.csv", "--embeddings={}/vectors.npz"

    def run(source, target):
        named = (x.format(target) for x in outputs)
        return predicted(monkeypatch, capsys, source, *named)

    code, _ = run(music, tmp_path)
    there, error = run("s3://bucket/music", "s3://bucket/out")
    assert code == there == 1  # one file is no audio
    assert "s3://bucket/music/a/broken.wav: " in error
    assert str(storage.local("s3://bucket/music")) not in error
    found = object_store.contents("out")
    assert [*found] == ["scores.csv", "vectors.npz"]
    text = found["scores.csv"].decode().replace("s3://bucket/music", str(music))
    assert text == (tmp_path / "scores.csv").read_text()
    outputs = ("--output={}/listed.csv",)
    assert run("-", "s3://bucket/out")[0] == 0
    line = object_store.contents("out")["listed.csv"].splitlines()[1]
    assert line in found["scores.csv"].splitlines()
    one = np.load(io.BytesIO(found["vectors.npz"]))
    other = np.load(io.BytesIO((tmp_path / "vectors.npz").read_bytes()))
    np.testing.assert_array_equal(one["vectors"], other["vectors"])
    assert one["ids"][0] == "s3://bucket/music/a/0.wav"


def test_flags_that_need_a_folder_of_this_machine_refuse_urls(root):
    done = subprocess.run(
        [sys.executable, "-m", "tools.train", "--runs_dir=s3://bucket/runs"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "runs_dir" in done.stderr and "must be on this machine" in done.stderr


def tool(root, name, *arguments):
    """Runs a tool as a program."""
    program = [sys.executable, "-m", f"tools.{name}", *map(str, arguments)]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def everything(root, source, target, workers):
    """Extracts, fine-tunes and predicts with programs, from and to folders or URLs."""
    data = f"--data_dir={source}", f"--features_dir={target}/features"
    tool(root, "extract_features", *data, f"--workers={workers}")
    said = tool(root, "finetune", *data, f"--run_dir={target}/run", "--start=starter")
    outputs = f"--output={target}/scores.csv", f"--embeddings={target}/vectors.npz"
    return said + tool(root, "predict", source, *outputs, f"--workers={workers}")


@pytest.mark.scale
def test_250_cuts_give_the_same_bytes_with_two_processes_from_and_to_s3(
    server, shared, root, tmp_path
):
    music = tmp_path / "music"
    shutil.copytree(shared / "data/gtzan_cuts", music)
    object_store.put(music, "music")
    set_times(music, storage.pulled("s3://bucket/music"))
    server.share = FAULTS
    said = everything(root, "s3://bucket/music", "s3://bucket/out", 2)
    assert "s3://bucket/out/run" in said and str(tmp_path) not in said
    everything(root, music, tmp_path / "out", 1)
    print(server.counts)
    assert min(server.counts[kind] for kind in object_store.KINDS) > 0
    found, local = object_store.contents("out"), here(tmp_path / "out")
    features = {name for name in local if name.startswith("features/")}
    assert {name: found[name] for name in features} == {x: local[x] for x in features}
    text = found["scores.csv"].decode().replace("s3://bucket/music", str(music))
    assert text == local["scores.csv"].decode()
    (tmp_path / "again").mkdir()
    (tmp_path / "again/model.keras").write_bytes(found["run/model.keras"])
    weights = (runs.weights(x) for x in (tmp_path / "again", tmp_path / "out/run"))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
