"""Feature store, loading and batches, on synthetic WAV files and tiny features."""

import csv
import dataclasses
import errno
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from genre_tl import features, params
from genre_tl.audio import decoding
from genre_tl.data import datasets, genre_folders
from genre_tl.features import extraction, feature_store, pipeline

TINY = params.PRESETS["tiny"].frontend
# Traced in a moment, for what does not depend on the numbers.
MINUTE = params.Frontend(J=6, Q=1, max_order=1, segment_frames=16)
SEGMENT = MINUTE.segment_samples
NUM_FILES = 7


def noise(num_samples: int, seed: int) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).uniform(-1, 1, num_samples)


def write(path: pathlib.Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, params.SAMPLE_RATE_HZ, subtype="FLOAT")


def age(root: pathlib.Path) -> None:
    """Gives all files one time, so that copies are alike."""
    for path in root.rglob("*.wav"):
        os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def music(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two genres: seven clips of unequal length, of which one is no audio and
    one the copy of another."""
    root = tmp_path / "music"
    for index in range(5):
        length = SEGMENT // 2 + 300 * index
        write(root / f"{'ab'[index % 2]}/{index}.wav", noise(length, index))
    shutil.copy(root / "a/2.wav", root / "b/copy.wav")
    (root / "a/broken.wav").write_text("this is no audio")
    age(root)
    return root


TRACED = extraction._traced


@functools.cache
def traced(frontend: params.Frontend):
    return TRACED(features.LogScattering.from_params(frontend), frontend)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small shards, and nothing that takes a second more often than needed."""
    monkeypatch.setattr(extraction, "_SHARD_FILES", 3)
    monkeypatch.setattr(extraction, "_traced", lambda layer, frontend: traced(frontend))


@pytest.fixture
def no_decoding(monkeypatch):
    def read(paths, *args, **kwargs):
        raise AssertionError(f"decodes {paths}")

    monkeypatch.setattr(decoding, "read_pieces", read)


def extract(music, store, **kwargs) -> extraction.Summary:
    return pipeline.extract(genre_folders.load(music), store, MINUTE, **kwargs)


def load(music, store) -> tuple[pipeline.Features, datasets.Dataset]:
    return pipeline.load(store, genre_folders.load(music), MINUTE)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def index_of(store: pathlib.Path) -> dict[str, dict[str, str]]:
    with open(store / "index.csv", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def frames_of(features: pipeline.Features, row: int) -> np.ndarray:
    start = features.starts[row]
    return features.frames[start : start + features.counts[row]]


# Extraction


def test_stored_frames_are_those_of_the_layer(tmp_path):
    root, store = tmp_path / "music", tmp_path / "store"
    waveforms = {"a/short.wav": noise(9000, 0), "b/long.wav": noise(70_000, 1)}
    for path, waveform in waveforms.items():
        write(root / path, waveform)
    dataset = genre_folders.load(root)
    pipeline.extract(dataset, store, TINY)
    features, dataset = pipeline.load(store, dataset, TINY)
    layer = features.LogScattering.from_params(TINY)
    for row, path in enumerate(dataset.paths):
        waveform = waveforms[path].astype(np.float32)
        padded = np.pad(waveform, [0, -len(waveform) % TINY.segment_samples])
        frames = layer(padded.reshape(-1, TINY.segment_samples)).numpy()
        frames = frames.reshape(-1, frames.shape[-1])
        expected = frames[: TINY.num_frames(len(waveform))]
        assert not np.any(expected == features.PAD_VALUE)
        assert np.all(frames[len(expected) :] == features.PAD_VALUE)
        np.testing.assert_allclose(frames_of(features, row), expected, atol=2e-5)
    assert features.segments[dataset.paths.index("b/long.wav")] == (64, 64, 9)


def test_a_long_file_in_pieces_has_the_frames_of_the_whole(
    music, tmp_path, monkeypatch
):
    long = noise(7 * SEGMENT + 9, 3)
    long[2 * SEGMENT : 4 * SEGMENT] = 0  # a piece without sound
    write(music / "a/long.wav", long)
    write(music / "a/silent.wav", np.zeros(5 * SEGMENT))
    spoilt = noise(5 * SEGMENT, 4).astype(np.float32)
    spoilt[-1] = np.nan  # found out when most of it is computed
    soundfile.write(music / "b/nan.wav", spoilt, params.SAMPLE_RATE_HZ, "FLOAT")
    extract(music, tmp_path / "whole")
    monkeypatch.setattr(extraction, "_PIECE_SEGMENTS", 2)
    summary = extract(music, tmp_path / "pieces")
    assert [path for path, _ in summary.failures] == ["a/broken.wav", "b/nan.wav"]
    assert "NaN" in dict(summary.failures)["b/nan.wav"]
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")
    index = index_of(tmp_path / "pieces")
    assert index["a/long.wav"]["frames"] == str(5 * MINUTE.segment_frames + 1)
    assert index["a/silent.wav"]["frames"] == "1"
    assert float(index["a/long.wav"]["secs"]) == round(len(long) / 16_000, 3)


def test_the_summary_and_the_index_account_for_every_file(music, tmp_path):
    calls = []
    summary = extract(music, tmp_path / "s", on_progress=lambda *x: calls.append(x))
    reason = "not audio, or an unsupported format (convert it to FLAC or MP3)"
    assert summary == extraction.Summary(
        num_computed=5,
        num_repeated=1,
        num_unchanged=0,
        failures=(("a/broken.wav", reason),),
        notes=(),
        removed=(),
    )
    assert summary.num_usable == 6
    assert calls == [(done, NUM_FILES) for done in range(NUM_FILES + 1)]
    index = index_of(tmp_path / "s")
    assert tuple(index) == genre_folders.load(music).paths
    assert index["a/broken.wav"]["error"] == reason
    for path, row in index.items():
        assert int(row["bytes"]) == (music / path).stat().st_size
        assert (row["shard"] == "") == (path == "a/broken.wav")
    assert str(music) not in str(contents(tmp_path / "s"))


def test_identical_audio_is_computed_once(music, tmp_path):
    extract(music, tmp_path / "s")
    features, dataset = load(music, tmp_path / "s")
    twins = [dataset.paths.index(path) for path in ("a/2.wav", "b/copy.wav")]
    assert features.starts[twins[0]] == features.starts[twins[1]]
    distinct = [row for row in range(len(dataset)) if row != twins[1]]
    assert len(features.frames) == features.counts[distinct].sum()


def test_a_second_call_decodes_and_writes_nothing(music, tmp_path, request):
    first = extract(music, tmp_path / "s")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("[!l]*")}
    request.getfixturevalue("no_decoding")
    second = extract(music, tmp_path / "s", on_progress=pytest.fail)
    assert second.num_unchanged == first.num_usable == second.num_usable
    assert second.failures == first.failures
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("[!l]*")}
    assert before == after


