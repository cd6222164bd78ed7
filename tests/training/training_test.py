"""Runs of the tiny preset on features made up here."""

import csv
import dataclasses
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import fitting, records, run_folder, training

# A single layer: the time these tests take is that of tracing.
TINY = params.PRESETS["tiny"]
TINY = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, num_layers=1),
    finetune=dataclasses.replace(TINY.finetune, max_epochs=12),
)
NUM_PATHS = 6


def _data(multi_label, num_clips=24, num_labels=3, seed=0):
    # A clip's label shifts the mean of one path.
    rng = np.random.default_rng(seed)
    classes = np.arange(num_clips) % num_labels
    counts = rng.integers(10, 40, num_clips)
    frames = rng.standard_normal([counts.sum(), NUM_PATHS]).astype("float32")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for start, count, label in zip(starts, counts, classes, strict=True):
        frames[start : start + count, label] += 3
    features = pipeline.Features(
        frames=frames,
        starts=starts.astype(np.int64),
        segments=tuple((int(count),) for count in counts),
    )
    labels = np.eye(num_labels, dtype=np.uint8)[classes]
    table = datasets.Dataset(
        name="made up",
        root=pathlib.Path("nowhere"),
        paths=tuple(f"{n:02d}.wav" for n in range(num_clips)),
        labels=labels,
        vocabulary=tuple("abcdefgh"[:num_labels]),
        groups=tuple(str(n) for n in range(num_clips)),
        multi_label=multi_label,
    )
    rows = np.arange(num_clips)
    nobody = rows[:0]
    if multi_label:
        parts = {"train": rows[:15], "valid": rows[15:], "test": nobody}
    else:
        parts = {"train": rows[:15], "valid": nobody, "test": rows[15:]}
    return run_folder.Data(features=features, table=table, split="made up", **parts)


def _pretrain(folder, **changes):
    arguments = {"seed": 1, "min_positives": 1, **changes}
    preset = arguments.pop("preset", TINY)
    return training.pretrain(folder, _data(True), preset, **arguments)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    return folder, _pretrain(folder)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, pretrained):
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    record = training.finetune(folder, _data(False), TINY, start=pretrained[0], seed=2)
    return folder, record


