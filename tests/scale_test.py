"""A million clips; more features than memory; a Ray cluster that loses processes.

The limits are on memory and on processor time, which other programs do not change.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from support import large_store, small_features

from genre_tl import workers
from genre_tl.features import extraction, shard_job

pytestmark = pytest.mark.scale

MILLION = 10**6
CLIPS_OF_20_GB = 78_080


def run(root, code, *arguments):
    """Runs a program; returns its last line: megabytes and processor seconds."""
    code += """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss // 1024, used.ru_utime + used.ru_stime - start)
"""
    code = "import sys, time\nstart = time.process_time()\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    print(done.stdout)
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


@pytest.fixture
def ray_cluster(root):
    ray = pytest.importorskip("ray", reason="NOT RUN ON RAY: it is not installed")
    paths = f"{root}:{root / 'tests'}:{pathlib.Path(__file__).parent / 'features'}"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}},
    )
    yield workers.Ray("auto")
    ray.shutdown()


class MortalJob(shard_job.Job):
    """Kills its process the first time that it has a unit."""

    def run(self, unit, on_file=None):
        died = self.root.parent / f"died-{unit[0].sha256}"
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)
        return super().run(unit)


def test_ray_gives_the_same_bytes_though_its_processes_die(
    ray_cluster, tmp_path, monkeypatch
):
    music = tmp_path / "music"
    small_features.make(music)
    monkeypatch.setattr(extraction, "_SHARD_FILES", 3)
    small_features.extract(music, tmp_path / "here")
    monkeypatch.setattr(shard_job, "Job", MortalJob)
    small_features.extract(music, tmp_path / "ray", executor=ray_cluster)
    assert len(list(tmp_path.glob("died-*"))) == 2
    here, there = (small_features.contents(tmp_path / x) for x in ("here", "ray"))
    assert here == there