def test_a_new_time_alone_is_no_change(music, tmp_path, request):
    extract(music, tmp_path / "s")
    os.utime(music / "a/0.wav", ns=(5, 5))
    request.getfixturevalue("no_decoding")
    assert extract(music, tmp_path / "s").num_unchanged == 6
    assert index_of(tmp_path / "s")["a/0.wav"]["mtime_ns"] == "5"


def test_a_file_of_1970_is_there(music, tmp_path):
    extract(music, tmp_path / "s")
    os.utime(music / "a/0.wav", ns=(0, 0))
    summary = extract(music, tmp_path / "s")
    assert (summary.num_unchanged, summary.removed) == (6, ())
    write(music / "a/0.wav", noise(SEGMENT, 10))
    os.utime(music / "a/0.wav", ns=(0, 0))
    summary = extract(music, tmp_path / "s")
    assert (summary.num_computed, summary.removed) == (1, ())


@pytest.mark.parametrize("name", ["x\ry", "x\ny", "x\r\ny", 'x,"y\r', "\udcff\r"])
def test_any_file_name_can_be_stored(music, tmp_path, name):
    (music / "a/0.wav").rename(music / f"a/{name}.wav")
    extract(music, tmp_path / "s")
    assert extract(music, tmp_path / "s").num_unchanged == 6
    assert f"a/{name}.wav" in load(music, tmp_path / "s")[1].paths