def _history(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_folder_says_what_was_run(pretrained):
    folder, record = pretrained
    assert record == json.loads((folder / "run.json").read_text())
    assert record["kind"] == "pretrain"
    assert params.Preset.from_dict(record["preset"]) == TINY
    assert record["seed"] == 1
    assert record["command"]
    assert record["versions"]["tensorflow"]
    assert record["time"]["steps"] >= 0 and record["time"]["other"] > 0
    assert set(record["metrics"]["valid"]["tag_auc_roc"]) == {"a", "b", "c"}
    assert record["data"]["valid"] == [f"{n:02d}.wav" for n in range(15, 24)]
    assert set(record["metrics"]["valid"]) >= {
        "macro_auc_roc",
        "micro_auc_roc",
        "macro_pr_auc",
        "micro_pr_auc",
        "num_tags",
    }
    assert (folder / "curves.png").stat().st_size > 1000
    assert list((folder / "logs").iterdir())
    assert not (folder / "checkpoints").exists()


def test_every_epoch_has_a_row(pretrained):
    folder, record = pretrained
    rows = _history(folder)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert record["epochs"] == 3
    best = max(rows, key=lambda row: float(row["val_macro_auc_roc"]))
    assert record["best_epoch"] == float(best["epoch"])


def test_the_kept_model_has_the_metrics_of_the_record(pretrained):
    folder, record = pretrained
    data = _data(True)
    scores = fitting.predict(
        networks.load(folder / "model.keras"),
        data.features,
        data.valid,
        segment_frames=TINY.frontend.segment_frames,
    )
    row = _history(folder)[record["best_epoch"] - 1]
    figures = training.evaluation.tagging_metrics(data.table.labels[data.valid], scores)
    assert figures.macro_auc_roc == pytest.approx(float(row["val_macro_auc_roc"]))


def test_a_command_of_whatever_names_splits_into_what_was_given(tmp_path, monkeypatch):
    argv = ["tools/pretrain.py", "--data_dir=O'Brien's songs", os.fsdecode(b"\xff")]
    monkeypatch.setattr(sys, "argv", argv)
    run_folder.Run("pretrain", tmp_path / "run", _data(True), TINY, seed=1, facts={})
    records.Record(tmp_path / "folds", {"start": None})
    for name in ("run/run.json", "folds/settings.json"):
        command = json.loads((tmp_path / name).read_text())["command"]
        assert shlex.split(command) == argv


def test_a_finished_run_is_not_run_again(pretrained):
    folder, record = pretrained
    before = (folder / "model.keras").stat().st_mtime_ns
    assert _pretrain(folder) == record
    assert (folder / "model.keras").stat().st_mtime_ns == before


def test_a_record_of_before_a_setting_was_there_is_the_same_run(tmp_path, pretrained):
    shutil.copytree(pretrained[0], tmp_path / "old")
    path = tmp_path / "old" / "run.json"
    record = json.loads(path.read_text())
    for kind in ("pretrain", "finetune"):
        del record["preset"][kind]["head_pulls"]
    del record["data"]["labels"]
    path.write_text(json.dumps(record))
    assert _pretrain(tmp_path / "old") == record


def test_another_run_is_refused_in_the_same_folder(pretrained):
    with pytest.raises(ValueError, match="other seed"):
        _pretrain(pretrained[0], seed=9)


def test_a_run_with_corrected_labels_is_another(pretrained):
    folder, record = pretrained
    path = folder / "run.json"
    text = path.read_text()
    path.write_text(text.replace(record["data"]["labels"], "0" * 64))
    with pytest.raises(ValueError, match="other data"):
        _pretrain(folder)
    path.write_text(text)


def test_a_run_that_goes_on_may_end_sooner(tmp_path):
    with pytest.raises(_Killed):
        _pretrain(tmp_path, progress=_kill_after(3, 1))
    sooner = dataclasses.replace(TINY.pretrain, max_epochs=2)
    record = _pretrain(tmp_path, preset=dataclasses.replace(TINY, pretrain=sooner))
    assert record["epochs"] == 2
    assert record["preset"]["pretrain"]["max_epochs"] == 2
    assert len(_history(tmp_path)) == 2


class _Killed(BaseException):
    pass


def _kill_after(epoch, step):
    def on_step(now, done, total):
        if now == epoch and done == step:
            raise _Killed

    return run_folder.Progress(on_step=on_step)


@pytest.mark.parametrize("moment", [(1, 1), (2, 1), (3, 2)])
def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path, pretrained, moment):
    with pytest.raises(_Killed):
        _pretrain(tmp_path, progress=_kill_after(*moment))
    _pretrain(tmp_path)
    assert _history(tmp_path) == _history(pretrained[0])
    ours, theirs = (
        networks.load(folder / "model.keras").get_weights()
        for folder in (tmp_path, pretrained[0])
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("has_start", "epoch"), [(True, 0), (True, 3), (False, 3)])
def test_fine_tuning_of_fixed_layers_goes_on_where_it_was_killed(
    tmp_path, pretrained, has_start, epoch
):
    fixed = dataclasses.replace(
        TINY.finetune,
        backbone_rate=0.0,
        head_pull=5.0,
        head_pulls=(0.0, 40.0),
        max_epochs=4,
    )
    preset = dataclasses.replace(TINY, finetune=fixed)
    start = pretrained[0] if has_start else None
    # All steps of an epoch are told at once.
    num_steps = -(-len(_data(False).train) // fixed.batch_size)
    with pytest.raises(_Killed):
        training.finetune(
            tmp_path / "killed",
            _data(False),
            preset,
            start=start,
            progress=_kill_after(epoch, num_steps),
        )
    assert len(run_folder.read_history(tmp_path / "killed")) == max(epoch - 1, 0)
    pulls = {
        training.finetune(tmp_path / name, _data(False), preset, start=start)[
            "head_pull"
        ]
        for name in ("killed", "whole")
    }
    assert len(pulls) == 1
    assert pulls < set(fixed.head_pulls) if has_start else pulls == {5.0}
    assert _history(tmp_path / "killed") == _history(tmp_path / "whole")
    ours, theirs = (
        networks.load(tmp_path / name / "model.keras").get_weights()
        for name in ("killed", "whole")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_without_its_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(_Killed):
        _pretrain(tmp_path, progress=_kill_after(2, 1))
    checkpoint = tmp_path / "checkpoints" / "epoch-0001.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"epoch-0001\.npz: not a whole .*--run_dir"):
        _pretrain(tmp_path)
    checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match=r"0001\.npz: missing; .*--run_dir"):
        _pretrain(tmp_path)


def kill_again_and_again(call, root, folder, longest_secs):
    """Runs a program of its own, and ends it with SIGKILL at a random moment.

    As often as the environment variable GENRE_TL_KILLS says, else twice.

    Args:
      call: what the program does, of test modules; `folder` is where it writes.
      root: the source tree.
      folder: that folder.
      longest_secs: the moment comes so long after everything is loaded, at most.

    Returns:
      How many were killed before they had ended of themselves.
    """
    paths = [str(root), str(root / "tests/training")]
    code = (
        f"import sys\nsys.path[:0] = {paths!r}\nfolder = sys.argv[1]\n"
        "import cross_validation_test, training_test\n"
        f"print('loaded', flush=True)\n{call}"
    )
    moments, num_killed = random.Random(0), 0
    for _ in range(int(os.environ.get("GENRE_TL_KILLS", "2"))):
        command = [sys.executable, "-c", code, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"loaded\n"
        time.sleep(moments.uniform(0, longest_secs))
        process.kill()
        process.stdout.close()
        num_killed += process.wait() == -signal.SIGKILL
    return num_killed


def test_a_run_ended_by_sigkill_ends_like_an_undisturbed_one(
    tmp_path, root, pretrained
):
    call = "training_test._pretrain(folder)"
    assert kill_again_and_again(call, root, tmp_path, 3) > 0
    _pretrain(tmp_path)
    assert _history(tmp_path) == _history(pretrained[0])
    ours, theirs = (
        networks.load(folder / "model.keras").get_weights()
        for folder in (tmp_path, pretrained[0])
    )
    for one, other in zip(ours, theirs, strict=True):
        # Of dozens of runs the last bit of one was another.
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_fine_tuning_learns_and_reads_the_test_clips_once(finetuned):
    folder, record = finetuned
    assert record["metrics"]["test"]["accuracy"] > 0.8  # chance: a third
    assert "valid" not in record["metrics"]
    assert not any(name.startswith("val_") for name in _history(folder)[0])
    assert record["best_epoch"] == record["epochs"] == 12


def test_fine_tuning_starts_from_the_pretrained_backbone(tmp_path, pretrained):
    frozen = dataclasses.replace(TINY.finetune, learning_rate=0.0, max_epochs=1)
    preset = dataclasses.replace(TINY, finetune=frozen)
    training.finetune(tmp_path, _data(False), preset, start=pretrained[0])
    ours = networks.load(tmp_path / "model.keras")
    theirs = networks.load(pretrained[0] / "model.keras")
    np.testing.assert_array_equal(
        ours.get_layer("gru_1").get_weights()[0],
        theirs.get_layer("gru_1").get_weights()[0],
    )


def _scores(folder, rows):
    return fitting.predict(
        networks.load(folder / "model.keras"),
        _data(False).features,
        rows,
        segment_frames=TINY.frontend.segment_frames,
    )


@pytest.mark.parametrize("named", [True, False])
def test_genres_that_are_tags_begin_with_the_tags_head(tmp_path, pretrained, named):
    # Tags and genres are the same here, and nothing is learned.
    still = dataclasses.replace(
        TINY.finetune, learning_rate=0.0, max_epochs=1, named_head=named
    )
    preset = dataclasses.replace(TINY, finetune=still)
    training.finetune(tmp_path, _data(False), preset, start=pretrained[0])
    kernels = [
        networks.load(folder / "model.keras").get_layer("head").get_weights()[0]
        for folder in (tmp_path, pretrained[0])
    ]
    slopes = kernels[0] / kernels[1]  # All the same: one number was learned.
    assert slopes.max() > 0 if named else slopes.max() == 0
    np.testing.assert_allclose(slopes, slopes[0, 0], rtol=1e-4)
    favoured = np.log(_scores(tmp_path, _data(False).train)).mean(axis=0)
    assert np.ptp(favoured) < 1e-3


@pytest.mark.parametrize(
    ("rate", "has_start", "is_theirs"),
    [(1.0, False, False), (0.0, False, False), (1.0, True, False), (0.0, True, True)],
)
def test_standardisation_is_that_of_the_training_clips_or_of_fixed_layers(
    tmp_path, pretrained, rate, has_start, is_theirs
):
    once = dataclasses.replace(TINY.finetune, max_epochs=1, backbone_rate=rate)
    data = _data(False, seed=5)
    preset = dataclasses.replace(TINY, finetune=once)
    start = pretrained[0] if has_start else None
    training.finetune(tmp_path, data, preset, start=start)
    network = networks.load(tmp_path / "model.keras")
    tagger = networks.load(pretrained[0] / "model.keras")
    of_layers, theirs = (
        each.get_layer("standardize").get_weights() for each in (network, tagger)
    )
    of_head = network.get_layer("standardize_joined").get_weights()
    frames = np.concatenate(
        [
            data.features.frames[start : start + count]
            for start, count in zip(
                data.features.starts[data.train],
                data.features.counts[data.train],
                strict=True,
            )
        ]
    )
    mean = frames.mean(axis=0)
    # The head reads frames that the layers' statistics have been taken out of.
    read = of_head[0][:NUM_PATHS] * of_layers[1] + of_layers[0]
    np.testing.assert_allclose(read, mean, atol=1e-4)
    expected = theirs[0] if is_theirs else mean
    np.testing.assert_allclose(of_layers[0], expected, atol=1e-4)
    assert np.abs(theirs[0] - mean).max() > 0.01


def test_evaluation_agrees_with_the_run(finetuned):
    folder, record = finetuned
    data = _data(False)
    result = training.evaluate(folder, data.features, data.table, data.test)
    assert result.accuracy == record["metrics"]["test"]["accuracy"]


def test_genres_unknown_to_the_classifier_are_named(finetuned):
    data = _data(False)
    table = dataclasses.replace(data.table, vocabulary=("a", "b", "polka"))
    with pytest.raises(ValueError, match="polka"):
        training.evaluate(finetuned[0], data.features, table, data.test)


def test_a_start_of_another_size_is_refused(tmp_path, pretrained):
    model = dataclasses.replace(TINY.model, num_units=8)
    preset = dataclasses.replace(TINY, model=model)
    with pytest.raises(ValueError, match="num_units=16"):
        training.finetune(tmp_path, _data(False), preset, start=pretrained[0])


def test_a_classifier_is_no_start(tmp_path, finetuned):
    with pytest.raises(ValueError, match="finetune run"):
        training.finetune(tmp_path, _data(False), TINY, start=finetuned[0])


def test_a_start_that_has_not_finished_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        training.finetune(tmp_path, _data(False), TINY, start=tmp_path / "absent")


def test_tags_and_genres_are_not_mixed_up(tmp_path):
    with pytest.raises(ValueError, match="takes tags"):
        training.pretrain(tmp_path, _data(False), TINY)
    with pytest.raises(ValueError, match="takes genres"):
        training.finetune(tmp_path, _data(True), TINY)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy(tmp_path):
    data = _data(False)
    data.features.frames[:] = np.nan
    with pytest.raises(ValueError, match="learning_rate"):
        training.finetune(tmp_path, data, TINY)


def test_stable_means_no_gain_for_so_many_epochs():
    def history(*values):
        return [{"m": value} for value in values]

    arguments = {"monitor": "m", "patience_epochs": 2, "min_delta": 0.01}
    assert not run_folder.is_stable(history(0.5, 0.6, 0.6), **arguments)
    assert run_folder.is_stable(history(0.5, 0.6, 0.6, 0.6), **arguments)
    assert run_folder.is_stable(history(0.5, 0.504, 0.508), **arguments)
    assert not run_folder.is_stable(history(0.5, 0.508, 0.516), **arguments)
    arguments["patience_epochs"] = 0
    assert not run_folder.is_stable(history(*[0.5] * 50), **arguments)


def test_the_first_of_the_best_epochs_is_kept_or_else_the_last():
    assert (
        run_folder.best_epoch([{"m": 0.5}, {"m": 0.7}, {"m": 0.7}, {"m": 0.6}], "m")
        == 2
    )
    assert run_folder.best_epoch([{"loss": 1.0}, {"loss": 0.5}], "m") == 2
