"""Folds of a tiny network on made-up features."""

import contextlib
import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from support import runs

from genre_tl import files, params, workers
from genre_tl.evaluation import calibration
from genre_tl.training import (
    cross_validation,
    finetune,
    fitting,
    fold_plan,
    run_folder,
)

PRESET = runs.tuned(max_epochs=3)
PLAN = runs.PLAN
ONCE = dataclasses.replace(PLAN, num_repeats=1)
MODELS = fold_plan.MODELS
TABLE = runs.data().table


def _run(folder, *models, preset=PRESET, **kwargs):
    return runs.validated(folder, *models, preset=preset, **kwargs)


def _results(record):
    """Lines by model, repeat and fold, without their times."""
    return {
        (line["model"], line["repeat"], line["fold"]): {
            key: value for key, value in line.items() if key != "secs"
        }
        for line in record.lines
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    runs.pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return _run(folder, *MODELS, start=start)


def test_every_model_gets_every_fold_once(whole):
    keys = [(x["model"], x["repeat"], x["fold"]) for x in whole.lines]
    assert sorted(keys) == sorted(itertools.product(MODELS, range(2), range(3)))
    for repeat, model in itertools.product(range(2), MODELS):
        lines = [line for line in whole.lines if line["repeat"] == repeat]
        tests = [line["test"] for line in lines if line["model"] == model]
        assert sorted(itertools.chain(*tests)) == list(range(24))


def test_lines_agree_with_the_settings_and_the_clips(whole):
    for line in whole.lines:
        truth = TABLE.classes[line["test"]]
        assert line["accuracy"] == np.mean(truth == line["predicted"])
        assert line["num_train"] + len(line["test"]) == 24
        has_epochs = line["model"] in ("finetune", "random")
        assert has_epochs == ("epoch" in line) == ("history" in line)
        if has_epochs:
            assert line["epoch"] == len(line["history"]["test_accuracy"]) == 3
            assert line["history"]["test_accuracy"][-1] == line["accuracy"]
    paths = sorted((whole.folder / "folds").iterdir())
    assert [json.loads(path.read_text()) for path in paths] == whole.lines


@pytest.mark.parametrize("method", params.METHODS)
def test_transfer_is_trained_by_the_method_of_the_preset(
    tmp_path, start, whole, method
):
    preset = runs.tuned(max_epochs=3, method=method)
    record = _run(tmp_path, "transfer", start=start, plan=ONCE, preset=preset)
    theirs = _results(whole)
    for key, line in _results(record).items():
        assert line == theirs[(method, *key[1:])] | {"model": "transfer"}
    if method == "kernel":
        assert _results(record).items() <= theirs.items()


def test_a_start_beats_chance_by_every_method(whole):
    for model in (*params.METHODS, "transfer"):
        found = [x["accuracy"] for x in whole.lines if x["model"] == model]
        assert np.mean(found) > 0.7  # chance: a third


@pytest.mark.parametrize("method", params.METHODS)
def test_a_fold_is_what_fine_tuning_on_its_training_clips_gives(
    tmp_path, start, whole, method
):
    data = runs.data()
    fold = fold_plan.divide(data.table, PLAN)[1]
    parts = {"train": fold.train, "valid": fold.valid, "test": fold.test}
    made = dataclasses.replace(data, parts=parts)
    preset = runs.tuned(max_epochs=3, method=method)
    finetune.finetune(tmp_path, made, preset, start=start, seed=fold.seed)
    network = run_folder.read_model(tmp_path)
    predicted = fitting.outputs(network, data, fold.test).argmax(axis=1)
    assert predicted.tolist() == _results(whole)[method, 0, 1]["predicted"]


def test_a_random_head_on_the_backbone_is_trained_like_others(tmp_path, start, whole):
    preset = runs.tuned(max_epochs=3, method="finetune", fit_head=False)
    record = _run(tmp_path, "transfer", start=start, plan=ONCE, preset=preset)
    theirs = _results(whole)
    for line in record.lines:
        assert line["epoch"] == 3
        other = theirs["finetune", 0, line["fold"]]["history"]["loss"]
        assert line["history"]["loss"][0] > other[0]


def test_folds_depend_neither_on_order_nor_on_earlier_folds(tmp_path, whole, start):
    # Bit by bit: losses are compared, too.
    theirs = _results(whole)
    for key, line in _results(_run(tmp_path / "random", "random")).items():
        assert line == theirs[key]
    # The folds that are missing are those that came first, and models in turn.
    shutil.copytree(whole.folder, tmp_path / "back")
    for path in sorted((tmp_path / "back" / "folds").iterdir())[:7]:
        path.unlink()
    again = _run(tmp_path / "back", *reversed(MODELS), start=start)
    assert _results(again) == theirs
    assert len(again.lines) == len(whole.lines)


def test_folds_share_one_graph_for_each_stage(tmp_path, start, monkeypatch):
    compiled = []
    compile_ = cross_validation.fitting._compile
    monkeypatch.setattr(
        cross_validation.fitting,
        "_compile",
        lambda model, *args: compiled.append(model) or compile_(model, *args),
    )
    _run(tmp_path, "kernel", "finetune", "random", start=start, plan=ONCE)
    assert len(compiled) == 2  # finetune and random


def test_features_of_the_frozen_backbone_are_computed_once(
    tmp_path, start, monkeypatch
):
    made, frozen = [], fitting.FrozenBackbone
    monkeypatch.setattr(
        fitting, "FrozenBackbone", lambda *args: made.append(args) or frozen(*args)
    )
    _run(tmp_path, "kernel", "probe", "transfer", start=start, plan=ONCE)
    assert len(made) == 1


def test_more_repeats_keep_those_that_are_there(tmp_path):
    first = _run(tmp_path, "svm", plan=ONCE).lines
    assert _run(tmp_path, "svm").lines[:3] == first


def test_transfer_may_be_added_later(tmp_path, start, whole):
    _run(tmp_path, "svm")
    record = _run(tmp_path, "svm", "probe", start=start)
    assert record.settings["start"] == whole.settings["start"]
    assert _run(tmp_path, "svm").lines == record.lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": dataclasses.replace(PLAN, seed=5)}, r"plan\.seed is 4 there, 5 here"),
        ({"preset": params.PRESETS["default"]}, r"preset\.frontend\.J is 3 there"),
    ],
)
def test_a_folder_of_other_settings_is_refused_with_the_differences(
    whole, change, message
):
    with pytest.raises(ValueError, match=message):
        _run(whole.folder, "random", **change)


