"""Metrics agree with known values, scikit-learn, SciPy and brute force."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from genre_tl.evaluation import metrics

GENRES = ("blues", "jazz", "rock")


def brute_force_auc_roc(labels, scores):
    """Share of the (positive, negative) pairs in order; a tie is half."""
    positives, negatives = scores[labels == 1], scores[labels == 0]
    difference = positives[:, None] - negatives[None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def brute_force_pr_auc(labels, scores):
    """Sum over thresholds of precision times the gain in recall."""
    area, found = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        above = labels[scores >= threshold]
        area += above.mean() * (above.sum() - found) / labels.sum()
        found = above.sum()
    return area


def random_tags(seed, num_clips=60, num_tags=12, decimals=1):
    """Labels with rare tags, and scores that repeat."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_clips, num_tags)) < 0.3).astype(np.uint8)
    labels[:, 0] = 0
    labels[:, 1] = 1
    labels[:, 2] = np.arange(num_clips) < 2
    scores = np.round(rng.random(labels.shape) + 0.3 * labels, decimals)
    return labels, scores.astype(np.float32)


def test_tagging_metrics_of_a_ranking_done_by_hand():
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    result = metrics.tagging_metrics(labels, scores)
    np.testing.assert_allclose(result.tag_auc_roc, [3 / 4, 1 / 3])
    np.testing.assert_allclose(result.tag_pr_auc, [(1 + 2 / 3) / 2, 1 / 3])
    assert result.macro_auc_roc == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert result.macro_pr_auc == pytest.approx((5 / 6 + 1 / 3) / 2)
    # Pooled, the positives are first, third and seventh of eight.
    assert result.micro_auc_roc == pytest.approx((5 + 4 + 1) / (3 * 5))
    assert result.micro_pr_auc == pytest.approx((1 + 2 / 3 + 3 / 7) / 3)
    assert result.num_tags == 2


@pytest.mark.parametrize("seed", range(5))
def test_every_tag_agrees_with_brute_force_also_on_ties(seed):
    labels, scores = random_tags(seed)
    result = metrics.tagging_metrics(labels, scores)
    for tag in range(2, labels.shape[1]):
        column = labels[:, tag], scores[:, tag]
        assert result.tag_auc_roc[tag] == pytest.approx(brute_force_auc_roc(*column))
        assert result.tag_pr_auc[tag] == pytest.approx(brute_force_pr_auc(*column))


def test_micro_averages_agree_with_brute_force_over_the_tags_that_count():
    labels, scores = random_tags(0)
    result = metrics.tagging_metrics(labels, scores)
    pool = labels[:, 2:].ravel(), scores[:, 2:].ravel()
    assert result.micro_auc_roc == pytest.approx(brute_force_auc_roc(*pool))
    assert result.micro_pr_auc == pytest.approx(brute_force_pr_auc(*pool))


def test_averages_agree_with_scikit_learn_where_every_tag_counts():
    labels, scores = (array[:, 2:] for array in random_tags(1, decimals=6))
    values = metrics.tagging_metrics(labels, scores).to_dict()
    for average in ("macro", "micro"):
        auc_roc = reference.roc_auc_score(labels, scores, average=average)
        pr_auc = reference.average_precision_score(labels, scores, average=average)
        assert values[f"{average}_auc_roc"] == pytest.approx(auc_roc)
        assert values[f"{average}_pr_auc"] == pytest.approx(pr_auc)


def test_tags_without_positives_or_without_negatives_do_not_count():
    labels, scores = random_tags(2)
    result = metrics.tagging_metrics(labels, scores)
    assert result.num_tags == labels.shape[1] - 2
    assert np.isnan(result.tag_auc_roc).tolist() == [True, True] + [False] * 10
    assert np.isnan(result.tag_pr_auc).tolist() == [True, True] + [False] * 10
    assert result.macro_auc_roc == pytest.approx(result.tag_auc_roc[2:].mean())


def test_min_positives_leaves_rarer_tags_out_of_every_metric():
    labels, scores = random_tags(3)
    strict = metrics.tagging_metrics(labels, scores, min_positives=3)
    without = metrics.tagging_metrics(labels[:, 3:], scores[:, 3:], min_positives=3)
    assert strict.to_dict() == without.to_dict()
    assert strict.num_tags == labels.shape[1] - 3
    assert strict.min_positives == 3


def test_only_the_order_of_the_scores_matters():
    labels, scores = random_tags(4)
    logits = metrics.tagging_metrics(labels, 20 * scores - 7)
    assert logits.to_dict() == metrics.tagging_metrics(labels, scores).to_dict()


def test_one_counted_tag_is_enough():
    result = metrics.tagging_metrics(np.array([[0, 1], [0, 0]]), np.eye(2)[::-1])
    assert result.num_tags == 1
    assert result.macro_auc_roc == result.micro_auc_roc == 1


