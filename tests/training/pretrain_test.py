"""Pre-training: resumed exactly, stopped in time."""

import dataclasses

import numpy as np
import pytest
from support import runs

from genre_tl.evaluation import metrics
from genre_tl.model import networks
from genre_tl.training import fitting, pretrain, run_folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    return folder, runs.pretrained(folder)


def assert_same_run(folder, other):
    assert run_folder.read_history(folder) == run_folder.read_history(other)
    for ours, theirs in zip(runs.weights(folder), runs.weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("moment", [(1, 1), (2, 1), (3, 2)])
def test_an_interrupted_run_resumes_with_an_identical_result(
    tmp_path, pretrained, moment
):
    with pytest.raises(runs.Killed):
        runs.pretrained(tmp_path, callbacks=runs.kill_at(*moment))
    runs.pretrained(tmp_path)
    assert_same_run(tmp_path, pretrained[0])


# Each file takes two flushes: its own and its folder's. First comes run.json, then a
# checkpoint and the history for each epoch, then run.json and the model.
@pytest.mark.parametrize("number", [2, 5, 8, 16])
def test_a_run_killed_while_writing_resumes_with_an_identical_result(
    tmp_path, root, pretrained, number
):
    runs.kill_while_writing("pretrained(folder)", root, tmp_path, number)
    assert not (tmp_path / "model.keras").exists()
    runs.pretrained(tmp_path)
    assert_same_run(tmp_path, pretrained[0])


def test_the_kept_model_has_the_metrics_of_the_best_epoch(pretrained):
    folder, record = pretrained
    data, network = runs.data(True), networks.load(folder / "model.keras")
    rows = data.parts["valid"]
    scores = fitting.scores(network, data, rows)
    row = run_folder.read_history(folder)[record["best_epoch"] - 1]
    found = metrics.tagging_metrics(data.table.labels[rows], scores)
    assert found.macro_auc_roc == row["val_macro_auc_roc"]


def test_training_stops_when_the_auc_is_stable(tmp_path):
    still = dataclasses.replace(
        runs.TINY.pretrain, learning_rate=0.0, max_epochs=50, patience_epochs=2
    )
    preset = dataclasses.replace(runs.TINY, pretrain=still)
    record = runs.pretrained(tmp_path, preset=preset)
    assert (record["epochs"], record["best_epoch"]) == (3, 1)


def test_genres_are_refused(tmp_path):
    with pytest.raises(ValueError, match="takes tags"):
        pretrain.pretrain(tmp_path, runs.data(), runs.TINY)


def test_validation_clips_are_required(tmp_path):
    data = runs.data(True)
    data.parts["valid"] = data.parts["valid"][:0]
    with pytest.raises(ValueError, match="validation clips"):
        pretrain.pretrain(tmp_path, data, runs.TINY)