def test_an_index_with_the_line_ends_of_before_is_read(music, tmp_path, request):
    extract(music, tmp_path / "s")
    index = tmp_path / "s/index.csv"
    index.write_bytes(index.read_bytes().replace(b"\r\n", b"\n"))
    request.getfixturevalue("no_decoding")
    assert extract(music, tmp_path / "s").num_unchanged == 6


def test_changed_added_and_removed_files_are_noticed(music, tmp_path):
    extract(music, tmp_path / "s")
    write(music / "a/0.wav", noise(SEGMENT, 10))
    write(music / "b/new.wav", noise(SEGMENT, 11))
    (music / "b/1.wav").unlink()
    summary = extract(music, tmp_path / "s")
    assert (summary.num_computed, summary.num_unchanged) == (2, 4)
    assert summary.removed == ("b/1.wav",)
    updated, dataset = load(music, tmp_path / "s")
    extract(music, tmp_path / "fresh")
    fresh, same = load(music, tmp_path / "fresh")
    assert dataset.paths == same.paths
    for row in range(len(dataset)):
        np.testing.assert_allclose(
            frames_of(updated, row), frames_of(fresh, row), atol=2e-5
        )


def test_shards_that_nothing_needs_any_more_are_deleted(music, tmp_path):
    extract(music, tmp_path / "s")
    shards = tmp_path / "s/shards"
    old = {path.name for path in shards.iterdir()}
    for index, path in enumerate(genre_folders.load(music).paths):
        write(music / path, noise(SEGMENT, 20 + index))
    (shards / "000099.tfrecord.part").write_text("left by a kill")
    extract(music, tmp_path / "s")
    new = {path.name for path in shards.iterdir()}
    assert not old & new
    assert new == {row["shard"] for row in index_of(tmp_path / "s").values()}


def test_a_failed_file_is_tried_again_only_once_it_changed(
    music, tmp_path, monkeypatch
):
    read, tried = decoding.read_pieces, []
    monkeypatch.setattr(
        decoding,
        "read_pieces",
        lambda paths, *args, **kw: tried.append(paths) or read(paths, *args, **kw),
    )
    extract(music, tmp_path / "s")
    assert extract(music, tmp_path / "s").failures[0][0] == "a/broken.wav"
    assert len(tried) == 1
    write(music / "a/broken.wav", noise(SEGMENT, 9))
    summary = extract(music, tmp_path / "s")
    assert tried[1:] == [[str(music / "a/broken.wav")]]
    assert (summary.num_computed, summary.failures) == (1, ())


def test_a_file_that_could_not_be_opened_is_tried_each_time(music, tmp_path):
    dataset = genre_folders.load(music)
    hidden = tmp_path / "hidden.wav"
    (music / "b/3.wav").rename(hidden)
    first = pipeline.extract(dataset, tmp_path / "s", MINUTE)
    assert "b/3.wav" in dict(first.failures)
    hidden.rename(music / "b/3.wav")
    assert pipeline.extract(dataset, tmp_path / "s", MINUTE).num_computed == 1


