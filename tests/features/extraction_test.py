"""Extraction into a feature store: every file once, whatever happens."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from support import other_user, small_features
from support.small_features import (
    FRONTEND,
    NUM_FILES,
    SEGMENT,
    contents,
    extract,
    frames_of,
    load,
    noise,
    table,
    write,
)

from genre_tl import features, files, params, workers
from genre_tl.audio import decoding
from genre_tl.features import (
    extraction,
    feature_store,
    framing,
    pipeline,
    shard_job,
)


@pytest.fixture
def music(tmp_path: pathlib.Path) -> pathlib.Path:
    small_features.make(tmp_path / "music")
    return tmp_path / "music"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(extraction, "_SHARD_FILES", 3)


@pytest.fixture
def no_decoding(monkeypatch):
    def read(paths, *args, **kwargs):
        raise AssertionError(f"decodes {paths}")

    monkeypatch.setattr(decoding, "read", read)


def table_of(store: pathlib.Path, group: str) -> list[dict[str, Any]]:
    """Returns a table of index.npz."""
    with np.load(store / "index.npz") as file:
        arrays = {name: file[name] for name in file.files}
    columns = {}
    for key, array in arrays.items():
        name, *text = key.removeprefix(f"{group}.").split(".")
        if text == ["text"]:
            data = array.tobytes().decode("utf-8", "surrogateescape")
            columns[name] = data.split("\0")[:-1]
        elif key.startswith(f"{group}."):
            values = array.tolist()
            columns[name] = [x.decode() if isinstance(x, bytes) else x for x in values]
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def index_of(store: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns what the index says of each path, and of its audio."""
    audio = {row["sha256"]: row for row in table_of(store, "audio")}
    rows = table_of(store, "files")
    return {row["path"]: row | audio.get(row["sha256"], {}) for row in rows}


def test_stored_frames_are_those_of_the_layer(tmp_path):
    root, store = tmp_path / "music", tmp_path / "store"
    tiny = params.PRESETS["tiny"].frontend
    waveforms = {"a/short.wav": noise(9000, 0), "b/long.wav": noise(70_000, 1)}
    for path, waveform in waveforms.items():
        write(root / path, waveform)
    extraction.extract(table(root), store, tiny)
    found, dataset = pipeline.load(store, table(root), tiny)
    layer = features.LogScattering.from_params(tiny)
    for row, path in enumerate(dataset.paths):
        waveform = waveforms[path].astype(np.float32)
        padded = np.pad(waveform, [0, -len(waveform) % tiny.segment_samples])
        frames = layer(padded.reshape(-1, tiny.segment_samples)).numpy()
        frames = frames.reshape(-1, frames.shape[-1])
        expected = frames[: tiny.num_frames(len(waveform))]
        assert not np.any(expected == framing.PAD_VALUE)
        assert np.all(frames[len(expected) :] == framing.PAD_VALUE)
        np.testing.assert_allclose(frames_of(found, row), expected, atol=2e-5)
    assert list(found.segments_of(dataset.paths.index("b/long.wav"))) == [64, 64, 9]


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
    monkeypatch.setattr(shard_job, "_PIECE_SEGMENTS", 2)
    summary = extract(music, tmp_path / "pieces")
    assert [path for path, _ in summary.failures] == ["a/broken.wav", "b/nan.wav"]
    assert "NaN" in dict(summary.failures)["b/nan.wav"]
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")
    index = index_of(tmp_path / "pieces")
    assert index["a/long.wav"]["segments"] == "16 16 16 16 16 1"
    assert index["a/silent.wav"]["segments"] == "1"
    assert float(index["a/long.wav"]["secs"]) == round(len(long) / 16_000, 3)


