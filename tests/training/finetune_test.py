"""Fine-tuning: what is trained, from where, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest
from support import runs

from genre_tl.model import networks
from genre_tl.training import finetune, run_folder

PROBE, WHOLE = runs.tuned(), runs.tuned(method="finetune", head_epochs=5, max_epochs=3)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    runs.pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, start):
    """Finished runs of both methods: folder and run.json."""
    base = tmp_path_factory.mktemp("runs")
    return {
        preset.finetune.method: (
            base / preset.finetune.method,
            runs.finetuned(base / preset.finetune.method, preset, start=start),
        )
        for preset in (PROBE, WHOLE)
    }


def _backbone(folder):
    network = networks.load(folder / "model.keras")
    names = ("standardize", "gru_1")
    return [w for name in names for w in network.get_layer(name).get_weights()]


@pytest.mark.parametrize(("method", "epochs"), [("probe", 30), ("finetune", 8)])
def test_the_genres_are_learned_and_test_clips_scored_once(finetuned, method, epochs):
    folder, record = finetuned[method]
    assert record["metrics"]["test"]["accuracy"] > 0.8  # chance: a third
    assert set(record["metrics"]) == {"test"}
    history = run_folder.read_history(folder)
    assert set(history[0]) == {"loss", "accuracy"}
    assert record["best_epoch"] == record["epochs"] == len(history) == epochs


def test_a_probe_leaves_the_backbone_and_fine_tuning_does_not(finetuned, start):
    theirs = _backbone(start)
    for method, is_same in (("probe", True), ("finetune", False)):
        ours = _backbone(finetuned[method][0])
        pairs = zip(ours, theirs, strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == is_same


def test_frozen_and_trained_backbones_keep_the_statistics_of_pre_training(
    finetuned, start, tmp_path
):
    runs.finetuned(tmp_path, runs.tuned(max_epochs=1))
    statistics = [
        networks.load(folder / "model.keras").get_layer("standardize").get_weights()
        for folder in (start, *(folder for folder, _ in finetuned.values()), tmp_path)
    ]
    for others in statistics[1:3]:
        np.testing.assert_array_equal(others, statistics[0])
    frames = runs.data().features
    rows = runs.data().parts["train"]
    mean, _ = finetune.pipeline.frame_statistics(frames, rows)
    np.testing.assert_allclose(statistics[3][0], mean, atol=1e-5)


def test_without_a_start_the_whole_network_is_trained(tmp_path):
    record = runs.finetuned(tmp_path, runs.tuned(max_epochs=2))
    assert record["epochs"] == 2 and record["start"] is None


# Epochs of the head come first; they are repeated rather than resumed.
@pytest.mark.parametrize(
    ("method", "epoch"),
    [("probe", 3), ("finetune", 2), ("finetune", 6), ("finetune", 7)],
)
def test_an_interrupted_run_resumes_with_an_identical_result(
    tmp_path, start, finetuned, method, epoch
):
    preset = PROBE if method == "probe" else WHOLE
    with pytest.raises(runs.Killed):
        runs.finetuned(tmp_path, preset, start=start, callbacks=runs.kill_at(epoch, 1))
    runs.finetuned(tmp_path, preset, start=start)
    other = finetuned[method][0]
    assert run_folder.read_history(tmp_path) == run_folder.read_history(other)
    for ours, theirs in zip(runs.weights(tmp_path), runs.weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("preset", [PROBE, WHOLE])
def test_the_best_validated_epoch_of_the_last_stage_is_kept(
    tmp_path, start, monkeypatch, preset
):
    made = runs.data()
    made.parts["valid"] = made.parts["test"]
    monkeypatch.setattr(runs, "data", lambda: made)
    record = runs.finetuned(tmp_path, preset, start=start)
    first = 0 if preset is PROBE else preset.finetune.head_epochs
    values = [row["val_accuracy"] for row in run_folder.read_history(tmp_path)][first:]
    assert record["best_epoch"] == first + values.index(max(values)) + 1
    assert record["metrics"]["valid"]["accuracy"] == max(values)


def test_evaluation_agrees_with_the_run(finetuned):
    data = runs.data()
    for folder, record in finetuned.values():
        found = finetune.evaluate(folder, data, data.parts["test"])
        assert found.accuracy == record["metrics"]["test"]["accuracy"]


def test_genres_unknown_to_the_classifier_are_named(finetuned):
    data = runs.data()
    table = dataclasses.replace(data.table, vocabulary=("a", "b", "polka"))
    with pytest.raises(ValueError, match="polka"):
        finetune.evaluate(
            finetuned["probe"][0],
            dataclasses.replace(data, table=table),
            data.parts["test"],
        )


def test_a_start_with_other_settings_is_refused_with_the_differences(tmp_path, start):
    model = dataclasses.replace(PROBE.model, num_units=8, cell="lstm")
    preset = dataclasses.replace(PROBE, model=model)
    message = "num_units is 16 there, 8 here; model.cell is gru there, lstm here"
    with pytest.raises(ValueError, match=message):
        runs.finetuned(tmp_path, preset, start=start)


def test_a_start_with_another_model_makes_another_run(tmp_path, finetuned, start):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("run.json", "model.keras"):
        (other / name).write_bytes((start / name).read_bytes())
    folder, record = finetuned["probe"]
    assert runs.finetuned(folder, PROBE, start=other) == record
    network = networks.load(other / "model.keras")
    network.get_layer("head").set_weights(
        [w + 1 for w in network.get_layer("head").get_weights()]
    )
    networks.save(network, other / "model.keras")
    with pytest.raises(ValueError, match=r"start\.model differs"):
        runs.finetuned(folder, PROBE, start=other)


def test_a_classifier_is_no_start(tmp_path, finetuned):
    with pytest.raises(ValueError, match="finetune run cannot be used with --start"):
        runs.finetuned(tmp_path, PROBE, start=finetuned["probe"][0])


def test_a_start_that_has_not_finished_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        runs.finetuned(tmp_path, PROBE, start=os.fspath(tmp_path / "absent"))


def test_tags_are_refused(tmp_path):
    with pytest.raises(ValueError, match="takes genres"):
        finetune.finetune(tmp_path, runs.data(True), PROBE)
