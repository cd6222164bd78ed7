"""Units of work in several processes: each result once, whatever dies."""

import os
import pathlib
import signal
import sys
import time
from unittest import mock

import pytest

from genre_tl import workers


def square(number):
    return number, number**2, os.getpid()


def test_every_unit_has_its_result_in_either_executor():
    for executor in (workers.Here(), workers.Pool(2)):
        found = dict(executor.run(square, range(7)))
        assert {place: x[:2] for place, x in found.items()} == {
            n: (n, n**2) for n in range(7)
        }


def test_a_pool_is_other_processes():
    processes = {pid for _, (*_, pid) in workers.Pool(2).run(square, range(4))}
    assert os.getpid() not in processes
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def set_mark():
    os.environ["MARK"] = "set"


def mark_of(unit):
    return unit, os.environ.get("MARK")


def test_each_process_is_prepared_and_this_one_is_not():
    executor = workers.Prepared(workers.Pool(2), set_mark)
    assert sorted(dict(executor.run(mark_of, range(3))).values()) == [
        (number, "set") for number in range(3)
    ]
    assert mark_of(0) == (0, None)


def die_sometimes(unit):
    """Dies by SIGKILL in the first attempts, as many as the unit says."""
    folder, name, deaths = unit
    attempts = sorted(folder.glob(f"{name}-*"))
    (folder / f"{name}-{len(attempts)}").touch()
    if len(attempts) < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_a_unit_whose_process_dies_is_tried_three_times(tmp_path):
    deaths = {"a": 0, "b": 2, "c": 9, "d": 0}
    units = [(tmp_path, name, number) for name, number in deaths.items()]
    found = dict(workers.Pool(2).run(die_sometimes, units))
    reason = "the process that ran it died of SIGKILL, 3 times"
    assert found == {0: "a", 1: "b", 2: workers.Died(reason), 3: "d"}
    assert len(list(tmp_path.glob("c-*"))) == 3


def loop_forever_sometimes(unit):
    for _ in range(3):
        workers.expect_progress(1)
        time.sleep(0.4)
    while unit == "endless":
        pass
    return unit


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="NOT RUN: no alarms here")
def test_a_unit_without_progress_is_tried_three_times():
    units = ["works", "endless", "works", "works"]
    found = dict(workers.Pool(2).run(loop_forever_sometimes, units))
    reason = "the process that ran it made no progress, 3 times"
    assert found == {0: "works", 1: workers.Died(reason), 2: "works", 3: "works"}


def test_progress_is_only_expected_of_workers():
    workers.expect_progress(1)
    time.sleep(1.5)  # An alarm would end the tests.


def fail(unit):
    raise ValueError(f"{unit} cannot be done")


def test_an_error_is_raised_as_it_is_and_ends_the_work():
    for executor in (workers.Here(), workers.Pool(2)):
        with pytest.raises(ValueError, match="7 cannot be done"):
            list(executor.run(fail, [7]))


def wait_and_clean_up(paths: list[pathlib.Path]):
    if len(paths) > 1:  # Fails once the others are at work.
        while not all(path.exists() for path in paths):
            time.sleep(0.05)
        raise ValueError("given up")
    paths[0].touch()
    try:
        time.sleep(60)
    finally:
        paths[0].unlink()


def test_processes_end_when_the_work_is_given_up(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    results = workers.Pool(3).run(wait_and_clean_up, [[one], [two], [one, two]])
    with pytest.raises(ValueError, match="given up"):
        next(results)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def ray_cluster(root, request, monkeypatch):
    """A cluster of one node, with the resources that the test asks for."""
    ray = pytest.importorskip("ray", reason="NOT RUN ON RAY: it is not installed")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    paths = os.pathsep.join([str(root), str(pathlib.Path(__file__).parent)])
    ray.init(
        **request.param,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield workers.Ray("auto")
    ray.shutdown()


@pytest.mark.scale
@pytest.mark.parametrize("ray_cluster", [{"num_cpus": 2}], indirect=True)
def test_a_ray_cluster_gives_the_same_results(ray_cluster, tmp_path):
    found = dict(ray_cluster.run(square, range(7)))
    assert {place: x[:2] for place, x in found.items()} == {
        n: (n, n**2) for n in range(7)
    }
    units = [(tmp_path, name, number) for name, number in (("b", 2), ("c", 9))]
    found = dict(ray_cluster.run(die_sometimes, units))
    assert found[0] == "b" and found[1].reason.endswith("3 times")
    found = dict(ray_cluster.run(loop_forever_sometimes, ["endless", "works"]))
    assert found[0].reason.endswith("3 times") and found[1] == "works"
    with pytest.raises(ValueError, match="7 cannot be done"):
        list(ray_cluster.run(fail, [7]))


def process_and_gpus(unit):
    time.sleep(0.2)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.scale
@pytest.mark.parametrize("ray_cluster", [{"num_cpus": 4, "num_gpus": 2}], indirect=True)
def test_each_gpu_of_a_ray_cluster_has_one_process(ray_cluster):
    found = {x for _, x in ray_cluster.run(process_and_gpus, range(20))}
    assert sorted(gpu for _, gpu in found) == ["0", "1"]


def test_a_ray_cluster_whose_processes_do_not_start_is_given_up(monkeypatch):
    ray = mock.MagicMock()
    ray.exceptions.RayError, ray.exceptions.RayTaskError = OSError, KeyError
    ray.cluster_resources.return_value = {"CPU": 1}
    ray.wait.side_effect = lambda references, timeout: (references, [])
    ray.get.side_effect = OSError("no module named genre_tl")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(ValueError, match=r"no module named .*; install the same versi"):
        list(workers.Ray("auto").run(square, range(2)))


def test_without_a_ray_cluster_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"--ray needs Ray: pip install"):
        workers.Ray("auto")
