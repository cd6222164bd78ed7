"""Reports of made-up folds, so that the expected numbers are known."""

import json
import shlex
import types

import numpy as np
import pytest
from matplotlib import text
from support import runs

from genre_tl.training import report

GENRES = ["a", "b"]
WORSE = [
    ("transfer", 0, [1, 0], [0.5, 0.0]),
    ("random", 0, [0, 1], [0.5, 1.0]),
    ("transfer", 1, [1, 1], [0.5, 0.5]),
    ("random", 1, [0, 1], [0.5, 1.0]),
]


def line(model, fold, predicted, history=(), repeat=0):
    test = [0, 2] if fold == 0 else [1, 3]
    right = [p == (t >= 2) for p, t in zip(predicted, test, strict=True)]
    made = {
        "model": model,
        "repeat": repeat,
        "fold": fold,
        "num_train": 2,
        "accuracy": sum(right) / 2,
        "test": test,
        "predicted": predicted,
        "epoch": 2,
    }
    return made | ({"history": {"test_accuracy": history}} if history else {})


def record(folder, lines, *, split="folds", name="x", **settings):
    """A record of four clips, a, a, b, b; `lines` are arguments of `line`."""
    folder.mkdir(exist_ok=True)
    plan = {"num_folds": 2, "seed": 0, "protocol": "paper", "curves": True}
    data = {
        "name": name,
        "split": split,
        "paths": list("1234"),
        "classes": [0, 0, 1, 1],
        "groups": list("1234"),
    }
    command = "/home/me/tools/cross_validate.py --data_dir='my music'"
    settings = {
        "plan": plan,
        "start": None,
        "data": data,
        "vocabulary": GENRES,
        "command": command,
        **settings,
    }
    made = [line(*arguments) for arguments in lines]
    return types.SimpleNamespace(folder=folder, settings=settings, lines=made)


def test_results_are_those_of_the_folds(tmp_path):
    results = report.summary(record(tmp_path, WORSE))
    transfer = results["models"]["transfer"]
    assert transfer["accuracy"]["value"] == 0.25
    assert transfer["recall"] == {"a": 0.0, "b": 0.5}
    assert transfer["confusion"] == [[0, 2], [1, 1]]
    assert transfer["test_accuracy_by_epoch"] == [0.5, 0.25]
    # The differences of the clips are -1, -1, 0, -1.
    difference = results["differences"]["transfer - random"]
    assert difference["value"] == -0.75 and difference["num_folds"] == 2
    low, high = difference["interval"]
    assert low == -1 and -0.5 <= high <= 0


def test_an_accuracy_of_100_percent_has_an_interval_within_range(tmp_path):
    results = report.summary(record(tmp_path, WORSE))
    low, high = results["models"]["random"]["accuracy"]["interval"]
    assert 0 < low < high <= 1


def test_a_difference_without_an_interval_is_reported_as_such(tmp_path):
    same = [("random", 0, [0, 0]), ("svm", 0, [0, 0])]
    shown = report.write(record(tmp_path, same))
    row = "| random − svm (points) | +0.0 | too few clips for an interval | 1 |"
    assert row in shown
    results = json.loads((tmp_path / "report.json").read_text())
    assert results["differences"]["random - svm"]["interval"] is None


def test_a_repeat_that_has_not_finished_counts_with_its_folds(tmp_path):
    lines = [("random", 0, [0, 1]), ("random", 1, [0, 1]), ("random", 0, [1, 0], (), 1)]
    accuracy = report.summary(record(tmp_path, lines))["models"]["random"]["accuracy"]
    assert accuracy["value"] == pytest.approx(2 / 3)
    low, high = accuracy["interval"]
    assert low < 2 / 3 < high


