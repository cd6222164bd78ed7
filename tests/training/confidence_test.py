"""What scores are worth, from made-up folds whose calibration is known."""

import types

import numpy as np
import pytest
from scipy import special

from genre_tl.evaluation import calibration
from genre_tl.training import confidence, report

GENRES = ["a", "b", "c"]
NUM_CLIPS, NUM_FOLDS = 300, 5
WRONG = 7  # the clip with a wrong label


def record(folder, num_folds=NUM_FOLDS, num_repeats=2):
    """Folds whose scores are surer than they are right."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, [NUM_CLIPS, len(GENRES)])
    shares = special.softmax(0.5 * logits, axis=1).cumsum(axis=1)
    classes = (rng.random([NUM_CLIPS, 1]) > shares).sum(axis=1).clip(0, 2)
    classes[WRONG], logits[WRONG] = 0, [-9, 9, 0]
    lines = []
    for repeat in range(num_repeats):
        order = rng.permutation(NUM_CLIPS)
        for fold in range(num_folds):
            test = np.sort(order[fold::num_folds])
            noisy = logits[test] + rng.normal(0, 0.1, [len(test), 3])
            clips = np.arange(len(test))
            lines.append(
                {
                    "model": "kernel",
                    "repeat": repeat,
                    "fold": fold,
                    "test": test.tolist(),
                    "predicted": noisy.argmax(axis=1).tolist(),
                    "log_scores": special.log_softmax(noisy, axis=1).tolist(),
                    "segments": [clips.tolist(), [9] * len(test)],
                }
            )
    data = {
        "name": "x",
        "split": "folds",
        "paths": [f"{row}.wav" for row in range(NUM_CLIPS)],
        "classes": classes.tolist(),
        "groups": [str(row) for row in range(NUM_CLIPS)],
    }
    plan = {"num_folds": num_folds, "seed": 0, "protocol": "paper", "curves": False}
    settings = {"data": data, "vocabulary": GENRES, "plan": plan, "start": None}
    settings["command"] = "cross_validate"
    return types.SimpleNamespace(folder=folder, settings=settings, lines=lines)


def test_scores_that_are_too_sure_are_calibrated(tmp_path):
    made = record(tmp_path)
    found = confidence.measure(made, made.lines)["calibration"]
    assert found["error_before"] > 0.1
    assert found["error_after"] < 0.6 * found["error_before"]
    assert 0 < found["error_by_chance"] < 0.06
    assert 0.1 < found["scale"] < 0.8


def test_nothing_is_fitted_on_the_clips_that_it_is_measured_on(tmp_path, monkeypatch):
    made, fitted = record(tmp_path, num_repeats=1), []
    fit = calibration.fit

    def spy(found):
        fitted.append(len(found.classes))
        return fit(found)

    monkeypatch.setattr(calibration, "fit", spy)
    confidence.measure(made, made.lines)
    assert sorted(fitted) == [NUM_CLIPS - NUM_CLIPS // NUM_FOLDS] * NUM_FOLDS + [
        NUM_CLIPS
    ]


def test_thresholds_rise_with_the_precision_and_reach_it(tmp_path):
    made = record(tmp_path)
    found = confidence.measure(made, made.lines)["thresholds"]
    assert list(found) == ["0.9", "0.95"]
    assert 0.82 < found["0.9"]["precision"] < 0.98
    assert found["0.95"]["coverage"] < found["0.9"]["coverage"] < 1
    for genre in GENRES:
        assert (found["0.9"]["genres"][genre] or 1) <= (
            found["0.95"]["genres"][genre] or 1
        )


def test_a_wrong_label_is_the_first_suspect(tmp_path):
    made = record(tmp_path)
    first = confidence.measure(made, made.lines)["suspects"][0]
    assert first["path"] == f"{WRONG}.wav"
    assert (first["label"], first["looks_like"]) == ("a", "b")
    assert first["score"] > 0.8 > 0.1 > first["label_score"]


@pytest.mark.parametrize("change", ["one fold", "no scores"])
def test_without_other_folds_or_scores_there_is_nothing_to_measure(tmp_path, change):
    made = record(tmp_path, num_folds=1 if change == "one fold" else 2)
    if change == "no scores":
        made.lines = [
            {k: v for k, v in x.items() if k != "log_scores"} for x in made.lines
        ]
    assert confidence.measure(made, made.lines) == {}
    report.write(made)
    assert "What a score is worth" not in (tmp_path / "report.md").read_text()


def test_the_report_shows_picture_thresholds_and_suspects(tmp_path):
    made = record(tmp_path)
    made.settings["data"]["paths"][WRONG] = "my|song.wav"
    report.write(made)
    text = (tmp_path / "report.md").read_text()
    assert "## What a score is worth: kernel" in text
    assert "![confidence](confidence-kernel.png)" in text
    assert (tmp_path / "confidence-kernel.png").stat().st_size > 10_000
    assert "| *measured precision* |" in text
    assert "| `my\\|song.wav` | a | 0.0" in text
