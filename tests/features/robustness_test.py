"""Kills, full disks, forbidden folders, vanishing files: nothing lost, nothing odd."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from support import other_user
from support.small_features import contents

ROOT = pathlib.Path(__file__).parents[2]
NUM_FILES = 12

# A transform that takes no time, and small shards, so that kills come between them.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import tensorflow as tf
from support import other_user
from genre_tl import params
from genre_tl.data import genre_folders
from genre_tl.features import extraction, log_scattering
class Frames:
    @classmethod
    def from_params(cls, frontend):
        return cls()
    def compute_output_shape(self, shape):
        return (None, 64, 3)
    def build(self, shape):
        pass
    def of_mirrored(self, rows, lengths):
        parts = tf.reshape(rows, [tf.shape(rows)[0], 64, -1])
        return tf.repeat(tf.reduce_mean(parts ** 2, 2, keepdims=True), 3, axis=2)
log_scattering.LogScattering = Frames
extraction._SHARD_FILES = 2
def report(done, total):  # and wait until the test has read it
    print("done", done, flush=True)
    sys.stdin.readline()
table = genre_folders.load(sys.argv[1])
if len(sys.argv) > 3:
    other_user.drop_root()
try:
    frontend = params.PRESETS["tiny"].frontend
    summary = extraction.extract(table, sys.argv[2], frontend, on_progress=report)
    print(summary)
except (ValueError, OSError) as error:
    sys.exit(f"error: {{error}}")
"""


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    for index in range(NUM_FILES):
        path = folder / "ab"[index % 2] / f"{index:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.uniform(-1, 1, 9_000), 16_000)
    return folder


def start(music, store, *user):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, music, store, *user],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_until(process, done):
    """Lets a process compute files until so many are done; returns if they are."""
    for line in process.stdout:
        if line.split()[:2] == ["done", str(done)]:
            return True
        process.stdin.write("\n")
        process.stdin.flush()
    return False


def finish(process):
    """Returns exit code, standard output and errors; no longer waits at each file."""
    out, err = process.communicate("\n" * 2 * NUM_FILES)
    errors = [x for x in err.splitlines() if x.startswith(("error", "Traceback"))]
    return process.returncode, out, "\n".join(errors)


@pytest.fixture(scope="module")
def uninterrupted(music, tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "whole"
    assert finish(start(music, store))[0] == 0
    return contents(store)


def test_after_kill_9_extraction_ends_with_the_same_bytes(
    music, uninterrupted, tmp_path
):
    chance, store = random.Random(0), tmp_path / "store"
    for _ in range(int(os.environ.get("GENRE_TL_KILLS", "3"))):
        process = start(music, store)
        done = chance.randrange(NUM_FILES // 2)
        was_killed = run_until(process, done)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not was_killed:  # fewer files were left
            shutil.rmtree(store)
    assert finish(start(music, store))[0] == 0
    assert contents(store) == uninterrupted


def test_two_processes_share_the_work(music, uninterrupted, tmp_path):
    store = tmp_path / "store"
    first, second = start(music, store), start(music, store)
    assert run_until(first, 1) and run_until(second, 1)  # each in a shard of its own
    results = {}

    def end(process):
        results[process] = finish(process)

    threads = [threading.Thread(target=end, args=[x]) for x in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [code for code, *_ in results.values()] == [0, 0], results
    assert contents(store) == uninterrupted


def test_the_work_of_a_killed_process_is_done_by_another(
    music, uninterrupted, tmp_path
):
    store = tmp_path / "store"
    first, second = start(music, store), start(music, store)
    assert run_until(first, 1) and run_until(second, NUM_FILES - 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert finish(second)[0] == 0
    assert contents(store) == uninterrupted


def test_a_full_disk_is_reported_and_finished_work_is_kept(
    music, uninterrupted, small_disk
):
    ballast = small_disk / "ballast"
    store = small_disk / "store"
    ballast.write_bytes(bytes(48 * 1024))
    code, _, err = finish(start(music, store))
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 0
    assert "space" in err and str(store) in err
    ballast.unlink()
    mount = ["mount", "-o", "remount,size=10m", str(small_disk)]
    subprocess.run(mount, check=True)
    assert finish(start(music, store))[0] == 0
    assert contents(store) == uninterrupted


def test_a_folder_without_permission_is_named(music, public_folder):
    other_user.require(public_folder)
    closed = public_folder / "closed"
    closed.mkdir(mode=0o500)
    code, _, err = finish(start(music, closed / "store", "other user"))
    closed.chmod(0o700)
    assert code == 1 and "Permission denied" in err and str(closed) in err


def test_unreadable_and_vanished_files_have_a_reason_and_stop_no_other(music, tmp_path):
    copy = tmp_path / "music"
    subprocess.run(["cp", "-r", music, copy], check=True)
    (copy / "a" / "02.wav").unlink()
    os.mkfifo(copy / "a" / "02.wav")  # would block whoever opens it
    process = start(copy, tmp_path / "store")
    assert run_until(process, 0)
    (copy / "b" / "11.wav").unlink()
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert f"{NUM_FILES - 2} files ready" in out and "failed" in out
    with np.load(tmp_path / "store" / "index.npz") as index:
        errors = index["files.error.text"].tobytes().decode()
    assert "No such file" in errors or "changed while it was read" in errors
