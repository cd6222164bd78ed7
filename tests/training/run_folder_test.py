"""What a run folder holds, and what it refuses."""

import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import sys

import numpy as np
import pytest
from support import runs

import genre_tl
from genre_tl import files, params
from genre_tl.training import run_folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    return folder, runs.pretrained(folder)


@pytest.fixture
def interrupted(tmp_path):
    """A run with one finished epoch."""
    with pytest.raises(runs.Killed):
        runs.pretrained(tmp_path, callbacks=runs.kill_at(2, 1))
    return tmp_path


def test_run_json_holds_identity_provenance_and_results(pretrained):
    folder, record = pretrained
    assert record == json.loads((folder / "run.json").read_text())
    assert record["kind"] == "pretrain" and record["seed"] == 1
    assert params.Preset.from_dict(record["preset"]) == runs.TINY
    assert record["command"] and record["revision"]
    assert record["versions"]["tensorflow"]
    assert record["data"]["valid"] == [f"{n:02d}.wav" for n in range(15, 24)]
    assert len(record["data"]["seen"]) == 24
    assert set(record["metrics"]["valid"]["tag_auc_roc"]) == {"a", "b", "c"}
    assert set(record["metrics"]["valid"]) >= {
        "macro_auc_roc",
        "micro_auc_roc",
        "macro_pr_auc",
        "micro_pr_auc",
        "num_tags",
    }


def test_a_finished_run_leaves_curves_logs_and_model_alone(pretrained):
    folder, _ = pretrained
    assert (folder / "curves.png").stat().st_size > 1000
    names = {"run.json", "history.csv", "curves.png", "model.keras"}
    if importlib.util.find_spec("tensorboard"):
        assert list((folder / "logs").rglob("events*"))
        names.add("logs")
    assert {path.name for path in folder.iterdir()} == names


def test_every_epoch_has_a_row(pretrained):
    folder, record = pretrained
    history = run_folder.read_history(folder)
    assert record["epochs"] == len(history) == 3
    areas = [row["val_macro_auc_roc"] for row in history]
    assert record["best_epoch"] == areas.index(max(areas)) + 1
    assert (folder / "history.csv").read_text().startswith("epoch,loss,val_loss,")


def test_the_command_splits_into_its_arguments(tmp_path, monkeypatch):
    argv = ["tools/pretrain.py", "--data_dir=O'Brien's songs", os.fsdecode(b"\xff")]
    monkeypatch.setattr(sys, "argv", argv)
    identity = run_folder.identity("pretrain", runs.data(True), runs.TINY, 1)
    run_folder.Run(tmp_path, identity)
    command = json.loads((tmp_path / "run.json").read_text())["command"]
    assert shlex.split(command) == argv


def test_a_finished_run_is_not_run_again(pretrained):
    folder, record = pretrained
    before = (folder / "model.keras").stat().st_mtime_ns
    assert runs.pretrained(folder) == record
    assert (folder / "model.keras").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 9}, "seed is 1 there, 9 here"),
        ({"min_positives": 2}, "min_positives is 1 there, 2 here"),
        (
            {"preset": dataclasses.replace(runs.TINY, model=params.Model())},
            r"preset\.model\.num_layers is 1 there, 5 here; .*num_units is 16 there",
        ),
    ],
)
def test_another_run_in_the_same_folder_is_refused_with_the_differences(
    pretrained, changes, message
):
    with pytest.raises(ValueError, match=message):
        runs.pretrained(pretrained[0], **changes)


@pytest.mark.parametrize(
    ("name", "value"), [("max_secs", 3.0), ("digests", ("0" * 64,) * runs.NUM_CLIPS)]
)
def test_other_audio_makes_another_run(pretrained, monkeypatch, name, value):
    made = runs.data(True)
    features = dataclasses.replace(made.features, **{name: value})
    other = dataclasses.replace(made, features=features)
    monkeypatch.setattr(runs, "data", lambda multi_label: other)
    with pytest.raises(ValueError, match=r"data\.(max_secs|audio)"):
        runs.pretrained(pretrained[0])


def test_corrected_labels_make_another_run(pretrained, monkeypatch):
    made = runs.data(True)
    table = dataclasses.replace(made.table, labels=1 - made.table.labels)
    other = dataclasses.replace(made, table=table)
    monkeypatch.setattr(runs, "data", lambda multi_label: other)
    with pytest.raises(ValueError, match=r"data\.labels differs"):
        runs.pretrained(pretrained[0])


def test_the_end_of_a_run_may_be_changed_on_resuming(interrupted):
    sooner = dataclasses.replace(runs.TINY.pretrain, max_epochs=2)
    preset = dataclasses.replace(runs.TINY, pretrain=sooner)
    record = runs.pretrained(interrupted, preset=preset)
    assert record["epochs"] == 2 == len(run_folder.read_history(interrupted))
    assert record["preset"]["pretrain"]["max_epochs"] == 2


