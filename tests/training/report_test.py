"""Reports of folds that are made up, so that what they must say is known."""

import json

import pytest

from genre_tl.training import cross_validation, records, report

GENRES = ["a", "b"]


def record(folder, lines, *, curves=True, rate=0.0, **settings):
    """A record of four clips, a, a, b, b; `lines` are (model, fold, predicted)."""
    plan = cross_validation.Plan(num_folds=2, num_repeats=1, curves=curves)
    made = records.Record(
        folder,
        {
            "plan": vars(plan),
            "preset": {"finetune": {"backbone_rate": rate, "head_pulls": [10.0, 40.0]}},
            "start": None,
            "data": {
                "name": "x",
                "split": "folds",
                "paths": list("1234"),
                "classes": [0, 0, 1, 1],
                "groups": list("1234"),
            },
            "vocabulary": GENRES,
            **settings,
        },
    )
    for model, fold, predicted, *history in lines:
        test = [0, 2] if fold == 0 else [1, 3]
        right = [p == (t >= 2) for p, t in zip(predicted, test, strict=True)]
        line = {
            "model": model,
            "repeat": 0,
            "fold": fold,
            "num_train": 2,
            "accuracy": sum(right) / 2,
            "test": test,
            "predicted": predicted,
            "time": {"steps": 3.0, "evaluation": 0.5, "other": 1.0},
        }
        if model != "svm":
            line["head_pull"] = 10.0 + 30 * (model == "transfer") * fold
        if history:
            line["history"] = {"accuracy": history[0], "test_accuracy": history[0]}
        made.add(line)
    return made


WORSE = [
    ("transfer", 0, [1, 0], [0.5, 0.0]),
    ("random", 0, [0, 1], [0.5, 1.0]),
    ("transfer", 1, [1, 1], [0.5, 0.5]),
    ("random", 1, [0, 1], [0.5, 1.0]),
]


def test_the_figures_are_those_of_the_folds(tmp_path):
    figures = report.summary(record(tmp_path, WORSE))
    transfer = figures["models"]["transfer"]
    assert transfer["accuracy"]["value"] == 0.25
    assert transfer["recall"] == {"a": 0.0, "b": 0.5}
    assert transfer["confusion"] == [[0, 2], [1, 1]]
    assert transfer["test_accuracy_by_epoch"] == [0.5, 0.25]
    difference = figures["differences"]["transfer - random"]
    assert difference["value"] == -0.75 and difference["num_folds"] == 2
    # Two differences, -1 and -0.5: t(1) * sqrt(0.125 * (1 / 2 + 1)).
    low, high = difference["interval"]
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.125**0.5 * 1.5**0.5, 1e-4)
    # By clip: -1, 0, -1, -1.
    low, high = difference["clips_interval"]
    assert low == -1 and -0.5 <= high <= 0
    assert transfer["accuracy"]["clips_interval"] == [0, 0.75]
    assert figures["time"] == {"steps": 12.0, "evaluation": 2.0, "other": 4.0}


def test_the_bootstrap_takes_the_repeats_that_have_tested_all_clips(tmp_path):
    made = record(tmp_path, [("random", 0, [0, 1]), ("random", 1, [0, 1])])
    unfinished = {**made.lines[0], "repeat": 1, "accuracy": 0.0, "predicted": [1, 0]}
    made.add(unfinished)
    accuracy = report.summary(made)["models"]["random"]["accuracy"]
    assert accuracy["value"] == pytest.approx(2 / 3)
    assert accuracy["clips_interval"] == [1, 1]


def test_differences_are_taken_over_the_folds_that_both_have(tmp_path):
    figures = report.summary(record(tmp_path, WORSE[:3]))
    assert figures["differences"]["transfer - random"]["value"] == -1.0
    assert figures["differences"]["transfer - random"]["num_folds"] == 1
    assert figures["differences"]["transfer - random"]["clips_interval"] == [-1, -1]


def test_a_report_warns_in_words_where_transfer_does_worse(tmp_path):
    shown = report.write(record(tmp_path, WORSE))
    text = (tmp_path / "report.md").read_text()
    for where in (shown, text):
        assert "Warning: transfer does not help here: 75.0 points below" in where
    assert "for this plot alone" in text
    assert "never reaches" in text
    assert "transfer 10 in 1, 40 in 1; random 10 in 2." in text
    assert "18 s, 67% of it in training steps, 11% in scoring, 22% in all else." in text
    assert json.loads((tmp_path / "report.json").read_text())["models"].keys() == {
        "transfer",
        "random",
    }
    for name in ("accuracy", "confusion-transfer", "confusion-random"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        assert f"({name}.png)" in text


def test_where_the_layers_learn_no_pull_was_chosen(tmp_path):
    report.write(record(tmp_path, WORSE, rate=0.1))
    assert "pulled back" not in (tmp_path / "report.md").read_text()


def test_a_loss_that_is_beyond_chance_is_called_so(tmp_path):
    one = [("transfer", 0, [1, 0]), ("random", 0, [0, 1])]
    other = [("transfer", 1, [1, 0]), ("random", 1, [0, 1])]
    shown = report.write(record(tmp_path, one + other))
    assert "does worse than random initialisation, by 100.0 points" in shown
    assert "excludes zero" in shown


def test_without_a_loss_there_is_no_warning_and_the_epoch_is_told(tmp_path):
    better = [
        ("transfer", 0, [0, 1], [1.0, 1.0]),
        ("random", 0, [0, 0], [0.0, 0.5]),
    ]
    shown = report.write(record(tmp_path, better))
    assert "Warning" not in shown
    text = (tmp_path / "report.md").read_text()
    assert "(50.0%, epoch 2) at epoch 1" in text


def test_rounding_is_no_loss():
    even = {"value": -1e-17, "interval": [-0.1, 0.1]}
    assert report._warnings({"differences": {"transfer - random": even}}) == []


def test_nothing_finished_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no fold"):
        report.write(record(tmp_path, []))


def test_seeds_on_a_published_split_have_no_interval_by_folds(tmp_path):
    data = {
        "name": "x",
        "split": "fault_filtered",
        "paths": list("1234"),
        "classes": [0, 0, 1, 1],
        "groups": list("1234"),
    }
    lines = [("svm", 0, [0, 1])]
    made = record(tmp_path, lines, data=data)
    made.add({**made.lines[0], "repeat": 1, "accuracy": 0.5, "predicted": [0, 0]})
    accuracy = report.summary(made)["models"]["svm"]["accuracy"]
    assert accuracy["value"] == 0.75
    assert accuracy["interval"] == [None, None]
    low, high = accuracy["clips_interval"]
    assert low < 0.75 < high
    report.write(made)
    text = (tmp_path / "report.md").read_text()
    assert "split fault_filtered x 2 seeds" in text
    assert "All repeats test the same clips" in text
    assert "Nadeau" not in text


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_source_that_has_seen_the_clips_is_told(tmp_path, name):
    source = {"data": {"name": name, "train": ["0", "1"], "valid": ["4", "5"]}}
    shown = report.write(record(tmp_path, WORSE, start=source))
    assert ("was trained on 2 of these 4 clips" in shown) == (name == "x")
    shown = report.write(record(tmp_path / "svm", [("svm", 0, [0, 1])], start=source))
    assert "was trained on" not in shown


def test_a_genre_without_a_test_clip_has_no_recall(tmp_path):
    made = record(tmp_path, [("svm", 0, [0, 1])], vocabulary=["a", "b", "c"])
    report.write(made)
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["models"]["svm"]["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert "| c | - |" in (tmp_path / "report.md").read_text()
