"""Kills, full disks, forbidden folders, vanishing files: nothing lost, nothing odd."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(__file__).parents[2]
NOBODY = "65534"
NUM_FILES = 12

# A transform that takes no time, and small shards, so that kills come between them.
PROGRAM = """
import os, sys, time
import numpy as np
import tensorflow as tf
from genre_tl import params
from genre_tl.data import genre_folders
from genre_tl.features import extraction
if len(sys.argv) > 3:  # here, as that user may not be able to read Python itself
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
class Frames:
    @classmethod
    def from_params(cls, frontend):
        return cls()
    def compute_output_shape(self, shape):
        return (None, 64, 3)
def transform(layer, frontend):
    def frames(segments, lengths):
        time.sleep(0.05)
        parts = tf.reshape(segments, [len(segments), frontend.segment_frames, -1])
        power = tf.reduce_mean(parts ** 2, 2, keepdims=True)
        return tf.concat([power, power, power], 2)
    return frames
extraction.scattering.LogScattering = Frames
extraction._traced = transform
extraction._SHARD_FILES = 2
extraction._BATCH_SEGMENTS = 2
print("begun", flush=True)
try:
    table = genre_folders.load(sys.argv[1])
    print(extraction.extract(table, sys.argv[2], params.PRESETS["tiny"].frontend))
except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
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
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate()
    return (
        process.returncode,
        out,
        "\n".join(
            line for line in err.splitlines() if line.startswith(("error", "Traceback"))
        ),
    )


def content(store):
    return {
        path.relative_to(store): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def undisturbed(music, tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "whole"
    assert finish(start(music, store))[0] == 0
    return content(store)


def test_after_kill_9_extraction_ends_with_the_same_bytes(music, undisturbed, tmp_path):
    times, store = random.Random(0), tmp_path / "store"
    for _ in range(int(os.environ.get("GENRE_TL_KILLS", "3"))):
        process = start(music, store)
        process.stdout.readline()
        time.sleep(times.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        index = store / "index.csv"
        if index.exists() and index.read_text().count("\n") > NUM_FILES:
            shutil.rmtree(store)  # it was done: the next one shall find work
    assert finish(start(music, store))[0] == 0
    assert content(store) == undisturbed


def test_a_full_disk_is_said_and_what_was_done_is_kept(music, undisturbed, small_disk):
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
    assert content(store) == undisturbed


def test_a_folder_without_permission_is_named(music, tmp_path):
    if os.geteuid():
        pytest.skip("NOT RUN WITHOUT PERMISSION: only root may become nobody")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for folder in (music, *music.parents, tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o055)
    closed.chmod(0o700)
    code, _, err = finish(start(music, closed / "store", NOBODY))
    assert code == 1 and "Permission denied" in err and str(closed) in err


def test_unreadable_and_vanished_files_have_a_reason_and_stop_no_other(music, tmp_path):
    copy = tmp_path / "music"
    subprocess.run(["cp", "-r", music, copy], check=True)
    (copy / "a" / "02.wav").unlink()
    os.mkfifo(copy / "a" / "02.wav")  # would block whoever opens it
    process = start(copy, tmp_path / "store")
    while not list((tmp_path / "store").glob("index.csv")) and process.poll() is None:
        time.sleep(0.01)
    (copy / "b" / "11.wav").unlink()
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert f"{NUM_FILES - 2} clips have features" in out and "failed" in out
    index = (tmp_path / "store" / "index.csv").read_text().splitlines()
    (vanished,) = (line for line in index if line.startswith("b/11.wav"))
    assert "No such file" in vanished or "changed while it was read" in vanished
