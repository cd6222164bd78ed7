"""Prediction over processes: the results of one, in order, though processes die."""

import os
import signal

import numpy as np
import pytest

from genre_tl import workers
from genre_tl.serving import dividing, predictor

NUM_FILES = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from support import known_scores  # Not in other processes: it loads TensorFlow.

    return known_scores.export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def paths(tmp_path, monkeypatch):
    from support import known_scores

    monkeypatch.setattr(predictor, "GROUP_FILES", 2)
    for number in range(NUM_FILES):
        path = tmp_path / f"{number}.wav"
        known_scores.write_wav(path, 0.1 * (number + 1), 8000 * (1 + number % 3))
    (tmp_path / "3.wav").write_bytes(b"no sound")
    return sorted(map(str, tmp_path.glob("*.wav")))


def described(results):
    return [
        (x.path, None if x.error else x.scores.tobytes(), x.secs, x.error)
        for x in results
    ]


def test_processes_give_the_results_of_one_in_order(model, paths):
    here = predictor.predict(predictor.Predictor(model), paths, max_secs=1.0)
    job = dividing.Job(str(model / "1"), max_secs=1.0)
    divided = dividing.predict(job, paths, workers.Pool(2))
    assert described(divided) == described(here)
    assert described(dividing.predict(job, [], workers.Pool(2))) == []


def test_scores_over_time_come_too(model, paths, monkeypatch):
    monkeypatch.setattr(dividing, "_loaded", lambda path: None)
    taggram = predictor.Taggram(np.zeros(1), np.ones([1, 3]))

    def fake(model, unit, *, max_secs, taggrams):
        return (predictor.Result(x, None, taggram=taggrams and taggram) for x in unit)

    monkeypatch.setattr(predictor, "predict", fake)
    job = dividing.Job(str(model), taggrams=True)
    found = list(dividing.predict(job, paths, workers.Here()))
    assert [x.path for x in found] == paths
    assert all(x.taggram is taggram for x in found)


class DeadlyJob(dividing.Job):
    """Dies like a decoder that crashes on a file."""

    def run(self, unit):
        if any(path.endswith("4.wav") for path in unit):
            os.kill(os.getpid(), signal.SIGKILL)
        return [predictor.Result(path, np.ones(3, np.float32)) for path in unit]


def test_a_file_that_ends_its_process_is_found_and_listed(paths):
    found = list(dividing.predict(DeadlyJob("model"), paths, workers.Pool(2)))
    assert [x.path for x in found] == paths
    errors = [x.error for x in found]
    assert errors.pop(4) == "the process that ran it died of SIGKILL, 3 times"
    assert errors == [""] * (NUM_FILES - 1)
