"""Means of folds, and how sure they are."""

import json

import numpy as np
import pytest
from scipy import stats

from genre_tl.evaluation import intervals


def test_the_interval_of_folds_is_the_corrected_resampled_one():
    # Ten folds of ten repeats of which the variance is 1: t(99) = 1.98422,
    # sqrt(1 / 100 + 1 / 9) = 0.34801 (Nadeau and Bengio, 2003, eq. 20).
    values = np.random.default_rng(0).standard_normal(100)
    values = 5 + (values - values.mean()) / values.std(ddof=1)
    repeats = np.repeat(np.arange(10), 10)
    mean = intervals.resampled_mean(values, repeats, 1 / 9)
    assert mean.value == pytest.approx(5)
    np.testing.assert_allclose(np.subtract(mean.interval, 5), [-0.69053, 0.69053], 1e-4)
    assert mean.repeat_stddev == pytest.approx(
        np.std(values.reshape(10, 10).mean(axis=1), ddof=1)
    )
    assert mean.num_folds == 100


def test_without_overlap_the_interval_of_folds_is_students():
    values = np.array([0.5, 0.7, 0.6, 0.9])
    mean = intervals.resampled_mean(values, [0, 0, 1, 1], 0.0)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean.interval, expected)
    expected = stats.ttest_1samp([0.6, 0.75], 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean.repeat_interval, expected)


def test_one_fold_has_no_interval_and_no_spread():
    figures = intervals.resampled_mean([0.5], [0], 0.1).to_dict()
    assert json.loads(json.dumps(figures)) == {
        "value": 0.5,
        "interval": [None, None],
        "repeat_stddev": None,
        "repeat_interval": [None, None],
        "num_folds": 1,
    }
    with pytest.raises(ValueError, match="empty"):
        intervals.resampled_mean([], [], 0.1)


def test_the_bootstrap_of_independent_clips_and_one_repeat_is_that_of_a_mean():
    generator = np.random.default_rng(0)
    values = generator.standard_normal(400)
    low, high = intervals.crossed_interval(values[np.newaxis], np.arange(400))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + [-half, half], atol=0.006)


def test_the_bootstrap_covers_what_clips_groups_and_repeats_add():
    # Effects of repeats, groups and the rest; the mean of all is 0.
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 3)
    covered = []
    for _ in range(60):
        values = 0.3 * generator.standard_normal([8, 1])
        values = values + generator.standard_normal(30)[groups]
        values = values + generator.standard_normal([8, 90])
        low, high = intervals.crossed_interval(values, groups)
        covered.append(low < 0 < high)
    assert np.mean(covered) > 0.85
    # Taken for independent, clips of a group make it look surer than it is.
    narrow = intervals.crossed_interval(values, np.arange(90))
    assert np.ptp(narrow) < 0.8 * (high - low)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 4)])
def test_the_bootstrap_needs_values_and_a_group_for_each_clip(shape):
    with pytest.raises(ValueError, match="as many groups"):
        intervals.crossed_interval(np.zeros(shape), ["a", "b", "c"])
