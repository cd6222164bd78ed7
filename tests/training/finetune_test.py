"""Fine-tuning: what is trained, from where, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest
from support import runs

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import finetune, fitting, run_folder

PRESETS = {method: runs.tuned(method=method) for method in params.METHODS}
KERNEL, WHOLE = PRESETS["kernel"], PRESETS["finetune"]
# Cosine, augmentation and excerpts of several lengths.
DEFAULT = dataclasses.replace(WHOLE, finetune=runs.as_by_default(WHOLE.finetune))
CHANCE = 1 / 3


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run that has learned target vectors, too."""
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    runs.pretrained(folder, num_dims=2)
    return folder


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, start):
    """Finished runs of all methods: folder and run.json."""
    base = tmp_path_factory.mktemp("runs")
    return {
        method: (base / method, runs.finetuned(base / method, preset, start=start))
        for method, preset in PRESETS.items()
    }


@pytest.fixture(scope="module")
def default(tmp_path_factory, start):
    """A finished run with the schedule and the augmentation of the default."""
    folder = tmp_path_factory.mktemp("runs") / "default"
    return folder, runs.finetuned(folder, DEFAULT, start=start)


def _backbone(folder):
    network = networks.load(folder / "model.keras")
    names = "standardize", "gru_1", "embedding"
    return [w for name in names for w in network.get_layer(name).get_weights()]


@pytest.mark.parametrize("method", params.METHODS)
def test_the_genres_are_learned_and_test_clips_scored_once(finetuned, method):
    _, record = finetuned[method]
    assert record["metrics"]["test"]["accuracy"] > 0.8 > CHANCE
    assert set(record["metrics"]) == {"test"}


@pytest.mark.parametrize("method", ["kernel", "probe"])
def test_a_head_in_closed_form_has_no_epochs_and_no_curves(finetuned, method):
    folder, record = finetuned[method]
    assert record["epochs"] == record["best_epoch"] == 0
    assert run_folder.read_history(folder) == []
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "model.keras", "familiarity.npz"}


def test_fine_tuning_has_a_row_for_every_epoch(finetuned, default):
    folder, record = finetuned["finetune"]
    history = run_folder.read_history(folder)
    assert set(history[0]) == {"loss", "accuracy"}
    assert record["best_epoch"] == record["epochs"] == len(history) == 3
    rates = [row["learning_rate"] for row in run_folder.read_history(default[0])]
    assert rates[1] > rates[0] > rates[2] > 0


def test_a_kernel_compares_with_all_training_clips_and_a_probe_with_none(finetuned):
    num_train = len(runs.data().parts["train"])
    layers = {
        method: {x.name: x for x in networks.load(folder / "model.keras").layers}
        for method, (folder, _) in finetuned.items()
    }
    assert layers["kernel"][transfer.SIMILARITY].num_centres == num_train
    for method in ("probe", "finetune"):
        assert transfer.SIMILARITY not in layers[method]