def test_differences_are_over_the_folds_that_both_models_have(tmp_path):
    difference = report.summary(record(tmp_path, WORSE[:3]))["differences"]
    assert difference["transfer - random"]["value"] == -1.0
    assert difference["transfer - random"]["num_folds"] == 1
    nothing = [("transfer", 0, [0, 1]), ("random", 1, [0, 1])]
    assert report.summary(record(tmp_path, nothing))["differences"] == {}


def test_related_clips_count_as_one_group(tmp_path):
    made = record(tmp_path, WORSE)
    alone = report.summary(made)["models"]["transfer"]["accuracy"]["interval"]
    made.settings["data"]["groups"] = list("1111")
    results = report.summary(made)
    related = results["models"]["transfer"]["accuracy"]["interval"]
    assert np.ptp(related) > np.ptp(alone)
    assert results["differences"]["transfer - random"]["interval"] is None


def test_a_report_warns_where_transfer_is_worse(tmp_path):
    shown = report.write(record(tmp_path, WORSE))
    text = (tmp_path / "report.md").read_text()
    for where in (shown, text):
        assert "transfer is 75.0 points worse than random" in where
        assert "the interval excludes zero" in where.replace("\n", " ")
        last = "transfer: about 2 of 10 right; weakest: a (0 of 2)."
        assert where.rstrip().endswith(last)
    assert "for this plot only" in text
    assert "Transfer reaches at no epoch the final accuracy of random" in text
    assert json.loads((tmp_path / "report.json").read_text())["models"].keys() == {
        "transfer",
        "random",
    }
    for name in ("accuracy", "confusion-transfer", "confusion-random"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        assert f"({name}.png)" in text


@pytest.mark.parametrize("predicted", [[1, 1], [1, 0]])
def test_a_loss_without_an_interval_below_zero_may_be_chance(tmp_path, predicted):
    lines = [("transfer", 0, predicted), ("random", 0, [0, 1])]
    shown = report.write(record(tmp_path, lines))
    assert "below random initialisation, which may be chance" in shown


def test_without_a_loss_there_is_no_warning_and_the_epoch_is_given(tmp_path):
    better = [
        ("transfer", 0, [0, 1], [1.0, 1.0]),
        ("random", 0, [0, 0], [0.0, 0.5]),
    ]
    shown = report.write(record(tmp_path, better))
    assert "Warning" not in shown
    text = (tmp_path / "report.md").read_text()
    assert "reaches first at epoch 1 the final accuracy of random" in text
    assert "(50.0%, epoch 2)" in text


def test_a_difference_that_rounds_to_zero_is_no_loss(tmp_path):
    even = {"value": -1e-17, "interval": [-0.1, 0.1]}
    results = {"models": {}, "differences": {"transfer - random": even}}
    assert list(report._warnings(record(tmp_path, []), results)) == []


def test_a_record_without_finished_folds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no fold has finished"):
        report.write(record(tmp_path, []))


def test_a_published_split_is_named_with_its_seeds(tmp_path):
    lines = [("svm", 0, [0, 1]), ("svm", 0, [0, 0], (), 1)]
    made = record(tmp_path, lines, split="fault_filtered", name="gtzan")
    assert report.summary(made)["models"]["svm"]["accuracy"]["value"] == 0.75
    report.write(made)
    text = (tmp_path / "report.md").read_text()
    assert "split fault_filtered, seeds: 2" in text
    assert "about 8 of 10 right; weakest: b (0 of 1)." in text


@pytest.mark.parametrize("num_seen", [0, 2])
def test_clips_that_pretraining_has_used_are_reported(tmp_path, num_seen):
    start = {"num_seen": num_seen}
    shown = report.write(record(tmp_path, WORSE, start=start))
    assert ("2 of these 4 clips were used in pre-training" in shown) == (num_seen > 0)
    shown = report.write(record(tmp_path / "svm", [("svm", 0, [0, 1])], start=start))
    assert "were used in pre-training" not in shown


@pytest.mark.parametrize(
    "name, num_clips, expected",
    [("gtzan", 1000, True), ("gtzan", 70, False), ("x", 1000, False)],
)
def test_published_accuracies_are_cited_for_the_whole_of_gtzan(
    tmp_path, name, num_clips, expected
):
    made = record(tmp_path, [("svm", 0, [0, 1])], name=name)
    made.settings["data"]["paths"] = [str(i) for i in range(num_clips)]
    report.write(made)
    text = (tmp_path / "report.md").read_text()
    assert ("95.8 % with transfer" in text) == expected


def test_a_genre_without_a_test_clip_has_no_recall(tmp_path):
    made = record(tmp_path, [("svm", 0, [0, 1])], vocabulary=["a", "b", "c"])
    report.write(made)
    results = json.loads((tmp_path / "report.json").read_text())
    assert results["models"]["svm"]["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert "| c | - |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    "recorded, runs",
    [
        ("/home/me/tools/train.py --name=a", "python -m tools.train --name=a"),
        ("/usr/bin/genre-tl-cross-validate -h", "genre-tl-cross-validate -h"),
        ("python -m tools.train --name=a", "python -m tools.train --name=a"),
    ],
)
def test_the_command_is_one_that_can_be_pasted(tmp_path, recorded, runs):
    made = record(tmp_path, WORSE, command=recorded)
    report.write(made)
    assert f"```sh\n{runs}\n```" in (tmp_path / "report.md").read_text()


def test_arguments_with_spaces_stay_one_argument(tmp_path):
    report.write(record(tmp_path, WORSE))
    text = (tmp_path / "report.md").read_text()
    command = text.split("```sh\n")[1].split("\n```")[0]
    assert shlex.split(command)[-1] == "--data_dir=my music"


def test_heads_in_closed_form_have_no_curve_beside_models_with_epochs(tmp_path, drawn):
    lines = [
        ("transfer", 0, [0, 1]),
        ("kernel", 0, [0, 1]),
        ("probe", 0, [0, 0]),
        ("finetune", 0, [0, 1], [0.5, 1.0]),
        ("random", 0, [0, 1], [0.0, 0.5]),
    ]
    shown = report.write(record(tmp_path, lines))
    results = json.loads((tmp_path / "report.json").read_text())
    curves = {
        name: model.get("test_accuracy_by_epoch")
        for name, model in results["models"].items()
    }
    assert curves == {
        "transfer": None,
        "kernel": None,
        "probe": None,
        "finetune": [0.5, 1.0],
        "random": [0.0, 0.5],
    }
    assert len(drawn) == 1 + len(lines)
    drawn_words = " ".join(x.get_text() for x in drawn[0].findobj(text.Text))
    for name, is_drawn in (("fine-tuned network", True), ("linear probe", False)):
        assert (name in drawn_words) == is_drawn
    assert "Transfer reaches" not in (tmp_path / "report.md").read_text()
    for name in ("Gaussian-kernel head", "linear probe", "fine-tuned network"):
        assert f"| {name} | " in shown
    assert "kernel − probe (points)" in shown


def test_without_epochs_there_is_no_plot_of_epochs(tmp_path):
    report.write(record(tmp_path, [("kernel", 0, [0, 1]), ("svm", 0, [0, 1])]))
    assert "by epoch" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "accuracy.png").exists()


def test_pre_training_is_reported_from_a_run_or_its_export(tmp_path):
    run = tmp_path / "pretrain"
    area = runs.pretrained(run)["metrics"]["valid"]["macro_auc_roc"]
    runs.exported(run, tmp_path / "export")
    for start, has_curves in ((run, True), (tmp_path / "export", False)):
        folder = tmp_path / f"report of {start.name}"
        report.write(record(folder, [("kernel", 0, [0, 1])]), start=start)
        text = (folder / "report.md").read_text()
        assert f"AUC-ROC\n{area:.3f} macro" in text
        assert (folder / "pretraining.png").exists() == has_curves
        assert ("![pre-training]" in text) == has_curves