@pytest.mark.filterwarnings("error")
def test_tagging_metrics_are_ready_for_json_without_warnings():
    labels, scores = random_tags(5)
    values = metrics.tagging_metrics(labels, scores).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_located(value):
    labels, scores = random_tags(6)
    scores[4, 7] = value
    with pytest.raises(ValueError, match=r"1 values .* clip 4, label 7.*diverged"):
        metrics.tagging_metrics(labels, scores)
    with pytest.raises(ValueError, match=r"1 values .* clip 4, label 7.*diverged"):
        metrics.genre_metrics(np.zeros(60, int), scores, list("abcdefghijkl"))


@pytest.mark.parametrize("shape, other", [((4, 3), (4, 2)), ((4,), (4,))])
def test_labels_and_scores_of_different_shape_are_refused(shape, other):
    with pytest.raises(ValueError, match=r"must both be \[clips, tags\]"):
        metrics.tagging_metrics(np.ones(shape), np.ones(other))


def test_labels_without_a_tag_that_counts_are_refused():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"none of 3 tags .* 2 positives .* 3 clips"):
        metrics.tagging_metrics(labels, np.ones((3, 3)), min_positives=2)
    with pytest.raises(ValueError, match=r"among 0 clips .most positives: 0"):
        metrics.tagging_metrics(np.ones((0, 3)), np.ones((0, 3)))


def soft_tags(seed, num_clips=200, num_tags=4):
    """Probabilities of a teacher, and scores that follow them."""
    rng = np.random.default_rng(seed)
    labels = rng.beta(0.3, 2, (num_clips, num_tags))
    scores = labels + rng.normal(0, 0.3, labels.shape)
    return labels.astype(np.float32), scores.astype(np.float32)


def test_unknown_labels_do_not_count():
    labels, scores = random_tags(7)
    rng = np.random.default_rng(0)
    unknown = rng.random(labels.shape) < 0.3
    result = metrics.tagging_metrics(np.where(unknown, np.nan, labels), scores)
    for tag in range(3, labels.shape[1]):
        column = (x[~unknown[:, tag], tag] for x in (labels, scores))
        expected = brute_force_auc_roc(*column)
        assert result.tag_auc_roc[tag] == pytest.approx(expected)
    counted = ~unknown & ~np.isnan(result.tag_auc_roc)
    pool = labels[counted], scores[counted]
    assert result.micro_auc_roc == pytest.approx(brute_force_auc_roc(*pool))
    assert result.micro_pr_auc == pytest.approx(brute_force_pr_auc(*pool))
    assert result.num_soft_tags == 0 and np.isnan(result.macro_correlation)
    assert "soft_correlation" not in result.to_dict()


def test_the_upper_decile_of_a_soft_tag_is_positive():
    labels, scores = soft_tags(1)
    result = metrics.tagging_metrics(labels, scores)
    for tag in range(labels.shape[1]):
        positive = np.zeros(len(labels), int)
        positive[np.argsort(labels[:, tag])[-20:]] = 1
        expected = reference.roc_auc_score(positive, scores[:, tag])
        assert result.tag_auc_roc[tag] == pytest.approx(expected)
        expected = reference.average_precision_score(positive, scores[:, tag])
        assert result.tag_pr_auc[tag] == pytest.approx(expected)
    assert result.num_tags == result.num_soft_tags == 4


def test_correlations_agree_with_scipy_over_the_known_labels():
    labels, scores = soft_tags(2)
    labels[:50, 1] = np.nan
    result = metrics.tagging_metrics(labels, scores)
    for tag in range(4):
        known = ~np.isnan(labels[:, tag])
        expected = stats.pearsonr(labels[known, tag], scores[known, tag]).statistic
        assert result.tag_correlation[tag] == pytest.approx(expected, abs=1e-6)
    assert result.macro_correlation == pytest.approx(result.tag_correlation.mean())
    assert result.to_dict()["soft_correlation"] == result.macro_correlation
    assert "soft_macro_auc_roc" not in result.to_dict()  # All tags are soft.


@pytest.mark.filterwarnings("error")
def test_columns_that_are_constant_or_unknown_have_no_correlation():
    targets = np.array([[0.1, 0.3, np.nan], [0.1, 0.2, np.nan], [0.1, 0.7, np.nan]])
    outputs = np.full([3, 3], 0.1, np.float32)
    assert metrics.correlations(targets, outputs).tolist() == [0, 0, 0]
    assert metrics.correlations(targets, targets[:, [1, 1, 1]]).tolist() == [
        0,
        pytest.approx(1),
        0,
    ]