def test_the_end_of_a_cosine_may_not_be_changed_on_resuming(tmp_path):
    cosine = runs.as_by_default(runs.TINY.pretrain)
    preset = dataclasses.replace(runs.TINY, pretrain=cosine)
    with pytest.raises(runs.Killed):
        runs.pretrained(tmp_path, preset=preset, callbacks=runs.kill_at(2, 1))
    longer = dataclasses.replace(cosine, max_epochs=9)
    message = r"preset\.pretrain\.max_epochs is 3 there, 9 here"
    with pytest.raises(ValueError, match=message):
        runs.pretrained(
            tmp_path, preset=dataclasses.replace(runs.TINY, pretrain=longer)
        )
    assert runs.pretrained(tmp_path, preset=preset)["epochs"] == 3


def test_another_fine_tuning_in_the_preset_does_not_matter_to_pre_training(pretrained):
    folder, record = pretrained
    preset = runs.tuned(method="finetune", learning_rate=0.5)
    assert runs.pretrained(folder, preset=preset) == record


def test_two_processes_cannot_write_one_run(tmp_path):
    with files.lock(tmp_path), pytest.raises(ValueError, match="another process"):
        runs.pretrained(tmp_path)


@pytest.mark.parametrize("size", [0, 5000])
def test_a_damaged_checkpoint_is_named_with_a_remedy(interrupted, size):
    checkpoint = interrupted / "checkpoints" / "epoch-0001.npz"
    os.truncate(checkpoint, size)
    with pytest.raises(ValueError, match=r"epoch-0001\.npz: damaged .*; remove"):
        runs.pretrained(interrupted)
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"epoch-0001\.npz: damaged .*No such file"):
        runs.pretrained(interrupted)


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
@pytest.mark.parametrize("content", ["", "epoch,loss\n1,x", "[1", "{}", "dpoch\n1"])
def test_damaged_files_are_named_with_a_remedy(interrupted, name, content):
    (interrupted / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged .*; remove "):
        runs.pretrained(interrupted)


def test_a_record_of_a_finished_run_that_lacks_a_fact_is_named(pretrained, tmp_path):
    folder = shutil.copytree(pretrained[0], tmp_path / "run")
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"vocabulary"', '"vocabulasy"'))
    with pytest.raises(ValueError, match=r"run\.json: damaged \(no vocabulary"):
        run_folder.read_run(folder)


def test_a_run_that_has_not_finished_is_named(interrupted):
    with pytest.raises(FileNotFoundError, match=r"model\.keras: missing"):
        run_folder.read_run(interrupted)


def test_what_a_start_is_and_saw_is_read_from_a_run_or_its_export(pretrained, tmp_path):
    folder, record = pretrained
    runs.exported(folder, tmp_path)
    facts = run_folder.start_facts(folder)
    assert facts == run_folder.start_facts(tmp_path)
    assert facts["name"] == "made up" and facts["best_epoch"] == record["best_epoch"]
    assert facts["metrics"] == record["metrics"]
    assert run_folder.seen(folder) == set(record["data"]["seen"])
    assert run_folder.seen(tmp_path) == set()
    networks = run_folder.read_start(folder), run_folder.read_start(tmp_path)
    for ours, theirs in zip(*(x.get_weights() for x in networks), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_installed_package_has_a_revision(tmp_path, monkeypatch):
    package = tmp_path / "genre_tl"
    shutil.copytree(
        os.path.dirname(genre_tl.__file__),
        package,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    monkeypatch.setattr(genre_tl, "__file__", str(package / "__init__.py"))
    revision = run_folder.revision()
    assert revision.startswith("sources-")
    (package / "params.py").write_text("")
    assert run_folder.revision() != revision


def test_stable_means_no_gain_for_so_many_epochs():
    def is_stable(*values, patience=2):
        history = [{"m": value} for value in values]
        training = params.Training(patience_epochs=patience, min_delta=0.01)
        return run_folder.is_stable(history, "m", training)

    assert not is_stable(0.5, 0.6, 0.6)
    assert is_stable(0.5, 0.6, 0.6, 0.6)
    assert is_stable(0.5, 0.504, 0.508)
    assert not is_stable(0.5, 0.508, 0.516)
    assert not is_stable(*[0.5] * 50, patience=0)


def test_the_first_of_the_best_epochs_is_kept_or_else_the_last():
    history = [{"m": 0.5}, {"m": 0.7}, {"m": 0.7}, {"m": 0.6}]
    assert run_folder.best_epoch(history, "m") == 2
    assert run_folder.best_epoch([{"loss": 1.0}, {"loss": 0.5}], "m") == 2
