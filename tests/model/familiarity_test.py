"""Familiarity, compared with explicit distances and with known chance."""

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import neighbors

from genre_tl import params
from genre_tl.model import familiarity

NUM_UNITS = 30
BASIS = np.random.default_rng(1).normal(size=[NUM_UNITS, 5])


def clips(num_clips=400, seed=0):
    """Embeddings that vary along five directions, and a little along all."""
    rng = np.random.default_rng(seed)
    return (
        3
        + rng.normal(size=[num_clips, 5]) @ BASIS.T
        + rng.normal(0, 0.3, [num_clips, NUM_UNITS])
    )


def fit(embeddings, groups=None):
    rows = np.arange(len(embeddings))
    groups = list(map(str, rows if groups is None else groups))
    return familiarity.fit(embeddings, np.ones(len(rows)), rows, groups)


def of(found, embeddings):
    return found.of_distance(found.log_distance(embeddings))


def test_the_distance_is_mahalanobis_times_that_to_the_nearest_clips():
    embeddings = clips()
    values, vectors = np.linalg.eigh(np.cov(embeddings.T))
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    values[12:] = values[12:].mean()
    inverse, mean = vectors / values @ vectors.T, embeddings.mean(axis=0)
    new = clips(9, seed=1)
    of_gaussian = [distance.mahalanobis(x, mean, inverse) for x in new]
    search = neighbors.NearestNeighbors(n_neighbors=3).fit(embeddings)
    of_nearest = search.kneighbors(new)[0].mean(axis=1)
    expected = 2 * np.log(of_gaussian * of_nearest)
    np.testing.assert_allclose(fit(embeddings).log_distance(new), expected, rtol=1e-3)


def test_of_many_segments_some_are_kept(monkeypatch):
    monkeypatch.setattr(familiarity, "_MOST_SEGMENTS", 100)
    found = fit(clips(400))
    assert found.segments.shape == (100, NUM_UNITS)
    share = np.mean(of(found, clips(2000, seed=1)) < params.UNFAMILIAR)
    assert 0.02 < share < 0.09


def test_of_new_clips_like_those_of_training_few_are_called_unlike():
    share = np.mean(of(fit(clips()), clips(4000, seed=1)) < params.UNFAMILIAR)
    assert 0.02 < share < 0.09


def test_clips_of_another_kind_are_far():
    found, rng = fit(clips()), np.random.default_rng(2)
    others = 3 + rng.normal(0, 1.5, [200, NUM_UNITS])
    assert np.mean(of(found, others) < params.UNFAMILIAR) > 0.99


def test_clips_of_one_group_do_not_make_each_other_familiar():
    # Few clips, each there ten times: other clips are farther than their copies.
    embeddings = np.repeat(clips(12), 10, axis=0)
    one, other = (
        fit(embeddings, groups).centre
        for groups in (np.arange(120) // 10, np.arange(120))
    )
    assert one > other + 0.3


def test_a_clip_has_the_mean_distance_of_its_segments():
    embeddings = clips(60)
    rows = np.arange(60)
    once = fit(embeddings[:50])
    twice = familiarity.fit(
        np.repeat(embeddings[:50], 2, axis=0),
        np.full(100, 0.5),
        np.repeat(rows[:50], 2),
        list(map(str, rows[:50])),
    )
    np.testing.assert_allclose(twice.centre, once.centre, rtol=0.05)
    np.testing.assert_allclose(twice.spread, once.spread, rtol=0.2)


@pytest.mark.parametrize("embeddings", [clips(1), clips(3), np.ones([5, NUM_UNITS])])
def test_few_clips_or_equal_ones_are_no_error(embeddings):
    found = of(fit(embeddings), embeddings)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_a_familiarity_is_saved_and_loaded(tmp_path):
    found = fit(clips(50))
    familiarity.save(found, tmp_path / "x.npz")
    again = familiarity.load(tmp_path / "x.npz")
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value)
