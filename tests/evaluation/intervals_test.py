"""Intervals: known formulas, coverage, and bounds that stay in range."""

import numpy as np
import pytest
from scipy import stats

from genre_tl.evaluation import intervals


@pytest.mark.parametrize("right, wrong", [(0, 7), (7, 0), (1, 0), (59, 11), (5, 5)])
def test_wilsons_interval_agrees_with_scipy_and_has_a_width(right, wrong):
    num = right + wrong
    low, high = intervals.wilson(right / num, num)
    expected = stats.binomtest(right, num).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-6)
    assert 0 <= low < high <= 1


def test_the_bootstrap_of_independent_clips_and_one_repeat_is_that_of_a_mean():
    generator = np.random.default_rng(0)
    values = generator.standard_normal(400)
    low, high = intervals.bootstrap(values[np.newaxis], np.arange(400))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + [-half, half], atol=0.006)


def test_the_bootstrap_covers_the_variance_of_clips_groups_and_repeats():
    # Effects of repeats, groups and the rest; the mean of all is 0.
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 3)
    covered = []
    for _ in range(60):
        values = 0.3 * generator.standard_normal([8, 1])
        values = values + generator.standard_normal(30)[groups]
        values = values + generator.standard_normal([8, 90])
        low, high = intervals.bootstrap(values, groups)
        covered.append(low < 0 < high)
    assert np.mean(covered) > 0.85
    # Clips of a group that are taken as independent make the interval too narrow.
    narrow = intervals.bootstrap(values, np.arange(90))
    assert np.ptp(narrow) < 0.8 * (high - low)


def test_the_bootstrap_stays_within_the_range_of_the_values():
    low, high = intervals.bootstrap(np.array([[1.0, 1, 1, 0]]), list("abcd"))
    assert 0 <= low < high <= 1


def test_the_bootstrap_leaves_out_clips_that_were_not_tested():
    values = np.array([[1.0, 0, 1, 0], [np.nan, np.nan, 1, 0]])
    low, high = intervals.bootstrap(values, list("abcd"))
    assert 0 <= low < 0.5 < high <= 1


@pytest.mark.parametrize("values", [[[1.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_values_that_do_not_vary_have_no_interval(values):
    groups = np.arange(len(values[0]))
    assert intervals.bootstrap(np.array(values), groups) is None