def test_a_file_whose_reading_was_disturbed_is_tried_each_time(
    music, tmp_path, monkeypatch
):
    shutil.copy(music / "b/3.wav", music / "b/twin.wav")
    open_file = decoding._open

    def disturbed(path, reading):
        if path.endswith("3.wav"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return open_file(path, reading)

    monkeypatch.setattr(decoding, "_open", disturbed)
    failures = dict(extract(music, tmp_path / "s").failures)
    assert failures["b/3.wav"] == "Too many open files"
    assert "b/twin.wav" not in failures
    monkeypatch.undo()
    summary = extract(music, tmp_path / "s")
    assert (summary.num_repeated, len(summary.failures)) == (1, 1)


def test_what_was_not_read_to_its_end_has_no_features(music, tmp_path, monkeypatch):
    sha256 = feature_store.sha256
    monkeypatch.setattr(
        feature_store, "sha256", lambda file: "" if "3" in file.name else sha256(file)
    )
    failures = dict(extract(music, tmp_path / "s").failures)
    assert "could not be read to its end" in failures["b/3.wav"]
    monkeypatch.undo()
    assert extract(music, tmp_path / "s").num_computed == 1


def test_a_file_that_changes_while_it_is_read_is_not_believed(
    music, tmp_path, monkeypatch
):
    sha256 = feature_store.sha256

    def slow_sha256(file):
        if file.name == "3.wav":
            write(file, noise(SEGMENT, 30))
        return sha256(file)

    monkeypatch.setattr(feature_store, "sha256", slow_sha256)
    summary = extract(music, tmp_path / "s")
    assert "changed while" in dict(summary.failures)["b/3.wav"]
    monkeypatch.undo()
    assert extract(music, tmp_path / "s").num_computed == 1


def test_samples_too_large_to_compute_with_are_a_failure(music, tmp_path):
    write(music / "b/3.wav", np.full(SEGMENT, 1e38))
    reason = dict(extract(music, tmp_path / "s").failures)["b/3.wav"]
    assert "too large" in reason


def test_features_stay_when_the_audio_is_gone(music, tmp_path):
    dataset = genre_folders.load(music)
    pipeline.extract(dataset, tmp_path / "s", MINUTE)
    (music / "b/1.wav").unlink()
    summary = pipeline.extract(dataset, tmp_path / "s", MINUTE)
    assert summary.removed == ("b/1.wav",)
    assert "b/1.wav" in pipeline.load(tmp_path / "s", dataset, MINUTE)[1].paths


def test_max_secs_cuts_every_file(music, tmp_path):
    secs = 10 * MINUTE.hop_samples / params.SAMPLE_RATE_HZ
    dataset = genre_folders.load(music)
    pipeline.extract(dataset, tmp_path / "s", MINUTE, max_secs=secs)
    features, _ = pipeline.load(tmp_path / "s", dataset, MINUTE)
    assert sorted(features.counts) == [8, 10, 10, 10, 10, 10]
    with pytest.raises(ValueError, match=r"max_secs 0\.04 instead of None"):
        pipeline.extract(dataset, tmp_path / "s", MINUTE)


@pytest.mark.parametrize("max_secs", [0.0, -1.0, float("inf"), float("nan")])
def test_a_max_secs_that_cannot_be_leaves_no_trace(music, tmp_path, max_secs):
    dataset = genre_folders.load(music)
    with pytest.raises(ValueError, match="max_secs is"):
        pipeline.extract(dataset, tmp_path / "s", MINUTE, max_secs=max_secs)
    assert not (tmp_path / "s").exists()


def test_segments_tile_a_clip_and_leave_out_silence():
    waveform = noise(4 * SEGMENT + 5, 0).astype(np.float32)
    waveform[SEGMENT : 2 * SEGMENT] = 0
    segments = list(
        extraction.cut([waveform[: 3 * SEGMENT], waveform[3 * SEGMENT :]], MINUTE)
    )
    assert [len(segment) for segment in segments] == [*[SEGMENT] * 3, 5]
    sounding = np.concatenate([waveform[:SEGMENT], waveform[2 * SEGMENT :]])
    np.testing.assert_array_equal(np.concatenate(segments), sounding)
    padded = np.pad(waveform[: SEGMENT - 3], [0, 30])
    [segment] = extraction.cut([padded], MINUTE)
    np.testing.assert_array_equal(segment, waveform[: SEGMENT - 3])
    silence = np.zeros(3 * SEGMENT, np.float32)
    assert [len(segment) for segment in extraction.cut([silence], MINUTE)] == [1]
    assert not list(extraction.cut([], MINUTE))


# What goes wrong


@pytest.mark.parametrize("done", [2, 3, 7])
def test_an_interrupted_extraction_continues_to_the_same_bytes(music, tmp_path, done):
    def stop(now, total):
        if now == done:
            raise KeyboardInterrupt

    extract(music, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        extract(music, tmp_path / "s", on_progress=stop)
    extract(music, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


def test_a_death_after_any_rename_changes_nothing_in_the_end(
    music, tmp_path, monkeypatch
):
    extract(music, tmp_path / "undisturbed")
    replace = os.replace
    # Parameters, then shard and index three times.
    for fatal in range(7):
        renames = iter(range(100))

        def replace_and_die(source, target, fatal=fatal, renames=renames):
            replace(source, target)
            if next(renames) == fatal:
                raise SystemExit

        monkeypatch.setattr(os, "replace", replace_and_die)
        with pytest.raises(SystemExit):
            extract(music, tmp_path / f"{fatal}")
        monkeypatch.setattr(os, "replace", replace)
        extract(music, tmp_path / f"{fatal}")
        assert contents(tmp_path / f"{fatal}") == contents(tmp_path / "undisturbed")


KILLED = """
import os, signal, sys
from genre_tl import params
from genre_tl.data import genre_folders
from genre_tl.features import extraction, pipeline

def kill(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

extraction._SHARD_FILES = 3
frontend = params.Frontend(J=6, Q=1, max_order=1, segment_frames=16)
dataset = genre_folders.load(sys.argv[1])
pipeline.extract(dataset, sys.argv[2], frontend, on_progress=kill)
"""


def test_a_killed_extraction_continues_to_the_same_bytes(music, tmp_path, root):
    command = [sys.executable, "-c", KILLED, str(music), str(tmp_path / "s")]
    killed = subprocess.run(command, cwd=root, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "s/shards/000001.tfrecord.part").exists()
    assert len(index_of(tmp_path / "s")) == 3
    extract(music, tmp_path / "s")
    extract(music, tmp_path / "undisturbed")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


def test_a_full_disk_is_told_and_loses_nothing(music, tmp_path, monkeypatch):
    extract(music, tmp_path / "s")
    before = contents(tmp_path / "s")
    write(music / "b/new.wav", noise(SEGMENT, 11))

    def fail(self, record):
        raise tf.errors.ResourceExhaustedError(None, None, "no space left on device")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", fail)
    with pytest.raises(OSError, match=r"no space left on device.*tfrecord"):
        extract(music, tmp_path / "s")
    assert contents(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [({"Q": 2}, "Q 1 instead of 2"), ({"log_floor": 0.5}, "log_floor 1e-05 instead")],
)
def test_other_parameters_are_refused_in_words(music, tmp_path, change, words):
    extract(music, tmp_path / "s")
    other = dataclasses.replace(MINUTE, **change)
    for function in (
        lambda: pipeline.extract(genre_folders.load(music), tmp_path / "s", other),
        lambda: pipeline.load(tmp_path / "s", genre_folders.load(music), other),
    ):
        with pytest.raises(ValueError, match=f"{words}.*or another folder"):
            function()


def test_a_store_of_another_format_is_refused(music, tmp_path):
    extract(music, tmp_path / "s")
    path = tmp_path / "s/params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match="format 0 instead of"):
        load(music, tmp_path / "s")


def test_a_folder_with_other_things_in_it_is_refused(music):
    with pytest.raises(ValueError, match="holds a but no feature store"):
        extract(music, music)


def test_two_processes_do_not_write_to_one_store(music, tmp_path):
    with (
        feature_store.locked(tmp_path / "s"),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        extract(music, tmp_path / "s")


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_shard_is_named_and_can_be_computed_anew(music, tmp_path, damage):
    extract(music, tmp_path / "s")
    before, _ = load(music, tmp_path / "s")
    shard = tmp_path / "s/shards/000001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    if damage != "delete":
        with pytest.raises(ValueError, match=r"000001\.tfrecord: damaged.*delete"):
            load(music, tmp_path / "s")
    shard.unlink()
    extract(music, tmp_path / "s")
    after, _ = load(music, tmp_path / "s")
    np.testing.assert_allclose(after.frames.sum(), before.frames.sum(), rtol=1e-5)


def test_a_damaged_index_or_params_file_is_named(music, tmp_path):
    extract(music, tmp_path / "s")
    (tmp_path / "s/index.csv").write_text("path,bytes\na/0.wav,no number\n")
    with pytest.raises(ValueError, match=r"index\.csv: damaged.*columns are path"):
        extract(music, tmp_path / "s")
    (tmp_path / "s/params.json").write_text("{")
    with pytest.raises(ValueError, match=r"params\.json: damaged"):
        extract(music, tmp_path / "s")


# Loading


def test_load_leaves_out_clips_without_features_and_says_why(music, tmp_path):
    extract(music, tmp_path / "s")
    write(music / "b/1.wav", noise(SEGMENT, 1))
    write(music / "b/new.wav", noise(SEGMENT, 11))
    everything = genre_folders.load(music)
    features, dataset = load(music, tmp_path / "s")
    left_out = dict(dataset.skipped)
    assert sorted(left_out) == ["a/broken.wav", "b/1.wav", "b/new.wav"]
    assert "not audio" in left_out["a/broken.wav"]
    assert "changed" in left_out["b/1.wav"]
    assert "not extracted" in left_out["b/new.wav"]
    assert dataset.paths == tuple(p for p in everything.paths if p not in left_out)
    assert len(features.starts) == len(features.segments) == len(dataset.labels) == 5


def test_load_follows_the_order_of_the_table(music, tmp_path):
    extract(music, tmp_path / "s")
    features, dataset = load(music, tmp_path / "s")
    rows = [3, 0, 5]
    chosen, same = pipeline.load(tmp_path / "s", dataset.select(rows), MINUTE)
    assert same.paths == tuple(dataset.paths[row] for row in rows)
    assert len(chosen.frames) == features.counts[rows].sum()
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(
            frames_of(chosen, position), frames_of(features, row)
        )


def test_load_without_any_features_says_what_to_do(music, tmp_path):
    with pytest.raises(FileNotFoundError, match="extract the features first"):
        load(music, tmp_path / "nothing")
    extract(music, tmp_path / "s")
    shutil.rmtree(tmp_path / "s/shards")
    with pytest.raises(ValueError, match="no features of 7 of 7 clips.*not extracted"):
        load(music, tmp_path / "s")


# Batches

LENGTH = 5


@pytest.fixture
def features() -> pipeline.Features:
    """Clips of 3, 5, 12 (in two segments) and 8 frames; frame f holds f, -f."""
    segments = ((3,), (5,), (7, 5), (8,))
    frames = np.arange(28, dtype=np.float32)[:, np.newaxis] * [1, -1]
    starts = np.array([0, 3, 8, 20])
    return pipeline.Features(frames.astype(np.float32), starts, segments)


LABELS = np.eye(4, dtype=np.uint8)


def batches_of(features, rows, **changes):
    arguments = {"batch_size": 2, "segment_frames": LENGTH, "seed": 1, "epoch": 0}
    batches = pipeline.training_batches(features, LABELS, rows, **(arguments | changes))
    frames, labels = zip(*batches, strict=True)
    return np.concatenate(frames), np.concatenate(labels)


def test_an_epoch_holds_every_row_once_in_full_batches(features):
    frames, labels = batches_of(features, [0, 1, 2, 3])
    assert frames.shape == (4, LENGTH, 2)
    assert frames.dtype == labels.dtype == np.float32
    assert sorted(labels.argmax(axis=1)) == [0, 1, 2, 3]


def test_excerpts_are_frames_in_a_row_of_their_clip_then_padding(features):
    for epoch in range(8):
        frames, labels = batches_of(features, [0, 1, 2, 3], epoch=epoch)
        for clip, row in zip(frames, labels.argmax(axis=1), strict=True):
            count = min(features.counts[row], LENGTH)
            offset = clip[0, 0] - features.starts[row]
            assert 0 <= offset <= features.counts[row] - count
            np.testing.assert_array_equal(
                clip[:count, 0], clip[0, 0] + np.arange(count)
            )
            np.testing.assert_array_equal(clip[:count, 1], -clip[:count, 0])
            assert np.all(clip[count:] == features.PAD_VALUE)


def test_every_excerpt_of_a_long_clip_comes_up(features):
    frames, _ = batches_of(features, [2], batch_size=100)
    offsets = frames[:, 0, 0] - features.starts[2]
    assert set(offsets) == set(range(12 - LENGTH + 1))


def test_batches_are_a_function_of_seed_and_epoch(features):
    def epoch_of(**changes):
        return batches_of(features, [0, 1, 2, 3], **changes)[0].tobytes()

    assert epoch_of() == epoch_of()
    assert len({epoch_of(seed=s, epoch=e) for s in range(3) for e in range(3)}) > 6


def test_the_last_batch_is_filled_up_from_the_beginning(features):
    _, labels = batches_of(features, [0, 1, 2], batch_size=2)
    order = labels.argmax(axis=1)
    assert len(order) == 4
    assert order[3] == order[0]
    _, labels = batches_of(features, [1], batch_size=3)
    assert list(labels.argmax(axis=1)) == [1, 1, 1]


def test_crops_are_as_long_as_asked_and_every_batch_is_full(features):
    batches = pipeline.training_batches(
        features,
        LABELS,
        [0, 2, 3],
        batch_size=2,
        segment_frames=LENGTH,
        crop_frames=4,
        seed=0,
        epoch=0,
    )
    shapes = [(frames.shape, labels.shape) for frames, labels in batches]
    assert shapes == [((2, 4, 2), (2, 4))] * pipeline.num_batches([0, 2, 3], 2)


def test_evaluation_goes_through_all_segments_in_order(features):
    batches, segments = pipeline.evaluation_batches(
        features, [3, 2, 0], batch_size=2, segment_frames=LENGTH
    )
    frames = np.concatenate(list(batches))
    assert frames.shape[1:] == (LENGTH, 2)
    np.testing.assert_array_equal(segments.clips, [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(segments.frames, [5, 3, 5, 2, 5, 3])
    np.testing.assert_array_equal(frames[:, 0, 0], [20, 25, 8, 13, 15, 0])
    for piece, count in zip(frames, segments.frames, strict=True):
        np.testing.assert_array_equal(np.diff(piece[:count, 0]), 1)
        assert np.all(piece[count:] == features.PAD_VALUE)


def test_scores_of_a_clip_are_the_mean_weighted_by_valid_frames(features):
    _, segments = pipeline.evaluation_batches(
        features, [3, 2, 0], batch_size=2, segment_frames=LENGTH
    )
    scores = np.random.default_rng(0).uniform(size=(6, 3)).astype(np.float32)
    means = pipeline.mean_scores(scores, segments)
    expected = [
        np.average(scores[:2], axis=0, weights=[5, 3]),
        np.average(scores[2:5], axis=0, weights=[5, 2, 5]),
        scores[5],
    ]
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="scores of 5 segments, but there are 6"):
        pipeline.mean_scores(scores[:5], segments)


def test_statistics_are_those_of_numpy_over_the_rows_alone():
    frames = np.random.default_rng(0).normal(5, 2, (30, 4)).astype(np.float32)
    frames[:, 3] = 0.1
    features = pipeline.Features(frames, np.array([0, 10, 15]), ((4, 6), (5,), (15,)))
    mean, variance = pipeline.frame_statistics(features, [0, 2])
    chosen = np.concatenate([frames[:10], frames[15:]]).astype(np.float64)
    assert mean.dtype == variance.dtype == np.float64
    np.testing.assert_allclose(mean, chosen.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, chosen.var(axis=0), rtol=1e-12, atol=1e-30)


def test_no_rows_are_refused(features):
    with pytest.raises(ValueError, match="rows is empty"):
        batches_of(features, [])
    with pytest.raises(ValueError, match="rows is empty"):
        pipeline.frame_statistics(features, [])


# The tool


# In a process of its own: tools of one process share their flags.
TOOL = """
import pathlib, sys
from absl import flags
from tools import extract_features

flags.FLAGS(sys.argv)
music = pathlib.Path(flags.FLAGS.data_dir)
print("exit code", extract_features.main([]))
for path in music.rglob("*.wav"):
    path.write_text("no audio any more")
print("exit code", extract_features.main([]))
"""


def test_the_tool_reports_failures_and_fails_only_if_nothing_worked(
    music, tmp_path, root
):
    flags = [f"--data_dir={music}", f"--features_dir={tmp_path / 's'}", "--preset=tiny"]
    done = subprocess.run(
        [sys.executable, "-c", TOOL, *flags], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("exit code")[:2]
    assert "6 clips have features: 5 computed now" in first
    assert "failed: a/broken.wav: not audio" in first
    assert str(tmp_path / "s/index.csv") in first
    assert "0 clips have features" in second
    assert done.stdout.split("exit code ")[1][0] == "0"
    assert done.stdout.split("exit code ")[2][0] == "1"
