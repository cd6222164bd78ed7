"""Heads of vectors that are made up, so that it is known which pull is best."""

import dataclasses

import keras
import numpy as np
import pytest
import training_test

from genre_tl import params
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import head_pull, learning

GENRES, SIZE, CLIPS = 3, 60, 36
CLASSES = np.arange(CLIPS) % GENRES
TRAINING = params.Training(
    learning_rate=0.02,
    batch_size=8,
    max_epochs=12,
    clip_norm=0.0,  # All heads are clipped together, so they are a little different.
    head_pulls=(0.0, 5.0, 40.0),
)


def _head(pull=0.0):
    vectors = keras.layers.Input((SIZE,))
    dropped = keras.layers.Dropout(0.1, name="dropout_1")(vectors)
    dense = keras.layers.Dense(GENRES, activation="softmax", name=networks.HEAD)
    head = keras.Model(vectors, dense(dropped))
    optimizer = learning.adam(TRAINING, 0, pull)
    optimizer.begin(head)
    learning.compile_with(head, optimizer, "categorical_crossentropy")
    return head


def _table(groups=None):
    table = training_test._data(False, num_clips=CLIPS, num_labels=GENRES).table
    return table if groups is None else dataclasses.replace(table, groups=groups)


def _clips(vectors, counts=1):
    """Returns them as clips of so many segments each, all alike."""
    counts = np.broadcast_to(counts, len(vectors))
    clips = np.repeat(np.arange(len(vectors)), counts)
    return (
        pipeline.Features(
            vectors[clips].astype(np.float32),
            np.cumsum(counts) - counts,
            tuple((1,) * count for count in counts),
        ),
        pipeline.Segments(clips, np.ones(len(clips), np.int64)),
    )


def _begins(kernel, vectors):
    """Returns a head that begins so, and what it says of the clips."""
    begins = [kernel.astype(np.float32), np.zeros(GENRES, np.float32)]
    scores = np.exp(vectors @ kernel)
    return {"begins": begins, "opinion": scores / scores.sum(axis=1, keepdims=True)}


def _noisy(seed=0):
    """Vectors that hint at their genre in the first dimensions, among much noise."""
    vectors = np.random.default_rng(seed).normal(size=(CLIPS, SIZE))
    vectors[np.arange(CLIPS), CLASSES] += 1.5
    return vectors


RIGHT = np.eye(SIZE, GENRES)


@pytest.fixture(scope="module")
def chooser():
    return head_pull.Chooser(_head(), TRAINING)


def test_tags_that_know_better_than_a_few_clips_are_held_to(chooser):
    vectors = _noisy()
    pull = chooser.choose(*_clips(vectors), _table(), **_begins(RIGHT, vectors), seed=1)
    assert pull == 40


def test_tags_that_know_nothing_are_let_go(chooser):
    vectors = _noisy()
    vectors[np.arange(CLIPS), 10 + CLASSES] += 3
    wrong = np.roll(RIGHT, 5, axis=0)
    pull = chooser.choose(*_clips(vectors), _table(), **_begins(wrong, vectors), seed=1)
    assert pull < 40