def test_the_summary_and_the_index_account_for_every_file(music, tmp_path):
    calls = []
    summary = extract(music, tmp_path / "s", on_progress=lambda *x: calls.append(x))
    reason = "not audio, damaged, or an unsupported format (convert it to FLAC or MP3)"
    assert summary == extraction.Summary(
        num_computed=5,
        num_repeated=1,
        num_unchanged=0,
        failures=(("a/broken.wav", reason),),
        notes=(),
        removed=(),
    )
    assert summary.num_usable == 6
    assert calls == [(done, NUM_FILES - 1) for done in range(NUM_FILES)]  # one copy
    index = index_of(tmp_path / "s")
    assert tuple(index) == table(music).paths
    assert index["a/broken.wav"]["error"] == reason
    for path, row in index.items():
        assert row["bytes"] == (music / path).stat().st_size
        assert (row["segments"] == "") == (path == "a/broken.wav")
    assert str(music) not in str(contents(tmp_path / "s"))


def test_identical_audio_is_computed_once(music, tmp_path):
    extract(music, tmp_path / "s")
    index = index_of(tmp_path / "s")
    for column in ("sha256", "shard", "offset", "crc32"):
        assert index["a/2.wav"][column] == index["b/copy.wav"][column]
    found, dataset = load(music, tmp_path / "s")
    twins = [dataset.paths.index(path) for path in ("a/2.wav", "b/copy.wav")]
    np.testing.assert_array_equal(*(frames_of(found, row) for row in twins))
    assert len(set(found.digests)) == len(found.digests) - 1


def test_a_store_that_is_up_to_date_is_not_written_to(
    music, tmp_path, request, monkeypatch
):
    first = extract(music, tmp_path / "s")
    before = contents(tmp_path / "s")
    request.getfixturevalue("no_decoding")
    monkeypatch.setattr(files, "lock", lambda path: pytest.fail("locks the store"))
    monkeypatch.setattr(files, "whole", lambda path: pytest.fail("writes a file"))
    second = extract(music, tmp_path / "s", on_progress=pytest.fail)
    assert second.num_unchanged == first.num_usable == second.num_usable
    assert second.failures == first.failures
    assert contents(tmp_path / "s") == before


READ_ONLY = """
import concurrent.futures.thread
import sys
from support import other_user, small_features
# Imports what reading a store takes: the other user may not.
small_features.load(sys.argv[1], sys.argv[2])
other_user.drop_root()
print(small_features.extract(sys.argv[1], sys.argv[2]))
small_features.load(sys.argv[1], sys.argv[2])
"""


def test_a_complete_store_that_cannot_be_written_to_is_usable(public_folder, root):
    other_user.require(public_folder)
    music, store = public_folder / "music", public_folder / "store"
    small_features.make(music)
    extract(music, store)
    os.utime(music / "a/0.wav", ns=(5, 5))  # which the index cannot take note of
    for folder in (store, store / "shards"):
        folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, music, store],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
        capture_output=True,
        text=True,
    )
    for folder in (store, store / "shards"):
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "6 files ready: 0 new, 0 duplicates, 6 unchanged, 1 failed" in done.stdout


def test_a_new_time_alone_is_no_change(music, tmp_path, request):
    extract(music, tmp_path / "s")
    os.utime(music / "a/0.wav", ns=(5, 5))
    request.getfixturevalue("no_decoding")
    assert extract(music, tmp_path / "s").num_unchanged == 6
    assert index_of(tmp_path / "s")["a/0.wav"]["mtime_ns"] == 5


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


def test_what_killed_processes_left_is_deleted(music, tmp_path):
    extract(music, tmp_path / "s")
    before = contents(tmp_path / "s/shards")
    for name in ("0.tfrecord.part", "1.tfrecord", "2.lock", "3.json"):
        (tmp_path / "s/shards" / name).write_text("left by a kill")
    extract(music, tmp_path / "s")
    assert contents(tmp_path / "s/shards") == before


def test_audio_that_comes_back_is_not_computed_again(music, tmp_path, request):
    extract(music, tmp_path / "s")
    before = contents(tmp_path / "s/shards")
    first = (music / "a/0.wav").read_bytes()
    write(music / "a/0.wav", noise(SEGMENT, 20))
    assert extract(music, tmp_path / "s").num_computed == 1
    (music / "a/0.wav").write_bytes(first)
    request.getfixturevalue("no_decoding")
    summary = extract(music, tmp_path / "s")
    assert (summary.num_computed, summary.num_repeated) == (0, 1)
    assert before.items() <= contents(tmp_path / "s/shards").items()