@pytest.mark.filterwarnings("error")
def test_binary_and_soft_tags_have_figures_of_their_own_beside_each_other():
    soft = np.concatenate(soft_tags(3), axis=1)
    binary = [np.tile(x, [4, 1])[:200] for x in random_tags(3)]
    both = [
        np.concatenate([x, y], 1)
        for x, y in zip(binary, np.split(soft, 2, 1), strict=True)
    ]
    values = metrics.tagging_metrics(*both).to_dict()
    alone = metrics.tagging_metrics(*binary), metrics.tagging_metrics(*soft_tags(3))
    assert values["num_tags"] - values["num_soft_tags"] == alone[0].num_tags
    assert values["num_soft_tags"] == alone[1].num_tags == 4
    for kind, other in zip(("binary", "soft"), alone, strict=True):
        for name in ("macro_auc_roc", "macro_pr_auc"):
            assert values[f"{kind}_{name}"] == pytest.approx(getattr(other, name))
    assert values["soft_correlation"] == pytest.approx(alone[1].macro_correlation)
    assert values["macro_auc_roc"] == pytest.approx(
        (10 * alone[0].macro_auc_roc + 4 * alone[1].macro_auc_roc) / 14
    )
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def by_hand():
    """Five clips; the predictions are blues, jazz, jazz, jazz, blues."""
    scores = [[5, 1, 0], [1, 5, 0], [1, 5, 0], [0, 5, 1], [5, 0, 1]]
    return metrics.genre_metrics(np.array([0, 0, 1, 1, 2]), scores, GENRES)


def test_genre_metrics_of_five_clips_done_by_hand():
    result = by_hand()
    assert result.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert result.num_clips == 5
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.balanced_accuracy == pytest.approx((1 / 2 + 1 + 0) / 3)
    np.testing.assert_allclose(result.precision, [1 / 2, 2 / 3, np.nan])
    np.testing.assert_allclose(result.recall, [1 / 2, 1, 0])
    np.testing.assert_allclose(result.f1, [1 / 2, 4 / 5, 0])
    assert result.support.tolist() == [2, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_genre_metrics_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(1, 6, 80)
    scores = rng.random((80, 7)) + np.eye(7)[classes] * 0.5
    result = metrics.genre_metrics(classes, scores, list("abcdefg"))
    predicted = scores.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        classes, predicted, labels=range(7), zero_division=np.nan
    )
    np.testing.assert_allclose(result.precision, precision)
    np.testing.assert_allclose(result.recall, recall)
    np.testing.assert_allclose(result.f1, f1)
    np.testing.assert_array_equal(result.support, support)
    assert result.accuracy == pytest.approx(
        reference.accuracy_score(classes, predicted)
    )
    present = np.unique(classes)
    balanced = reference.recall_score(
        classes, predicted, labels=present, average="macro"
    )
    assert result.balanced_accuracy == pytest.approx(balanced)


def test_the_interval_of_the_accuracy_is_wilsons():
    expected = stats.binomtest(3, 5).proportion_ci(0.95, "wilson")
    assert by_hand().accuracy_interval == pytest.approx(tuple(expected), abs=1e-6)


def test_the_table_lists_metrics_and_confusions_of_each_genre():
    lines = by_hand().table().splitlines()
    assert " ".join(lines[1].split()) == "blues 50.0 % 50.0 % 50.0 % 2 jazz (1)"
    assert " ".join(lines[2].split()) == "jazz 66.7 % 100.0 % 80.0 % 2"
    assert " ".join(lines[3].split()) == "rock - 0.0 % 0.0 % 1 blues (1)"
    assert "60.0 % of 5 clips (95 % interval 23.1 to 88.2 %)" in lines[5]
    assert lines[6].endswith("50.0 %")
    assert lines[7].endswith("about 6 of 10 right; weakest: rock (0 of 1)")


def test_counts_in_words_are_those_of_one_repeat():
    assert by_hand().in_words(2) == "about 6 of 10 right; weakest: rock (0 of 0)"
    matrix = metrics.genre_metrics([0, 0, 0, 0, 1], np.eye(3)[[0, 0, 1, 1, 1]], GENRES)
    assert matrix.in_words(2) == "about 6 of 10 right; weakest: blues (1 of 2)"


def test_the_columns_of_the_table_are_aligned():
    lines = by_hand().table().splitlines()[:4]
    assert {line.rindex("%") for line in lines[1:]} == {lines[0].index("F1") + 1}


def test_the_dictionary_is_ready_for_json_with_undefined_as_none():
    values = by_hand().to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["genres"]["rock"] == {
        "precision": None,
        "recall": 0.0,
        "f1": 0.0,
        "support": 1,
    }
    assert values["confusion"][2] == [1, 0, 0]
    assert values["accuracy_interval"][0] < values["accuracy"]


@pytest.mark.parametrize(
    "classes, scores, message",
    [
        ([0, 1], np.ones((2, 2)), r"\(2,\) and scores \(2, 2\).*\[clips, 3\]"),
        ([0, 1], np.ones((3, 3)), r"\(2,\) and scores \(3, 3\)"),
        ([[0], [1]], np.ones((2, 3)), r"\(2, 1\)"),
        ([], np.ones((0, 3)), "one clip or more"),
    ],
)
def test_genres_that_do_not_fit_are_refused(classes, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.genre_metrics(np.array(classes), scores, GENRES)