def test_other_audio_is_refused(whole, monkeypatch):
    made = runs.data()
    features = dataclasses.replace(made.features, max_secs=3.0)
    other = dataclasses.replace(made, features=features)
    monkeypatch.setattr(runs, "data", lambda: other)
    with pytest.raises(ValueError, match=r"data\.max_secs is None there, 3\.0 here"):
        _run(whole.folder, "random")


def test_another_start_is_refused(tmp_path, whole):
    runs.pretrained(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match=r"start\.model differs"):
        _run(whole.folder, "transfer", start=tmp_path / "other")


def test_clips_seen_in_pre_training_are_counted_by_their_audio(start, whole):
    assert whole.settings["start"]["num_seen"] == runs.NUM_CLIPS
    digests = runs.data().features.digests
    assert cross_validation.num_seen(start, (*digests[:2], "0" * 64)) == 2


def test_an_export_gives_the_folds_of_its_run_but_does_not_know_what_it_saw(
    tmp_path, start, whole
):
    runs.exported(start, tmp_path / "export")
    arguments = {"start": tmp_path / "export", "plan": ONCE}
    record = _run(tmp_path / "folds", "kernel", "finetune", **arguments)
    assert _results(record).items() <= _results(whole).items()
    seen = record.settings["start"].pop("num_seen")
    assert seen == 0
    assert record.settings["start"].items() <= whole.settings["start"].items()


