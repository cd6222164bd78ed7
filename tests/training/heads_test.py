"""Heads in closed form, compared with regressions that are fitted again."""

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.metrics import log_loss

from genre_tl.training import heads

NUM_GENRES = 3


def clips(num_clips=60, num_features=5, seed=0, noise=1.0):
    """Features of clips, their genres, and groups of one to a few clips."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, NUM_GENRES, num_clips)
    features = noise * rng.normal(size=[num_clips, num_features])
    features += np.eye(NUM_GENRES, num_features)[classes] * 2
    groups = [str(number) for number in rng.integers(0, num_clips // 3, num_clips)]
    return features, classes, groups


def fit(features, classes, groups, *, kernel, block_sizes=None, **changes):
    sizes = block_sizes or [features.shape[1]]
    options = {"num_genres": NUM_GENRES, "block_sizes": sizes} | changes
    return heads.fit(features, classes, groups, kernel=kernel, **options)


@pytest.mark.parametrize("penalty", [0.03, 3.0])
@pytest.mark.parametrize("num_inputs", [4, 40])
def test_held_out_predictions_are_those_of_fitting_without_each_group(
    num_inputs, penalty
):
    inputs, classes, groups = clips(30, num_inputs)
    targets = np.eye(NUM_GENRES)[classes] - 1 / NUM_GENRES
    found = heads._Ridge(inputs, targets).held_out([penalty], groups)[0]
    for group in set(groups):
        out = np.array(groups) == group
        again = linear_model.Ridge(alpha=penalty, fit_intercept=False)
        again.fit(inputs[~out], targets[~out])
        np.testing.assert_allclose(found[out], again.predict(inputs[out]), atol=1e-8)


@pytest.mark.parametrize("penalty", [0.03, 3.0])
def test_weights_are_those_of_ridge_regression(penalty):
    inputs, classes, _ = clips(30, 4)
    targets = np.eye(NUM_GENRES)[classes] - 1 / NUM_GENRES
    found = heads._Ridge(inputs, targets).weights(penalty)
    expected = linear_model.Ridge(alpha=penalty, fit_intercept=False)
    expected.fit(inputs, targets)
    np.testing.assert_allclose(found, expected.coef_.T, atol=1e-8)


def test_a_clip_whose_copy_is_held_out_with_it_does_not_predict_itself():
    # Labels are chance, so that only copies can be predicted.
    rng = np.random.default_rng(0)
    inputs = np.repeat(rng.normal(size=[20, 40]), 2, axis=0)
    targets = np.repeat(rng.permutation(np.eye(2)[np.arange(20) % 2] - 0.5), 2, axis=0)

    def accuracy(groups):
        found = heads._Ridge(inputs, targets).held_out([0.03], groups)[0]
        return np.mean(found.argmax(axis=1) == targets.argmax(axis=1))

    assert accuracy([str(row) for row in range(40)]) == 1
    assert accuracy([str(row // 2) for row in range(40)]) < 0.8


@pytest.mark.parametrize("kernel", [False, True])
def test_scores_are_probabilities(kernel):
    head = fit(*clips(), kernel=kernel)
    far = 100 * np.random.default_rng(1).normal(size=[9, 5])
    for features in (clips()[0], far):
        scores = head.scores(features)
        assert scores.min() >= 0
        np.testing.assert_allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("kernel", [False, True])
def test_probabilities_of_new_clips_are_about_as_sure_as_they_are_right(kernel):
    for noise in (0.5, 1.5):
        head = fit(*clips(300, noise=noise), kernel=kernel)
        features, classes, _ = clips(2000, seed=9, noise=noise)
        scores = head.scores(features)
        accuracy = np.mean(scores.argmax(axis=1) == classes)
        assert abs(scores.max(axis=1).mean() - accuracy) < 0.06
        assert log_loss(classes, scores) < 0.9 * np.log(NUM_GENRES)


def rings(seed=0):
    """Clips around a centre and in a ring around them: no line divides the genres."""
    rng = np.random.default_rng(seed)
    angles, classes = rng.uniform(0, 2 * np.pi, 120), np.arange(120) % 2
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * (classes * 3)[:, None]
    points += 0.3 * rng.normal(size=[120, 2])
    return points, classes, [str(row) for row in range(120)]


def test_a_kernel_separates_what_a_line_cannot():
    points, classes, groups = rings()
    new, truth, _ = rings(seed=1)
    for kernel, is_separated in ((True, True), (False, False)):
        head = fit(points, classes, groups, kernel=kernel, num_genres=2)
        accuracy = np.mean(head.scores(new).argmax(axis=1) == truth)
        assert (accuracy > 0.95) == is_separated
        assert is_separated or accuracy < 0.75


def test_more_clips_than_centres_are_all_learned_from():
    features, classes, groups = clips(1500, noise=0.5)
    head = fit(features, classes, groups, kernel=True)
    assert head.centres.shape == (1000, 5) and head.kernel.shape == (1000, NUM_GENRES)
    new, truth, _ = clips(500, seed=3, noise=0.5)
    assert np.mean(head.scores(new).argmax(axis=1) == truth) > 0.95


@pytest.mark.parametrize("kernel", [False, True])
def test_blocks_of_clips_give_the_head_of_all_at_once(kernel, monkeypatch):
    features, classes, groups = clips(200)
    expected = fit(features, classes, groups, kernel=kernel)
    monkeypatch.setattr(heads, "_BLOCK", 7)
    head = fit(features, classes, groups, kernel=kernel)
    for name in ("mean", "stddev", "bias"):
        np.testing.assert_allclose(getattr(head, name), getattr(expected, name))
    scores = head.scores(features)
    np.testing.assert_allclose(scores, expected.scores(features), atol=1e-8)


def test_all_clips_are_centres_while_they_are_few():
    head = fit(*clips(), kernel=True)
    points = np.sort((clips()[0] - head.mean) / head.stddev, axis=0)
    np.testing.assert_allclose(np.sort(head.centres, axis=0), points)


@pytest.mark.parametrize("kernel", [False, True])
def test_the_same_clips_give_the_same_head(kernel):
    one, two = (fit(*clips(), kernel=kernel) for _ in range(2))
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(two, name))


@pytest.mark.parametrize("kernel", [False, True])
def test_the_unit_of_the_features_does_not_matter(kernel):
    features, classes, groups = clips()
    units = np.array([1e-3, 1.0, 1e4, 1.0, 1.0])
    blocks = {"block_sizes": [1, 1, 1, 2]}
    expected = fit(features, classes, groups, kernel=kernel, **blocks).scores(features)
    head = fit(100 + features * units, classes, groups, kernel=kernel, **blocks)
    np.testing.assert_allclose(head.scores(100 + features * units), expected, atol=1e-3)


def test_the_first_block_weighs_as_much_as_all_others_together():
    rng = np.random.default_rng(0)
    sizes = [4, 10, 2]
    features = rng.normal(size=[500, 16]) * rng.uniform(1, 2, 16)
    points = features / heads._scales(features.std(axis=0), sizes)
    blocks = np.split(points.var(axis=0), np.cumsum(sizes)[:-1])
    weights = [block.sum() for block in blocks]
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.25], rtol=0.01)


@pytest.mark.parametrize("kernel", [False, True])
def test_a_feature_that_never_varies_changes_nothing(kernel):
    features, classes, groups = clips()
    features = np.hstack([features, np.full([len(features), 1], 7.0)])
    head = fit(features, classes, groups, kernel=kernel)
    expected = head.scores(features)
    assert np.isfinite(expected).all()
    features[:, -1] += 1e-6  # as rounding may change it
    np.testing.assert_allclose(head.scores(features), expected, atol=1e-4)


@pytest.mark.parametrize("kernel", [False, True])
def test_one_group_clips_alike_and_a_genre_without_clips_are_no_error(kernel):
    features, classes, groups = clips(12)
    for given in (
        (features, classes, ["one"] * 12),
        (np.ones_like(features), classes, groups),
        (features, np.zeros_like(classes), groups),
        (np.repeat(features[:6], 2, 0), np.repeat(classes[:6], 2), groups),
    ):
        scores = fit(*given, kernel=kernel).scores(given[0])
        assert np.isfinite(scores).all()
