"""A million clips; more features than memory; a Ray cluster that loses nodes.

The limits are on memory and on processor time, which other programs do not change.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from support import large_store, ray_networks, runs, small_features

from genre_tl import workers
from genre_tl.features import extraction, shard_job

pytestmark = pytest.mark.scale

MILLION = 10**6
CLIPS_OF_20_GB = 78_080


def run(root, code, *arguments):
    """Runs a program; returns its last line: megabytes and processor seconds."""
    code += """
import re
most = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(int(most) // 1024, time.process_time() - start)
"""
    code = "import sys, time\nstart = time.process_time()\n" + code
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    print(f"{time.monotonic() - begin:.1f} s elapsed:", done.stdout)
    megabytes, secs = done.stdout.splitlines()[-1].split()
    return float(megabytes), float(secs)


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A million names of 17 files, a table of them, and indices of two stores."""
    folder = tmp_path_factory.mktemp("million")
    music = folder / "music"
    names = large_store.paths(MILLION)
    for number in range(256):
        (music / f"{number:03d}").mkdir(parents=True)
    for begin in range(0, MILLION, 60_000):  # a file has at most 65,000 names
        first, *others = names[begin : begin + 60_000]
        (music / first).write_bytes(bytes(1000))
        os.utime(music / first, ns=(5, 5))
        for name in others:
            os.link(music / first, music / name)
    lines = (f"{name},genre {n % 10}\n" for n, name in enumerate(names))
    (music / "table.csv").write_text("path,label\n" + "".join(lines))
    for name, is_done in (("due", False), ("done", True)):
        stat = {"size": 1000, "mtime_ns": 5}
        large_store.make_index(folder / name, MILLION, is_done=is_done, **stat)
    yield folder
    shutil.rmtree(folder)


PLAN = """
import pathlib
from genre_tl.data import tables
from genre_tl.features import extraction, feature_store
from support import large_store
folder = pathlib.Path(sys.argv[1])
table = tables.load(folder / "music/table.csv")
start = time.process_time()
store = feature_store.Store(folder / "due", large_store.FRONTEND)
found, _ = extraction.look(table.root, store.known(table.paths), table.paths)
units = extraction.plan(found, store.audio_of(found["sha256"]) < 0)
assert sum(map(len, units)) == 1_000_000
"""


def test_a_million_clips_are_planned_in_a_minute_and_2_gb(million, root):
    megabytes, secs = run(root, PLAN, million)
    assert megabytes < 2000 and secs < 60


NOTHING_TO_DO = """
from tools import extract_features
sys.argv[1:] = ["--table=" + sys.argv[1] + "/music/table.csv",
                "--features_dir=" + sys.argv[1] + "/done"]
from absl import flags
flags.FLAGS(sys.argv)
assert extract_features.main([]) == 0
"""


def test_extraction_that_finds_nothing_to_do_takes_at_most_90_secs(million, root):
    _, secs = run(root, NOTHING_TO_DO, million)
    assert secs < 90


TRAIN = """
import pathlib
import keras
import numpy as np
from genre_tl import params
from genre_tl.features import pipeline
from genre_tl.training import fitting, pretrain, run_folder
from support import large_store
folder, num_clips = pathlib.Path(sys.argv[1]), int(sys.argv[2])
class Enough(Exception):
    pass
def stop(step, logs):
    if step + 1 == 200:
        raise Enough
preset, rows = params.PRESETS["default"], np.arange(num_clips)
table = large_store.table(folder, num_clips)
features, table = pipeline.load(folder, table, preset.frontend, in_memory=False)
assert 4 * features.counts.sum() * features.num_paths > 20e9
parts = {"train": rows[:500], "valid": rows[:0]}  # of which statistics are taken
data = run_folder.Data(features, table, preset.frontend, "all", parts)
network = pretrain.tagger(data, preset.model)
stage = fitting.WholeNetwork(network, data, preset.pretrain)
stage.begin(rows, 0)
try:
    stage.fit(1, [keras.callbacks.LambdaCallback(on_train_batch_end=stop)])
except Enough:
    print("200 steps")
"""


def test_training_from_20_gb_of_features_takes_less_than_2_gb(tmp_path, root):
    if shutil.disk_usage(tmp_path).free < 24e9:
        pytest.skip("NOT RUN ON 20 GB OF FEATURES: less than 24 GB of disk are free")
    store = tmp_path / "store"
    large_store.make(store, CLIPS_OF_20_GB)
    megabytes, _ = run(root, TRAIN, store, CLIPS_OF_20_GB)
    shutil.rmtree(store)
    assert megabytes < 2000


NODES = 4


def connect(address, root):
    """Makes this process a driver of a cluster; its processes find these tests."""
    import ray

    paths = f"{root}:{root / 'tests'}"
    variables = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ray.init(
        address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": variables},
    )
    return ray


@pytest.fixture(scope="module")
def ray_cluster(root):
    """A cluster of four nodes on this machine, each with one processor."""
    pytest.importorskip("ray", reason="NOT RUN ON RAY: it is not installed")
    from ray import cluster_utils

    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    ray = connect(cluster.address, root)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def killer(cluster, seed, most=3, chance=0.2):
    """Returns a function of progress that kills random nodes, and their list.

    A new node joins for each.
    """
    random_ = random.Random(seed)
    killed = []

    def kill(done, total):
        if done < total and len(killed) < most and random_.random() < chance:
            node = random_.choice(list(cluster.worker_nodes))
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
            killed.append(node)

    return kill, killed


class SlowJob(shard_job.Job):
    """Takes half a second for a unit, so that deaths come in the middle."""

    def run(self, unit, on_file=None):
        time.sleep(0.5)
        return super().run(unit)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Sixty files, of which one is broken, and the features of a run without Ray."""
    folder = tmp_path_factory.mktemp("music")
    for number in range(59):
        samples = small_features.noise(2000 + number, number)
        path = folder / f"music/{'ab'[number % 2]}/{number:03d}.wav"
        small_features.write(path, samples)
    (folder / "music/a/broken.wav").write_text("this is no audio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "_SHARD_FILES", 2)
        small_features.extract(folder / "music", folder / "here")
    return folder


@pytest.fixture
def extract(music, tmp_path, monkeypatch):
    """Returns a function that extracts over Ray, and checks what it wrote."""

    def extract(**options):
        monkeypatch.setattr(extraction, "_SHARD_FILES", 2)
        monkeypatch.setattr(shard_job, "Job", SlowJob)
        store = tmp_path / "ray"
        options = {"executor": workers.Ray("auto")} | options
        summary = small_features.extract(music / "music", store, **options)
        assert [path for path, _ in summary.failures] == ["a/broken.wav"]
        assert small_features.contents(store) == small_features.contents(music / "here")

    return extract


@pytest.mark.parametrize("seed", range(10))
def test_nodes_may_be_killed_and_join(ray_cluster, extract, seed):
    kill, killed = killer(ray_cluster, seed)
    extract(on_progress=kill)
    assert killed


DRIVER = """
import pathlib, sys
import scale_test
from genre_tl import workers
from genre_tl.features import extraction, shard_job
from support import small_features
address, (root, music, store) = sys.argv[1], map(pathlib.Path, sys.argv[2:])
extraction._SHARD_FILES, shard_job.Job = 2, scale_test.SlowJob
scale_test.connect(address, root)
small_features.extract(music, store, executor=workers.Ray("auto"),
                       on_progress=lambda done, total: print(done, flush=True))
"""


@contextlib.contextmanager
def driver(address, root, music, store, environment=os.environ):
    """A program that extracts over Ray, and prints how many files are done."""
    arguments = map(str, (address, root, music, store))
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env={**environment, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running


def wait_for(running, num_files):
    for line in running.stdout:  # Ray also writes into it.
        if line.strip().isdigit() and int(line) >= num_files:
            break


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_driver_is_continued(
    ray_cluster, music, tmp_path, root, extract, seed
):
    random_ = random.Random(seed)
    places = root, music / "music", tmp_path / "ray"
    with driver(ray_cluster.address, *places) as running:
        wait_for(running, random_.randrange(50))
        time.sleep(random_.random() / 2)
        running.kill()
    assert running.returncode == -9
    extract()


class MortalJob(shard_job.Job):
    """Kills its process the first time that it has one of some units."""

    def run(self, unit, on_file=None):
        died = self.root.parent / f"died-{unit[0].sha256}"
        if unit[0].sha256 < "3" and not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)
        return super().run(unit)


def test_processes_may_be_killed(ray_cluster, music, extract, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "SlowJob", MortalJob)
        extract()
    assert len(list(music.glob("died-*"))) >= 3


def test_a_cross_validation_over_ray_gives_the_local_folds(ray_cluster, tmp_path):
    models = "random", "svm"
    found = []
    for name, executor in (("here", None), ("ray", workers.Ray("auto"))):
        runs.validated(tmp_path / name, *models, executor=executor)
        lines = small_features.contents(tmp_path / name / "folds")
        lines = {path: json.loads(text) for path, text in lines.items()}
        found.append({path: x | {"secs": 0} for path, x in lines.items()})
    assert found[0] == found[1] and len(found[0]) >= 6


@pytest.mark.parametrize("pause_secs", [1.5, None], ids=["short", "for ever"])
def test_the_network_of_a_node_may_be_cut(music, tmp_path, root, pause_secs):
    pytest.importorskip("ray", reason="NOT RUN ON RAY: it is not installed")
    address, environment = ray_networks.ADDRESS, ray_networks.ENVIRONMENT
    places = root, music / "music", tmp_path / "ray"
    with (
        ray_networks.Cluster(NODES) as cluster,
        driver(address, *places, environment) as running,
    ):
        wait_for(running, 10)
        cluster.set_network(0, "down")
        if pause_secs:
            time.sleep(pause_secs)
            cluster.set_network(0, "up")
        running.communicate()
    assert running.returncode == 0
    here, there = (small_features.contents(x) for x in (music / "here", places[-1]))
    assert here == there


TOOL = """
import pathlib, sys
import scale_test
name, address, root = sys.argv[1:4]
scale_test.connect(address, pathlib.Path(root))
__import__("tools." + name)
sys.argv = [name, *sys.argv[4:], "--ray=auto"]
sys.modules["tools." + name].cli()
"""


def test_real_music_is_extracted_and_predicted_while_nodes_are_killed(
    ray_cluster, shared, tmp_path, root
):
    data = shared / "data/mini_mtt"
    commands = {
        "extract_features": [f"--data_dir={data}", "--features_dir={}/features"],
        "predict": [str(data), "--output={}/scores.csv", "--embeddings={}/vectors.npz"],
    }
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    kill, killed = killer(ray_cluster, seed=0, most=4, chance=1)
    for name, flags in commands.items():
        for place, program in (
            ("here", ["-m", f"tools.{name}"]),
            ("ray", ["-c", TOOL, name, ray_cluster.address, str(root)]),
        ):
            folder = tmp_path / place
            folder.mkdir(exist_ok=True)
            begin = time.monotonic()
            running = subprocess.Popen(
                [sys.executable, *program, *(x.format(folder) for x in flags)],
                env=environment,
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while running.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(8)
                if place == "ray" and running.poll() is None:
                    kill(0, 1)
            print(f"{name} {place}: {time.monotonic() - begin:.1f} s")
    assert len(killed) >= 2
    here, there = (small_features.contents(tmp_path / x) for x in ("here", "ray"))
    assert here == there