def test_folds_with_other_test_clips_are_not_continued(tmp_path):
    _run(tmp_path, "svm", plan=ONCE)
    _, one, other = sorted((tmp_path / "folds").iterdir())
    lines = [json.loads(path.read_text()) for path in (one, other)]
    for path, line, test in zip((one, other), lines, lines[::-1], strict=True):
        path.write_text(json.dumps(line | {"test": test["test"]}))
    with pytest.raises(ValueError, match=r"fold 1 of repeat 0 .*scikit-learn"):
        _run(tmp_path, "random", plan=ONCE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("settings.json", b"[1\n"),
        ("settings.json", b"{}"),
        ("folds/0000-0001-5-svm.json", b"[1\n"),
        ("folds/0000-0001-5-svm.json", b"{}"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(tmp_path, name, content):
    _run(tmp_path, "svm", plan=ONCE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged .*remove"):
        _run(tmp_path, "svm", plan=ONCE)


def test_processes_share_the_folds_and_give_the_same_lines(tmp_path, start, whole):
    models = ("kernel", "random", "svm")
    executor = workers.Pool(2)
    record = _run(tmp_path, *models, start=start, executor=executor)
    assert len(record.lines) == 18
    assert _results(record).items() <= _results(whole).items()


def test_a_fold_that_another_process_runs_is_waited_for(tmp_path, whole, monkeypatch):
    names, finish = [], contextlib.ExitStack()
    shutil.copytree(whole.folder, tmp_path / "same")
    taken = sorted((tmp_path / "same/folds").glob("*svm.json"))[1]
    content = taken.read_bytes()
    taken.unlink()
    finish.enter_context(files.leased(taken))

    def sleep(secs):
        if not names:
            taken.write_bytes(content)
            finish.close()
        names.append(secs)

    monkeypatch.setattr(cross_validation.time, "sleep", sleep)
    record = _run(tmp_path / "same", "svm")
    assert names and record.lines == whole.lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("transfer",)}, "the others need it"),
        ({"models": ("kernel", "svm")}, "the others need it"),
        ({"start": "runs/pretrain"}, "--model=random and --model=svm have no use for"),
        ({"models": ("forest",)}, "forest"),
        ({"models": ()}, "models"),
        ({"protocol": "loose"}, "protocol='loose'"),
        ({"num_repeats": 0}, "num_repeats=0"),
        ({"clips_per_genre": -1}, "clips_per_genre=-1"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **change)


def test_the_strict_protocol_keeps_the_best_epoch_of_inner_clips(tmp_path):
    plan = dataclasses.replace(ONCE, protocol="strict", curves=False)
    for fold in fold_plan.divide(TABLE, plan):
        parts = (fold.train, fold.valid, fold.test)
        assert sorted(np.concatenate(parts)) == list(range(24))
        assert len(fold.valid) >= 3
    for line in _run(tmp_path, "random", plan=plan).lines:
        history = line["history"]
        assert line["epoch"] == np.argmax(history["val_accuracy"]) + 1
        assert "test_accuracy" not in history


def test_the_strict_protocol_takes_fewer_inner_folds_of_few_groups():
    plan = dataclasses.replace(PLAN, protocol="strict", num_folds=2)
    rows = np.concatenate([np.flatnonzero(TABLE.classes == c)[:4] for c in range(3)])
    few = TABLE.select(rows)
    for fold in fold_plan.divide(few, plan):
        assert len(fold.train) == len(fold.valid) == 3
    fewest = few.select(np.arange(len(few))[::2])
    with pytest.raises(ValueError, match="two groups of training clips of each"):
        fold_plan.divide(fewest, plan)


def test_training_clips_of_a_genre_are_capped():
    plan = dataclasses.replace(PLAN, clips_per_genre=2)
    for fold in fold_plan.divide(TABLE, plan):
        assert np.bincount(TABLE.classes[fold.train]).tolist() == [2, 2, 2]
        assert not set(fold.train) & set(fold.test)


def test_a_published_split_is_taken_as_it_is():
    parts = {
        "train": np.arange(12),
        "valid": np.arange(12, 18),
        "test": np.arange(18, 24),
    }
    for protocol, num_valid in (("paper", 0), ("strict", 6)):
        plan = dataclasses.replace(PLAN, protocol=protocol)
        folds = fold_plan.divide(TABLE, plan, parts)
        assert [fold.test.tolist() for fold in folds] == [list(range(18, 24))] * 2
        assert [len(fold.valid) for fold in folds] == [num_valid] * 2
        assert folds[0].seed != folds[1].seed


# Each file takes two flushes.
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_killed_run_resumes_with_an_identical_result(tmp_path, root, whole, number):
    call = "validated(folder, preset=runs.tuned(max_epochs=3))"
    runs.kill_while_writing(call, root, tmp_path, number)
    record = _run(tmp_path, "random")
    theirs = _results(whole)
    assert _results(record) == {k: x for k, x in theirs.items() if k[0] == "random"}
    assert len(record.lines) == 6


def test_a_line_has_the_scores_of_every_segment_and_they_predict(whole):
    for line in whole.lines:
        if line["model"] == "svm":
            assert "log_scores" not in line
            continue
        found = cross_validation.out_of_fold(whole, [line])
        scores = calibration.plain(found)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-3)
        assert scores.argmax(axis=1).tolist() == line["predicted"]
    both = cross_validation.out_of_fold(whole, whole.lines[:1] * 2)
    assert len(both.classes) == 2 * len(whole.lines[0]["test"])
    assert both.clips.max() == len(both.classes) - 1
