"""Folds of a tiny network on features made up by the tests of training."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import training_test

from genre_tl import params
from genre_tl.training import cross_validation

TINY = dataclasses.replace(
    training_test.TINY,
    finetune=dataclasses.replace(
        training_test.TINY.finetune, max_epochs=3, crop_frames=16
    ),
)
PLAN = cross_validation.Plan(num_folds=3, num_repeats=2, seed=4, curves=True)
ALL = ("transfer", "random", "svm")


def _data(seed=0):
    made = training_test._data(False, seed=seed)
    return cross_validation.Data(made.features, made.table)


def _run(folder, *, plan=PLAN, compared=("random",), data=None, **kwargs):
    preset = kwargs.pop("preset", TINY)
    return cross_validation.cross_validate(
        folder, data or _data(), preset, plan, compared=compared, **kwargs
    )


def _results(record):
    """What folds came to, by what they are: all but the time they took."""
    return {
        (line["model"], line["repeat"], line["fold"]): {
            key: value for key, value in line.items() if key != "time"
        }
        for line in record.lines
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    training_test._pretrain(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return _run(folder, compared=ALL, start=start)


def test_every_model_gets_every_fold_once(whole):
    keys = [(x["model"], x["repeat"], x["fold"]) for x in whole.lines]
    assert sorted(keys) == sorted(
        (m, r, f) for m in ALL for r in range(2) for f in range(3)
    )
    for repeat in range(2):
        for model in ALL:
            folds = [
                x["test"]
                for x in whole.lines
                if x["repeat"] == repeat and x["model"] == model
            ]
            assert sorted(itertools.chain(*folds)) == list(range(24))


def test_lines_say_what_the_settings_and_the_clips_bear_out(whole):
    classes = _data().table.classes
    for line in whole.lines:
        truth = classes[line["test"]]
        assert line["accuracy"] == np.mean(truth == line["predicted"])
        assert line["num_train"] + len(line["test"]) == 24
        assert line["time"]["steps"] >= 0 and line["time"]["other"] > 0
        if line["model"] != "svm":
            assert line["epoch"] == 3
            assert len(line["history"]["test_accuracy"]) == 3
            assert line["history"]["test_accuracy"][-1] == line["accuracy"]
    path = whole.folder / "folds.jsonl"
    assert [json.loads(x) for x in path.read_text().splitlines()] == whole.lines


def test_folds_depend_neither_on_order_nor_on_what_ran_before(tmp_path, whole, start):
    # Bit by bit: losses are compared as they are.
    record = _run(tmp_path / "random", compared=("random",))
    theirs = _results(whole)
    for key, line in _results(record).items():
        assert line == theirs[key]
    # Backwards: the lines that are missing are those that came first.
    (tmp_path / "back").mkdir()
    for name in ("settings.json", "folds.jsonl"):
        (tmp_path / "back" / name).write_text((whole.folder / name).read_text())
    lines = (whole.folder / "folds.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "back" / "folds.jsonl").write_text("".join(lines[6:]))
    again = _run(tmp_path / "back", compared=("svm", "random", "transfer"), start=start)
    assert _results(again) == theirs
    assert len(again.lines) == len(lines)


def test_transfer_and_random_differ_in_their_weights_alone(whole):
    results = _results(whole)
    for (model, repeat, fold), line in results.items():
        if model == "transfer":
            other = results["random", repeat, fold]
            assert line["test"] == other["test"]
            assert line["history"]["loss"] != other["history"]["loss"]


def test_a_line_torn_by_a_kill_is_written_anew(tmp_path):
    plan = dataclasses.replace(PLAN, num_repeats=1)
    record = _run(tmp_path, plan=plan, compared=("svm",))
    path = tmp_path / "folds.jsonl"
    text = path.read_text()
    path.write_text(text[:-9])
    assert _results(_run(tmp_path, plan=plan, compared=("svm",))) == _results(record)
    assert path.read_text().count("\n") == 3


def test_more_repeats_go_on_from_those_that_are_there(tmp_path, monkeypatch):
    once = dataclasses.replace(PLAN, num_repeats=1)
    first = _run(tmp_path, plan=once, compared=("svm",)).lines
    assert _run(tmp_path, compared=("svm",)).lines[:3] == first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan": dataclasses.replace(PLAN, seed=5)}, "plan"),
        ({"preset": params.PRESETS["default"]}, "preset"),
    ],
)
def test_a_folder_of_other_settings_is_refused(whole, change, named):
    with pytest.raises(ValueError, match=f"other {named}"):
        _run(whole.folder, **change)


def test_folds_that_were_divided_otherwise_are_not_mixed_with_others(tmp_path):
    plan = dataclasses.replace(PLAN, num_repeats=1)
    _run(tmp_path, plan=plan, compared=("svm",))
    path = tmp_path / "folds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["test"], lines[2]["test"] = lines[2]["test"], lines[1]["test"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"fold 1 of repeat 0 .*scikit-learn"):
        _run(tmp_path, plan=plan, compared=("random",))


def test_another_start_is_refused(tmp_path, whole):
    other = tmp_path / "other"
    training_test._pretrain(other, seed=9)
    with pytest.raises(ValueError, match="other start"):
        _run(whole.folder, compared=("transfer",), start=other)


def test_what_is_missing_or_unknown_is_named(tmp_path):
    with pytest.raises(ValueError, match="needs a start"):
        _run(tmp_path, compared=("transfer",))
    with pytest.raises(ValueError, match="forest"):
        _run(tmp_path, compared=("forest",))
    with pytest.raises(ValueError, match="protocol"):
        cross_validation.Plan(protocol="loose")
    with pytest.raises(ValueError, match="num_repeats"):
        cross_validation.Plan(num_repeats=0)
    with pytest.raises(ValueError, match="clips_per_genre is -1"):
        cross_validation.Plan(clips_per_genre=-1)


def test_the_strict_protocol_keeps_the_best_epoch_of_inner_clips(tmp_path):
    plan = dataclasses.replace(PLAN, protocol="strict", num_repeats=1, curves=False)
    for fold in cross_validation.divide(_data().table, plan):
        parts = (fold.train, fold.valid, fold.test)
        assert sorted(np.concatenate(parts)) == list(range(24))
        assert len(fold.valid) >= 3
    for line in _run(tmp_path, plan=plan).lines:
        history = line["history"]
        assert line["epoch"] == np.argmax(history["val_accuracy"]) + 1
        assert "test_accuracy" not in history


def test_the_strict_protocol_takes_fewer_inner_folds_of_few_groups():
    plan = dataclasses.replace(PLAN, protocol="strict", num_folds=2)
    rows = np.concatenate(
        [np.flatnonzero(_data().table.classes == c)[:4] for c in range(3)]
    )
    few = _data().table.select(rows)
    for fold in cross_validation.divide(few, plan):
        assert len(fold.train) == len(fold.valid) == 3
    fewest = few.select(np.arange(len(few))[::2])
    with pytest.raises(ValueError, match="two groups of clips of each genre"):
        cross_validation.divide(fewest, plan)


def test_training_clips_of_a_genre_are_capped():
    plan = dataclasses.replace(PLAN, clips_per_genre=2)
    table = _data().table
    for fold in cross_validation.divide(table, plan):
        assert np.bincount(table.classes[fold.train]).tolist() == [2, 2, 2]
        assert not set(fold.train) & set(fold.test)


def test_a_published_split_is_taken_as_it_is():
    parts = {
        "train": np.arange(12),
        "valid": np.arange(12, 18),
        "test": np.arange(18, 24),
    }
    for protocol, num_valid in (("paper", 0), ("strict", 6)):
        plan = dataclasses.replace(PLAN, protocol=protocol)
        folds = cross_validation.divide(_data().table, plan, parts)
        assert [fold.test.tolist() for fold in folds] == [list(range(18, 24))] * 2
        assert [len(fold.valid) for fold in folds] == [num_valid] * 2
        assert folds[0].seed != folds[1].seed


def test_a_run_killed_at_random_ends_like_an_undisturbed_one(tmp_path, root, whole):
    call = "cross_validation_test._run(folder)"
    assert training_test.kill_again_and_again(call, root, tmp_path, 1.5) > 0
    record = _run(tmp_path)
    theirs = _results(whole)
    assert _results(record) == {k: x for k, x in theirs.items() if k[0] == "random"}
    assert len(record.lines) == 6


def test_with_fixed_layers_folds_do_not_depend_on_what_ran_before(tmp_path, start):
    fixed = dataclasses.replace(
        TINY.finetune, backbone_rate=0.0, head_pull=5.0, head_pulls=(0.0, 40.0)
    )
    preset = dataclasses.replace(TINY, finetune=fixed)
    plan = dataclasses.replace(PLAN, num_repeats=1)
    both = ("transfer", "random")
    whole = _run(
        tmp_path / "whole", preset=preset, plan=plan, compared=both, start=start
    )
    theirs = _results(whole)
    assert len(theirs) == 6
    for (model, *_), line in theirs.items():
        chosen = fixed.head_pulls if model == "transfer" else (5.0,)
        assert line["head_pull"] in chosen
    for model in both:
        folder = tmp_path / model
        alone = _run(folder, preset=preset, plan=plan, compared=(model,), start=start)
        assert len(alone.lines) == 3
        for key, line in _results(alone).items():
            assert line == theirs[key]
        # What is left of a run that was stopped.
        lines = (folder / "folds.jsonl").read_text().splitlines(keepends=True)
        (folder / "folds.jsonl").write_text("".join(lines[1:]))
        again = _run(folder, preset=preset, plan=plan, compared=(model,), start=start)
        assert _results(again) == _results(alone)