def test_a_failed_file_is_tried_again_only_once_it_changed(
    music, tmp_path, monkeypatch
):
    read, tried = decoding.read, []
    monkeypatch.setattr(
        decoding,
        "read",
        lambda paths, *args, **kw: tried.append(paths) or read(paths, *args, **kw),
    )
    extract(music, tmp_path / "s")
    assert extract(music, tmp_path / "s").failures[0][0] == "a/broken.wav"
    assert len(tried) == 2  # shards
    write(music / "a/broken.wav", noise(SEGMENT, 9))
    summary = extract(music, tmp_path / "s")
    assert tried[2:] == [[str(music / "a/broken.wav")]]
    assert (summary.num_computed, summary.failures) == (1, ())


def test_a_file_that_could_not_be_opened_is_tried_each_time(music, tmp_path):
    dataset = table(music)
    hidden = tmp_path / "hidden.wav"
    (music / "b/3.wav").rename(hidden)
    first = extraction.extract(dataset, tmp_path / "s", FRONTEND)
    assert "b/3.wav" in dict(first.failures)
    hidden.rename(music / "b/3.wav")
    assert extraction.extract(dataset, tmp_path / "s", FRONTEND).num_computed == 1


def test_a_file_whose_reading_was_disturbed_is_tried_each_time(
    music, tmp_path, monkeypatch
):
    shutil.copy(music / "b/3.wav", music / "b/twin.wav")
    open_file = decoding._open

    def disturbed(path):
        if path.endswith("3.wav"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return open_file(path)

    monkeypatch.setattr(decoding, "_open", disturbed)
    failures = dict(extract(music, tmp_path / "s").failures)
    assert failures["b/3.wav"] == "Too many open files"
    assert failures["b/twin.wav"] == "Too many open files"  # read only once
    monkeypatch.undo()
    summary = extract(music, tmp_path / "s")
    assert (summary.num_computed, summary.num_repeated) == (1, 1)
    assert [path for path, _ in summary.failures] == ["a/broken.wav"]


def test_what_was_not_read_to_its_end_has_no_features(music, tmp_path, monkeypatch):
    sha256 = feature_store.sha256

    def failing(file):
        return ("", "Input/output error") if "3" in file.name else sha256(file)

    monkeypatch.setattr(feature_store, "sha256", failing)
    failures = dict(extract(music, tmp_path / "s").failures)
    assert failures["b/3.wav"] == "Input/output error"
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
    dataset = table(music)
    extraction.extract(dataset, tmp_path / "s", FRONTEND)
    (music / "b/1.wav").unlink()
    summary = extraction.extract(dataset, tmp_path / "s", FRONTEND)
    assert summary.removed == ("b/1.wav",)
    assert "b/1.wav" in pipeline.load(tmp_path / "s", dataset, FRONTEND)[1].paths


def test_max_secs_cuts_every_file(music, tmp_path):
    secs = 10 * FRONTEND.hop_samples / params.SAMPLE_RATE_HZ
    extract(music, tmp_path / "s", max_secs=secs)
    found, _ = load(music, tmp_path / "s")
    assert sorted(found.counts) == [8, 10, 10, 10, 10, 10]
    assert found.max_secs == secs
    with pytest.raises(ValueError, match=r"max_secs 0\.04 instead of None"):
        extract(music, tmp_path / "s")


@pytest.mark.parametrize("max_secs", [0.0, -1.0, float("inf"), float("nan")])
def test_a_max_secs_that_cannot_be_leaves_no_trace(music, tmp_path, max_secs):
    dataset = table(music)
    with pytest.raises(ValueError, match="max_secs is"):
        extraction.extract(dataset, tmp_path / "s", FRONTEND, max_secs=max_secs)
    assert not (tmp_path / "s").exists()


def test_processes_give_the_same_bytes(music, tmp_path):
    extract(music, tmp_path / "here")
    extract(music, tmp_path / "pool", executor=workers.Pool(2))
    assert contents(tmp_path / "pool") == contents(tmp_path / "here")


class DeadlyJob(shard_job.Job):
    """Dies like a decoder that crashes on a file."""

    def run(self, unit, on_file=None):
        if any(file.path == "a/0.wav" for file in unit):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(unit)


class EndlessJob(shard_job.Job):
    """Never ends, like a decoder with a fault."""

    def run(self, unit, on_file=None):
        while any(file.path == "a/0.wav" for file in unit):
            workers.expect_progress(1)
            time.sleep(60)
        return super().run(unit)


@pytest.mark.parametrize(
    "job, reason", [(DeadlyJob, "died of SIGKILL"), (EndlessJob, "made no progress")]
)
def test_a_file_that_ends_its_process_is_found_and_listed(
    music, tmp_path, monkeypatch, job, reason
):
    monkeypatch.setattr(shard_job, "Job", job)
    monkeypatch.setattr(workers, "_ATTEMPTS", 1)
    summary = extract(music, tmp_path / "s", executor=workers.Pool(2))
    assert [path for path, _ in summary.failures] == ["a/0.wav", "a/broken.wav"]
    assert reason in summary.failures[0][1]
    assert summary.num_usable == 5
    monkeypatch.undo()
    assert extract(music, tmp_path / "s").num_computed == 1


# What goes wrong


@pytest.mark.parametrize("done", [2, 3, 6])
def test_an_interrupted_extraction_continues_to_the_same_bytes(music, tmp_path, done):
    def stop(now, total):
        if now == done:
            raise KeyboardInterrupt

    extract(music, tmp_path / "uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        extract(music, tmp_path / "s", on_progress=stop)
    extract(music, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "uninterrupted")


def test_a_death_after_any_rename_changes_nothing_in_the_end(
    music, tmp_path, monkeypatch
):
    extract(music, tmp_path / "uninterrupted")
    replace = os.replace
    # Parameters, index, twice frames and rows of a shard, index.
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
        assert contents(tmp_path / f"{fatal}") == contents(tmp_path / "uninterrupted")


KILLED = """
import os, signal, sys
import tensorflow as tf
from support import small_features
from genre_tl.features import extraction

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

moment, extraction._SHARD_FILES = sys.argv[3], 3
class Writer(tf.io.TFRecordWriter):
    num_records = 0
    def write(self, record):
        super().write(record)
        self.flush()
        Writer.num_records += 1
        if moment == "second shard begun" and Writer.num_records == 4:
            die()
tf.io.TFRecordWriter = Writer
progress = lambda done, total: die() if moment == "5 files" and done == 5 else None
small_features.extract(sys.argv[1], sys.argv[2], on_progress=progress)
"""


@pytest.mark.parametrize("moment", ["5 files", "second shard begun"])
def test_a_killed_extraction_continues_to_the_same_bytes(music, tmp_path, root, moment):
    command = [sys.executable, "-c", KILLED, music, tmp_path / "s", moment]
    paths = {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    killed = subprocess.run(command, env=os.environ | paths, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    begun = list((tmp_path / "s/shards").glob("*.tfrecord.part"))
    assert len(begun) == (moment == "second shard begun")
    assert len(list((tmp_path / "s/shards").glob("*.json"))) == 1
    extract(music, tmp_path / "s")
    extract(music, tmp_path / "uninterrupted")
    assert contents(tmp_path / "s") == contents(tmp_path / "uninterrupted")


def test_a_full_disk_is_told_and_loses_nothing(music, tmp_path, monkeypatch):
    extract(music, tmp_path / "s")
    before = contents(tmp_path / "s/shards")
    write(music / "b/new.wav", noise(SEGMENT, 11))

    def fail(self, record):
        raise tf.errors.ResourceExhaustedError(None, None, "no space left on device")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", fail)
    with pytest.raises(OSError, match=r"no space left on device.*tfrecord"):
        extract(music, tmp_path / "s")
    assert contents(tmp_path / "s/shards") == before
    monkeypatch.undo()
    summary = extract(music, tmp_path / "s")
    assert (summary.num_computed, summary.num_unchanged) == (1, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"Q": 2}, "Q 1 instead of 2"), ({"log_floor": 0.5}, "log_floor 0.0001 instead")],
)
def test_other_parameters_are_refused_in_words(music, tmp_path, change, words):
    extract(music, tmp_path / "s")
    other = dataclasses.replace(FRONTEND, **change)
    for function in (
        lambda: extraction.extract(table(music), tmp_path / "s", other),
        lambda: pipeline.load(tmp_path / "s", table(music), other),
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


def frames_in(store, music, **kwargs):
    found, dataset = load(music, store, **kwargs)
    return {path: frames_of(found, row) for row, path in enumerate(dataset.paths)}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_damaged_shard_is_named_and_its_clips_are_computed_again(
    music, tmp_path, damage, in_memory
):
    extract(music, tmp_path / "s")
    before = frames_in(tmp_path / "s", music)
    shard = sorted((tmp_path / "s/shards").glob("*.tfrecord"))[1]
    audio = table_of(tmp_path / "s", "audio")
    places = [x["offset"] for x in audio if x["shard"] == shard.stem and not x["error"]]
    data, place = bytearray(shard.read_bytes()), max(places) + 5
    data[place] ^= 1
    halves = {"flip": data, "cut": data[:place], "empty": b""}
    shard.write_bytes(halves.get(damage, b""))
    if damage != "delete":
        with pytest.raises(ValueError, match=rf"{shard.name}: damaged.*delete"):
            frames_in(tmp_path / "s", music, in_memory=in_memory)
    shard.unlink()
    assert extract(music, tmp_path / "s").num_computed == len(places)
    after = frames_in(tmp_path / "s", music)
    for path, frames in before.items():
        np.testing.assert_allclose(after[path], frames, atol=2e-5)


def test_shards_are_tfrecords_and_the_index_says_where_frames_are(music, tmp_path):
    extract(music, tmp_path / "s")
    paths = json.loads((tmp_path / "s/params.json").read_text())["num_paths"]
    expected = frames_in(tmp_path / "s", music)
    for path, row in index_of(tmp_path / "s").items():
        if not row["error"]:
            shard = tmp_path / "s/shards" / f"{row['shard']}.tfrecord"
            size = 4 * paths * sum(map(int, row["segments"].split()))
            data = shard.read_bytes()[row["offset"] :][:size]
            records = tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()
            assert data in list(records)
            assert zlib.crc32(data[: 4 * paths * 16]) == int(row["crc32"].split()[0])
            np.testing.assert_array_equal(
                np.frombuffer(data, "<f4").reshape(-1, paths), expected[path]
            )


@pytest.mark.parametrize("content", [b"", b"PK", b"path,bytes\n"])
def test_a_damaged_index_is_named_and_made_anew(music, tmp_path, request, content):
    extract(music, tmp_path / "s")
    before, index = contents(tmp_path / "s"), tmp_path / "s/index.npz"
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.npz: damaged.*delete it"):
        extract(music, tmp_path / "s")
    index.unlink()
    request.getfixturevalue("no_decoding")
    extract(music, tmp_path / "s")
    assert contents(tmp_path / "s") == before


def test_damaged_rows_or_params_are_named(music, tmp_path):
    extract(music, tmp_path / "s")
    before = contents(tmp_path / "s")
    rows = min((tmp_path / "s/shards").glob("*.json"))
    rows.write_text("[{}]")
    (tmp_path / "s/index.npz").unlink()
    with pytest.raises(ValueError, match=rf"{rows.name}: damaged.*delete this file"):
        extract(music, tmp_path / "s")
    rows.unlink()
    extract(music, tmp_path / "s")
    assert contents(tmp_path / "s") == before
    (tmp_path / "s/params.json").write_text("{")
    with pytest.raises(ValueError, match=r"params\.json: damaged"):
        extract(music, tmp_path / "s")


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
    path.write_text("not audio")
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
    assert "6 files ready: 5 new, 1 duplicates, 0 unchanged, 1 failed" in first
    assert "failed: a/broken.wav: not audio" in first
    assert str(tmp_path / "s/problems.csv") in first
    problems = (tmp_path / "s/problems.csv").read_text()
    assert problems.startswith("path,problem\n")
    for path in ("a/0.wav", "a/broken.wav"):
        assert f'{path},"not audio, damaged' in problems
    assert "0 files ready" in second
    assert done.stdout.split("exit code ")[1][0] == "0"
    assert done.stdout.split("exit code ")[2][0] == "1"