def test_what_kin_in_the_training_part_would_give_away_does_not_count(chooser):
    # What is strongest in a clip is the same in two others, which tell its genre.
    kin = np.argsort(np.argsort(CLASSES, kind="stable")) // 3
    assert all(len(set(CLASSES[kin == number])) == 1 for number in kin)
    theirs = 3 * np.random.default_rng(5).normal(size=(CLIPS // 3, SIZE))
    theirs[:, :GENRES] = 0
    vectors = _noisy() + theirs[kin]
    begins = _begins(RIGHT, vectors)
    pulls = [
        chooser.choose(*_clips(vectors), _table(groups), **begins, seed=1)
        for groups in (None, tuple(map(str, kin)))
    ]
    assert pulls[0] < pulls[1]


@pytest.mark.parametrize("kernel", [RIGHT, np.roll(RIGHT, 5, axis=0)])
def test_clips_of_several_segments_are_each_asked_for_once(chooser, kernel):
    vectors = _noisy()
    begins = _begins(kernel, vectors)
    one, some = (
        chooser.choose(*_clips(vectors, counts), _table(), **begins, seed=1)
        for counts in (1, 1 + np.arange(CLIPS) % 4)
    )
    assert one == some
    assert one == 40 if kernel is RIGHT else one < 40


def test_a_loss_that_is_not_finite_says_what_to_do(chooser):
    vectors = _noisy()
    vectors[3] = np.nan
    begins = _begins(RIGHT, _noisy())
    with pytest.raises(ValueError, match="lower --learning_rate"):
        chooser.choose(*_clips(vectors), _table(), **begins, seed=1)


def test_a_choice_does_not_depend_on_those_before(chooser):
    vectors = _noisy(7)

    def choose():
        begins = _begins(RIGHT, vectors)
        pull = chooser.choose(*_clips(vectors), _table(), **begins, seed=3)
        return pull, chooser._network.get_layer(networks.HEAD).get_weights()

    ours = choose()
    other = _noisy(8)
    chooser.choose(*_clips(other), _table(), **_begins(-RIGHT, other), seed=4)
    theirs = choose()
    assert ours[0] == theirs[0]
    for one, another in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("number", [0, 2])
def test_each_of_the_wide_heads_learns_like_one_alone(chooser, number):
    vectors, seed = _noisy(), 1
    table, begins = _table(), _begins(RIGHT, vectors)
    chooser.choose(*_clips(vectors), table, **begins, seed=seed)
    wide = chooser._network.get_layer(networks.HEAD).get_weights()[0]
    held_out = head_pull._folds(table, seed)[number]
    learned = np.delete(np.arange(CLIPS), held_out)
    # A weight for each clip beside its labels.
    labels = np.c_[table.labels, np.ones(CLIPS)].astype(np.float32)
    labels[held_out, -1] = 0
    for column, pull in enumerate(TRAINING.head_pulls):
        head = _head(pull)
        begin = networks.calibrated(
            begins["begins"], begins["opinion"][learned], table.labels[learned]
        )
        head.get_layer(networks.HEAD).set_weights(begin)
        head.optimizer.begin(head)
        for epoch in range(1, TRAINING.max_epochs + 1):
            networks.reseed(head, learning.mix(seed, epoch))
            for frames, wanted in pipeline.training_batches(
                _clips(vectors)[0],
                labels,
                np.arange(CLIPS),
                batch_size=TRAINING.batch_size,
                segment_frames=1,
                crop_frames=0,
                seed=seed,
                epoch=epoch,
            ):
                head.train_on_batch(frames[:, 0], wanted[:, :-1], wanted[:, -1])
        of_it = wide.reshape(SIZE, 5, len(TRAINING.head_pulls), GENRES)
        expected = head.get_layer(networks.HEAD).get_weights()[0]
        np.testing.assert_allclose(of_it[:, number, column], expected, atol=0.01)


def test_a_genre_of_a_single_clip_is_learned_from_alone(chooser):
    vectors = _noisy()
    kept = np.flatnonzero((CLASSES != 0) | (np.arange(CLIPS) == 0))
    table = _table().select(kept)
    begins = _begins(RIGHT, vectors[kept])
    pull = chooser.choose(*_clips(vectors[kept]), table, **begins, seed=1)
    assert pull in TRAINING.head_pulls
    folds = head_pull._folds(table, 1)
    assert sorted(np.concatenate(folds)) == list(range(1, len(kept)))


def test_what_is_in_a_group_with_a_genre_of_a_single_group_is_learned_from_too():
    # Clip 1, of another genre, is the same recording as those of the first genre.
    groups = ["one" if not row % GENRES or row == 1 else f"{row}" for row in range(36)]
    folds = head_pull._folds(_table(tuple(groups)), 1)
    expected = [row for row in range(CLIPS) if groups[row] != "one"]
    assert sorted(np.concatenate(folds)) == expected


def test_single_clips_leave_no_choice(chooser):
    vectors = _noisy()[:GENRES]
    table = _table().select(np.arange(GENRES))
    begins = _begins(RIGHT, vectors)
    assert chooser.choose(*_clips(vectors), table, **begins, seed=1) is None