def test_heads_leave_the_backbone_and_fine_tuning_does_not(finetuned, start):
    theirs = _backbone(start)
    for method, is_same in (("kernel", True), ("probe", True), ("finetune", False)):
        ours = _backbone(finetuned[method][0])
        pairs = zip(ours, theirs, strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == is_same


def test_fine_tuning_begins_with_the_linear_head_or_a_random_one(start):
    data, source = runs.data(), run_folder.read_start(start)
    train = data.parts["train"]
    frames = next(
        iter(
            pipeline.evaluation_batches(
                data.features, train, batch_size=99, segment_frames=64
            )[0]
        )
    )
    probe, fitted, random = (
        finetune.transferred(data, source, preset, train, 5)(frames).numpy()
        for preset in (
            PRESETS["probe"],
            WHOLE,
            runs.tuned(method="finetune", fit_head=False),
        )
    )
    np.testing.assert_array_equal(fitted, probe)
    classes = data.table.classes[train]
    assert np.mean(fitted.argmax(axis=1) == classes) > 0.9
    assert np.mean(random.argmax(axis=1) == classes) < 0.8


def test_a_random_head_is_on_the_backbone_of_the_start(start):
    preset = runs.tuned(method="finetune", fit_head=False)
    source = run_folder.read_start(start)
    network = finetune.with_random_head(runs.data(), source, preset, 5)
    for name in ("standardize", "gru_1", "embedding"):
        pairs = (x.get_layer(name).get_weights() for x in (network, source))
        for ours, theirs in zip(*pairs, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert {layer.name for layer in network.layers}.isdisjoint(
        {transfer.FEATURES, transfer.SCALE}
    )


def test_frozen_and_trained_backbones_keep_the_statistics_of_pre_training(
    finetuned, start, tmp_path
):
    runs.finetuned(tmp_path, runs.tuned(max_epochs=1))
    statistics = [
        networks.load(folder / "model.keras").get_layer("standardize").get_weights()
        for folder in (start, *(folder for folder, _ in finetuned.values()), tmp_path)
    ]
    for others in statistics[1:-1]:
        np.testing.assert_array_equal(others, statistics[0])
    data = runs.data()
    mean, _ = pipeline.frame_statistics(data.features, data.parts["train"])
    np.testing.assert_allclose(statistics[-1][0], mean, atol=1e-5)


@pytest.mark.parametrize("method", params.METHODS)
def test_without_a_start_the_whole_network_is_trained(tmp_path, method):
    preset = runs.tuned(method=method, max_epochs=2, scratch_learning_rate=0.0)
    record = runs.finetuned(tmp_path, preset)
    assert record["epochs"] == 2 and record["start"] is None
    random = finetune.untrained(
        runs.data(), preset, runs.data().parts["train"], seed=2
    ).get_weights()
    for ours, theirs in zip(runs.weights(tmp_path), random, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)  # a rate of its own: 0


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("is_default", [False, True])
def test_an_interrupted_run_resumes_with_an_identical_result(
    tmp_path, start, finetuned, default, is_default, epoch
):
    preset, other = (
        (DEFAULT, default[0]) if is_default else (WHOLE, finetuned["finetune"][0])
    )
    with pytest.raises(runs.Killed):
        runs.finetuned(tmp_path, preset, start=start, callbacks=runs.kill_at(epoch, 1))
    runs.finetuned(tmp_path, preset, start=start)
    assert run_folder.read_history(tmp_path) == run_folder.read_history(other)
    for ours, theirs in zip(runs.weights(tmp_path), runs.weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_head_that_was_not_written_is_fitted_again(tmp_path, root, start, finetuned):
    call = f"finetuned(folder, runs.TINY, start={str(start)!r})"
    runs.kill_while_writing(call, root, tmp_path, 3)
    assert not (tmp_path / "model.keras").exists()
    other, record = finetuned["kernel"]
    again = runs.finetuned(tmp_path, KERNEL, start=start)
    assert again["metrics"] == record["metrics"]
    for ours, theirs in zip(runs.weights(tmp_path), runs.weights(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["kernel", "finetune"])
def test_validation_clips_are_measured_and_choose_the_epoch(
    tmp_path, start, monkeypatch, method
):
    made = runs.data()
    made.parts["valid"] = made.parts["test"]
    monkeypatch.setattr(runs, "data", lambda: made)
    record = runs.finetuned(tmp_path, PRESETS[method], start=start)
    assert record["metrics"]["valid"] == record["metrics"]["test"]
    if method == "finetune":
        rows = run_folder.read_history(tmp_path)
        values = [row["val_accuracy"] for row in rows]
        assert record["best_epoch"] == values.index(max(values)) + 1
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
    model = dataclasses.replace(KERNEL.model, num_units=8, cell="lstm")
    preset = dataclasses.replace(KERNEL, model=model)
    message = "num_units is 16 there, 8 here; model.cell is gru there, lstm here"
    with pytest.raises(ValueError, match=message):
        runs.finetuned(tmp_path, preset, start=start)


def test_a_start_with_another_model_makes_another_run(tmp_path, finetuned, start):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("run.json", "model.keras"):
        (other / name).write_bytes((start / name).read_bytes())
    folder, record = finetuned["kernel"]
    assert runs.finetuned(folder, KERNEL, start=other) == record
    network = networks.load(other / "model.keras")
    network.get_layer("head").set_weights(
        [w + 1 for w in network.get_layer("head").get_weights()]
    )
    networks.save(network, other / "model.keras")
    with pytest.raises(ValueError, match=r"start\.model differs"):
        runs.finetuned(folder, KERNEL, start=other)


@pytest.fixture(scope="module")
def exports(tmp_path_factory, start):
    """The run as an export, in single and in half precision."""
    base = tmp_path_factory.mktemp("exports")
    for half in (False, True):
        runs.exported(start, base / str(half), half)
    return base


@pytest.mark.parametrize("method", params.METHODS)
def test_an_export_is_the_same_start_as_the_run(tmp_path, exports, finetuned, method):
    folder, record = finetuned[method]
    again = runs.finetuned(tmp_path, PRESETS[method], start=exports / "False")
    for name in ("start", "metrics", "epochs"):
        assert again[name] == record[name]
    for ours, theirs in zip(runs.weights(tmp_path), runs.weights(folder), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Any version may be given, and the run be resumed from the one or the other.
    version = exports / "False" / "1"
    assert runs.finetuned(folder, PRESETS[method], start=version) == record


@pytest.mark.parametrize("method", params.METHODS)
def test_an_export_in_half_precision_is_a_start(tmp_path, exports, method):
    record = runs.finetuned(tmp_path, PRESETS[method], start=exports / "True")
    assert record["metrics"]["test"]["accuracy"] > 0.8
    if method != "finetune":
        for weight in _backbone(tmp_path):
            np.testing.assert_array_equal(weight, weight.astype(np.float16))


def test_a_classifier_is_no_start(tmp_path, finetuned):
    with pytest.raises(ValueError, match="finetune run cannot be used with --start"):
        runs.finetuned(tmp_path, KERNEL, start=finetuned["probe"][0])


def test_an_exported_classifier_is_no_start(tmp_path, finetuned):
    runs.exported(finetuned["probe"][0], tmp_path / "export")
    with pytest.raises(ValueError, match="finetune run cannot be used with --start"):
        runs.finetuned(tmp_path / "run", KERNEL, start=tmp_path / "export")


def test_a_start_that_has_not_finished_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        runs.finetuned(tmp_path, KERNEL, start=os.fspath(tmp_path / "absent"))


def test_tags_are_refused(tmp_path):
    with pytest.raises(ValueError, match="takes genres"):
        finetune.finetune(tmp_path, runs.data(True), KERNEL)


@pytest.mark.parametrize("method", params.METHODS)
def test_a_run_knows_how_familiar_its_training_clips_are(finetuned, method):
    folder, _ = finetuned[method]
    known = run_folder.read_familiarity(folder)
    data = runs.data()
    embedder = networks.embedder(run_folder.read_model(folder))
    vectors = fitting.outputs(embedder, data, data.parts["train"])
    found = known.of_distance(known.log_distance(vectors))
    assert (found > params.UNFAMILIAR).mean() > 0.8
    far = known.of_distance(known.log_distance(vectors + 100 * vectors.std()))
    assert far.max() < 0.01


def test_clips_of_the_background_are_not_familiar(tmp_path, start):
    data = runs.data()
    vocabulary = (datasets.BACKGROUND, *runs.GENRES[1:])
    table = dataclasses.replace(data.table, vocabulary=vocabulary)
    changed = dataclasses.replace(data, table=table)
    finetune.finetune(tmp_path / "x", changed, KERNEL, start=start)
    known = run_folder.read_familiarity(tmp_path / "x")
    embedder = networks.embedder(run_folder.read_model(tmp_path / "x"))
    rows = data.parts["train"]
    vectors = fitting.outputs(embedder, data, rows[table.classes[rows] != 0])
    np.testing.assert_allclose(known.mean, vectors.mean(axis=0), atol=1e-4)


def test_a_damaged_familiarity_is_named(tmp_path):
    run_folder.familiarity_path(tmp_path).write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"familiarity\.npz: damaged"):
        run_folder.read_familiarity(tmp_path)
    assert run_folder.read_familiarity(tmp_path / "absent") is None
