"""Pre-training: resumed exactly, stopped in time; soft tags and target vectors."""

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
    scores = fitting.outputs(network, data, rows)
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


def soft(num_dims=3):
    """The tagged clips with two soft tags, of which one is unknown for half of them.

    A third of the clips lacks real tags, and another the target vectors.
    """
    data = runs.data(multi_label=True)
    rng, size = np.random.default_rng(5), len(data.table)
    real = data.table.labels.astype(np.float32)
    teacher = np.clip(0.8 * real[:, :2] + rng.uniform(0, 0.2, [size, 2]), 0, 1)
    teacher[::2, 1] = np.nan
    vectors = 1e3 + 50 * (real + rng.normal(0, 0.1, real.shape))
    real[1::3], vectors[2::3] = np.nan, np.nan
    table = dataclasses.replace(
        data.table,
        labels=np.concatenate([real, teacher], axis=1).astype(np.float32),
        vocabulary=(*data.table.vocabulary, "soft a", "soft b"),
        vectors=vectors[:, :num_dims].astype(np.float32) if num_dims else None,
    )
    return dataclasses.replace(data, table=table)


@pytest.fixture(scope="module")
def softly(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "soft"
    return folder, pretrain.pretrain(folder, soft(), runs.TINY, seed=1, min_positives=1)


def test_soft_tags_and_target_vectors_are_learned_beside_real_tags(softly):
    folder, record = softly
    rows = run_folder.read_history(folder)
    assert rows[-1]["loss"] < rows[0]["loss"]
    for name in ("binary_macro_auc_roc", "soft_macro_auc_roc", "soft_correlation"):
        assert rows[record["best_epoch"] - 1][f"val_{name}"] == pytest.approx(
            record["metrics"]["valid"][name]
        )
    assert record["metrics"]["valid"]["num_soft_tags"] == 2
    assert rows[-1]["val_vectors_r"] > rows[0]["val_vectors_r"]


def test_an_interrupted_run_with_vectors_resumes_with_an_identical_result(
    tmp_path, softly
):
    with pytest.raises(runs.Killed):
        pretrain.pretrain(
            tmp_path,
            soft(),
            runs.TINY,
            seed=1,
            min_positives=1,
            callbacks=runs.kill_at(2, 1),
        )
    pretrain.pretrain(tmp_path, soft(), runs.TINY, seed=1, min_positives=1)
    assert_same_run(tmp_path, softly[0])


def test_other_vectors_or_probabilities_are_another_run(softly):
    changed = soft(2), soft(0)
    labels = np.clip(soft().table.labels, 0.01, 1)
    table = dataclasses.replace(soft().table, labels=labels)
    for data in (*changed, dataclasses.replace(soft(), table=table)):
        with pytest.raises(ValueError, match=r"data\.labels differs"):
            pretrain.pretrain(softly[0], data, runs.TINY, seed=1, min_positives=1)


def test_targets_are_labels_and_vectors_standardised_on_the_training_clips():
    data = soft()
    train = data.parts["train"]
    targets = pretrain.targets(data.table, train)
    np.testing.assert_array_equal(targets[:, :5], data.table.labels)
    vectors, given = targets[:, 5:], data.table.vectors
    np.testing.assert_allclose(np.nanmean(vectors[train], axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(vectors[train], axis=0), 1, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(vectors), np.isnan(given))
    slope = np.ptp(given[::3], axis=0) / np.ptp(vectors[::3], axis=0)
    np.testing.assert_allclose(slope, np.nanstd(given[train], axis=0), rtol=1e-4)
    assert targets.dtype == np.float32


def test_a_dimension_that_never_varies_stays_zero():
    data = soft()
    data.table.vectors[:, 1] = 7
    found = pretrain.targets(data.table, data.parts["train"])
    assert not found[:, 6].any()


def test_vectors_of_no_training_clip_are_refused(tmp_path):
    data = soft()
    data.table.vectors[data.parts["train"]] = np.nan
    with pytest.raises(ValueError, match="no training clip has a target vector"):
        pretrain.pretrain(tmp_path, data, runs.TINY)


def test_an_untrained_tagger_gives_the_mean_of_the_known_labels():
    data = soft()
    train = data.parts["train"]
    network = pretrain.tagger(data, runs.TINY.model, num_dims=3, seed=0)
    head = network.get_layer(networks.HEAD)
    bias = head.get_weights()[1]
    expected = np.nanmean(data.table.labels[train], axis=0)
    assert expected[1] == 0  # A tag that no training clip has is rare, not impossible.
    expected[1] = 0.002
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), expected, rtol=1e-5)


def test_genres_are_refused(tmp_path):
    with pytest.raises(ValueError, match="takes tags"):
        pretrain.pretrain(tmp_path, runs.data(), runs.TINY)


def test_validation_clips_are_required(tmp_path):
    data = runs.data(True)
    data.parts["valid"] = data.parts["valid"][:0]
    with pytest.raises(ValueError, match="validation clips"):
        pretrain.pretrain(tmp_path, data, runs.TINY)
