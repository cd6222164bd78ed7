"""Training from a folder and corrections, in this process."""

import dataclasses

import numpy as np
import pytest
from support import tiny_tagger

from genre_tl import serving
from genre_tl.library import catalogue
from genre_tl.serving import model_card
from tools import changes, retraining

NUM_CLIPS = 16
GENRES = ("noise", "tone")
MISPLACED = (0, 2, 4, 6, 8)  # of the noises: most lie in the folder of tones


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An exported tagger, unchecked."""
    return tiny_tagger.save(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The genre of each file of a folder, by path; five lie in the wrong place."""
    folder, truth = tmp_path_factory.mktemp("music"), {}
    for number in range(NUM_CLIPS):
        genre = GENRES[number % 2]
        place = GENRES[(number + (number in MISPLACED)) % 2]
        path = tiny_tagger.write(folder / place / f"{number}.wav", genre, number)
        truth[str(path)] = genre
    return truth


@pytest.fixture(scope="module")
def request_for(tmp_path_factory, start):
    """Requests that write to a folder of this module."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name, labels, **facts):
        places = {f"{x}_dir": folder / x for x in ("runs", "saved_models", "features")}
        return retraining.Request(name, labels, start=start, **places, **facts)

    return make


@pytest.fixture(scope="module")
def corrected(request_for, truth):
    """A folder whose misplaced files are corrected; the steps that were told."""
    folder = next(iter(truth)).rsplit("/", 2)[0]
    labels = {path: x for path, x in truth.items() if f"/{x}/" not in path}
    assert len(labels) == len(MISPLACED)
    request, steps = request_for("mine", labels, data_dir=folder), []
    outcome = retraining.train(request, on_step=lambda *step: steps.append(step))
    return request, outcome, steps


def test_corrections_win_over_folders_and_both_are_trained_on(corrected, truth):
    table = retraining.table(corrected[0])
    genres = (table.vocabulary[x] for x in table.classes)
    found = dict(zip(table.files, genres, strict=True))
    assert found == truth
    assert changes.read(corrected[0].runs_dir / "mine") == changes.of_table(table)


def test_predictions_before_and_after_are_compared_with_the_corrected_labels(corrected):
    _, outcome, _ = corrected
    before, after = outcome.before, outcome.after
    assert before.num_files == after.num_files == NUM_CLIPS
    assert before.labels == after.labels == GENRES
    assert after.accuracy == np.trace(after.confusion) / NUM_CLIPS > before.accuracy
    assert after.interval[0] < after.accuracy <= after.interval[1]
    assert before.confusion.sum() == NUM_CLIPS
    assert "accuracy" in outcome.report.read_text()
    assert outcome.failures == ()


def test_every_step_is_told(corrected):
    steps = [text for text, _, _ in corrected[2]]
    assert list(dict.fromkeys(steps)) == ["features", "cross-validation", "training"]
    assert ("features", NUM_CLIPS, NUM_CLIPS) in corrected[2]


def test_the_next_version_is_calibrated_and_shares_the_embeddings(
    corrected, start, tmp_path
):
    version = retraining.publish(corrected[0])
    card = model_card.read(version)
    assert version.name == "1" and card["name"] == "mine"
    assert card["calibration"]["scale"] > 0 and "0.9" in card["thresholds"]
    predictor = serving.Predictor(version)
    path = tiny_tagger.write(tmp_path / "new.wav", "tone", 99)
    (result,) = serving.predict(predictor, [str(path)])
    assert predictor.labels[result.scores.argmax()] == "tone"
    tagger = serving.Predictor(start)
    models = [
        catalogue.Model.of(x.folder, model_card.read(x.folder))
        for x in (predictor, tagger)
    ]
    assert models[0].embedding == models[1].embedding
    (other,) = serving.predict(tagger, [str(path)])
    np.testing.assert_allclose(result.embedding, other.embedding, atol=1e-3)


def test_corrections_alone_train_a_first_classifier(request_for, truth, tmp_path):
    labels = dict(list(truth.items())[:8]) | {str(tmp_path / "gone.wav"): "tone"}
    predicted = dict.fromkeys(labels, "noise")
    request = request_for("first", labels, predicted=predicted)
    outcome = retraining.train(request)
    assert outcome.before.accuracy == 0.5 and outcome.before.num_files == 8
    assert outcome.after.accuracy > 0.5
    assert outcome.failures == ((str(tmp_path / "gone.wav"), "no such file"),)


def test_more_labels_train_the_next_version_and_keep_the_last_run(request_for, truth):
    few, all_of_them = dict(list(truth.items())[:6]), truth
    retraining.train(request_for("grows", few))
    request = request_for("grows", all_of_them)
    retraining.train(request)
    assert (request.runs_dir / "grows.1" / "model.keras").is_file()
    assert len(changes.read(request.runs_dir / "grows")) == NUM_CLIPS
    # Once more changes nothing.
    model = request.runs_dir / "grows" / "model.keras"
    before = model.stat().st_mtime_ns
    retraining.train(request)
    assert model.stat().st_mtime_ns == before
    assert not (request.runs_dir / "grows.2").exists()


def test_a_file_with_other_audio_trains_another_version(request_for, truth, tmp_path):
    labels = {}
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        tiny_tagger.write(path, GENRES[number % 2], number)
        labels[str(path)] = GENRES[number % 2]
    request = request_for("changes", labels)
    assert retraining.train(request).before is None
    tiny_tagger.write(path, "tone", 77)
    retraining.train(request)
    assert (request.runs_dir / "changes.1" / "model.keras").is_file()


def test_predictions_that_are_no_genres_are_not_compared(request_for, truth):
    labels = dict(list(truth.items())[:6])
    request = request_for("tags", labels, predicted=dict.fromkeys(labels, "guitar"))
    assert retraining.train(request).before is None


def test_two_genres_with_two_files_each_are_enough(request_for, truth):
    outcome = retraining.train(request_for("least", dict(list(truth.items())[:4])))
    assert outcome.after.num_files == 4


def test_a_genre_with_a_single_file_is_trained_but_not_measured(request_for, truth):
    labels = dict(list(truth.items())[:4])
    labels[next(reversed(labels))] = "rare"
    outcome = retraining.train(request_for("rare", labels))
    assert outcome.after is None and outcome.report is None


def test_a_genre_whose_files_are_all_corrected_is_left_out(request_for, truth):
    folder = next(iter(truth)).rsplit("/", 2)[0]
    labels = dict.fromkeys(truth, "tone") | {next(iter(truth)): "hiss"}
    labels["gone.wav"] = "polka"
    table = retraining.table(request_for("x", labels, data_dir=folder))
    assert set(table.vocabulary) == {"tone", "hiss"}
    assert table.skipped == (("gone.wav", "no such file"),)


@pytest.mark.parametrize(
    ("labels", "message"),
    [({}, "correct some files"), ({0: "tone", 2: "tone"}, "at least 2 are needed")],
)
def test_too_few_genres_are_an_error_before_any_work(
    request_for, truth, labels, message
):
    paths = list(truth)
    request = request_for("none", {paths[x]: label for x, label in labels.items()})
    with pytest.raises(ValueError, match=message):
        retraining.train(request)
    assert not (request.runs_dir / "none").exists()


def test_a_name_that_leads_elsewhere_is_refused(request_for, truth):
    request = dataclasses.replace(request_for("x", truth), name="../x")
    with pytest.raises(ValueError, match="name"):
        retraining.train(request)
