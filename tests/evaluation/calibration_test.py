"""Calibration: compared with chance that is known, and with scikit-learn."""

import dataclasses

import numpy as np
import pytest
from scipy import special
from sklearn import calibration as reference

from genre_tl.evaluation import calibration

NUM_GENRES = 4


def scored(num_clips=4000, scale=1.0, seed=0, num_segments=1):
    """Clips whose genres are drawn from the probabilities that calibrate to `scale`."""
    rng = np.random.default_rng(seed)
    clips = np.repeat(np.arange(num_clips), num_segments)
    logits = rng.normal(0, 4, [len(clips), NUM_GENRES])
    frames = rng.integers(1, 9, len(clips))
    found = calibration.OutOfFold(
        special.log_softmax(logits, axis=1), clips, frames, np.zeros(num_clips, int)
    )
    shares = calibration.calibrated(found, scale).cumsum(axis=1)
    classes = (rng.random([num_clips, 1]) > shares).sum(axis=1)
    return dataclasses.replace(found, classes=classes.clip(0, NUM_GENRES - 1))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("num_segments", [1, 3])
def test_the_scale_that_made_the_genres_is_found(scale, num_segments):
    found = scored(scale=scale, num_segments=num_segments)
    assert calibration.fit(found) == pytest.approx(scale, rel=0.1)


def test_calibration_keeps_the_order_of_genres_and_brings_the_error_to_that_of_chance():
    found = scored(scale=0.3)
    before, classes = calibration.plain(found), found.classes
    after = calibration.calibrated(found, calibration.fit(found))
    np.testing.assert_array_equal(before.argsort(axis=1), after.argsort(axis=1))
    np.testing.assert_allclose(after.sum(axis=1), 1)
    chance = calibration.expected_error_by_chance(after, np.arange(len(after)))
    assert calibration.expected_error(classes, after) < 2 * chance < 0.04
    assert calibration.expected_error(classes, before) > 0.1


def test_scores_of_a_clip_are_the_mean_of_its_segments_by_frames():
    found = scored(5, num_segments=3)
    segments = np.exp(found.log_scores).reshape(5, 3, NUM_GENRES)
    frames = found.frames.reshape(5, 3)
    for clip, scores in enumerate(calibration.plain(found)):
        expected = np.average(segments[clip], axis=0, weights=frames[clip])
        np.testing.assert_allclose(scores, expected)


def test_equal_scores_stay_equal():
    equal = np.full([1, NUM_GENRES], -np.log(NUM_GENRES))
    one = np.zeros(1, int)
    found = calibration.OutOfFold(equal, one, one + 1, one)
    np.testing.assert_allclose(calibration.calibrated(found, 2.0), 1 / NUM_GENRES)


def test_bins_are_those_of_scikit_learn():
    found = scored(500)
    scores = calibration.plain(found)
    count, score, accuracy = calibration.reliability(found.classes, scores).T
    is_right = scores.argmax(axis=1) == found.classes
    best = scores.max(axis=1)
    rates, means = reference.calibration_curve(is_right, best, n_bins=10)
    np.testing.assert_allclose(accuracy[count > 0], rates)
    np.testing.assert_allclose(score[count > 0], means)
    assert count.sum() == 500


def test_the_expected_error_is_the_mean_gap():
    scores = np.array([[0.95, 0.05]] * 4 + [[0.65, 0.35]] * 4)
    classes = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    found = calibration.expected_error(classes, scores)
    assert found == pytest.approx((0.2 + 0.15) / 2)


def test_coverage_and_precision_of_the_surest_clips():
    scores = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    shares, precision = calibration.coverage(np.array([0, 0, 0]), scores)
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])


@pytest.mark.parametrize("precision", calibration.PRECISIONS)
def test_new_clips_above_the_thresholds_are_right_as_often_as_asked(precision):
    def sample(seed):
        found = scored(3000, scale=0.7, seed=seed)
        return found.classes, calibration.calibrated(found, 0.7)

    lowest = calibration.thresholds(*sample(1), precision)
    num_sure, num_right = calibration.at_thresholds(*sample(2), lowest)
    assert 500 < num_sure < 3000
    assert num_right / num_sure == pytest.approx(precision, abs=0.02)


def test_a_genre_that_is_often_wrong_has_a_higher_threshold():
    rng = np.random.default_rng(0)
    best = rng.uniform(0.5, 1, 2000)
    predicted = np.arange(2000) % 2
    scores = np.stack([best, 1 - best], 1)
    scores[predicted == 1] = scores[predicted == 1, ::-1]
    # Genre 0 is always right, genre 1 as often as its score says.
    wrong = (predicted == 1) & (rng.random(2000) > best)
    lowest = calibration.thresholds(np.where(wrong, 0, predicted), scores, 0.9)
    assert lowest[0] == 0
    assert 0.7 < lowest[1] < 0.95


def test_a_precision_that_no_score_reaches_has_no_threshold():
    scores = np.array([[0.9, 0.1]] * 20)
    found = calibration.thresholds(np.ones(20, int), scores, 0.9)
    assert np.isinf(found).all()
    assert calibration.at_thresholds(np.ones(20, int), scores, found) == (0, 0)


def test_suspects_are_clips_of_another_genre_the_surest_first():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.45, 0.55], [0.5, 0.5]])
    found = calibration.suspects(np.array([0, 0, 0, 0, 1]), scores)
    assert found.tolist() == [2, 1, 3]
