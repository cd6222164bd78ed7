"""Stages of training: what an epoch does, and what they are refused."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn import linear_model, preprocessing
from support import runs

from genre_tl import params
from genre_tl.features import pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import fitting

DATA = runs.data()
TRAIN, TEST = DATA.parts["train"], DATA.parts["test"]


def _data(segment_frames):
    return dataclasses.replace(DATA, segment_frames=segment_frames)


def _classifier(seed=1, readout="all"):
    model = params.Model(num_layers=1, num_units=4, dropout=0.3, readout=readout)
    return networks.classifier(model, runs.NUM_PATHS, 3, seed=seed)


def _whole(segment_frames=12, network=None, **changes):
    recipe = runs.tuned(**changes).finetune
    network = network or _classifier()
    return fitting.WholeNetwork(network, _data(segment_frames), recipe)


def _probe(segment_frames=12, network=None, **changes):
    recipe = runs.tuned(**changes).finetune
    network = network or _classifier()
    return fitting.LinearProbe(network, _data(segment_frames), recipe)


def test_loss_and_accuracy_are_means_over_the_clips():
    stage = _whole(40, learning_rate=0.0, crop_frames=0, batch_size=4)
    stage.model.get_layer("dropout_joined").rate = 0.0
    rows = np.arange(16)
    stage.begin(rows, 0)
    logs = stage.fit(1, [])
    scores, classes = stage.scores(rows), DATA.table.classes[rows]
    losses = -np.log(scores[rows, classes])
    assert logs["loss"][0] == pytest.approx(losses.mean(), rel=1e-4)
    assert logs["accuracy"][0] == np.mean(scores.argmax(axis=1) == classes)


def test_metrics_that_callbacks_add_reach_later_callbacks_and_the_history():
    # Keras hands the same dictionary to all callbacks, and its history comes last.
    seen = []

    def add(epoch, logs):
        logs["val_accuracy"] = 0.25

    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=add),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(logs)),
    ]
    stage = _probe()
    stage.begin(TRAIN)
    assert stage.fit(2, callbacks)["val_accuracy"] == [0.25, 0.25]
    assert [logs["val_accuracy"] for logs in seen] == [0.25, 0.25]


@pytest.mark.parametrize("stage", [_whole(), _probe()])
def test_a_stage_begun_again_repeats_its_result(stage):
    def run(rows):
        more = () if isinstance(stage, fitting.LinearProbe) else (3, _classifier())
        stage.begin(rows, *more)
        return stage.fit(2, []), stage.scores(TEST)

    history, scores = run(TRAIN)
    assert run(TRAIN[:9])[0] != history
    again, same = run(TRAIN)
    assert again == history
    np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize("make", [_whole, _probe])
def test_clips_of_all_counts_share_one_traced_graph(make):
    stage = make()
    step, traced = stage.model.train_step, []

    def train_step(data):
        traced.append(data)
        return step(data)

    stage.model.train_step = train_step
    for rows in (TRAIN, TRAIN[:9], TRAIN[:14]):
        stage.begin(rows, *(() if make is _probe else (3, _classifier())))
        stage.fit(2, [])
    # Keras runs a step once without a graph, to build what a model still lacks.
    assert len(traced) <= 2
    count, rows = len(traced), TRAIN[:5]
    stage.begin(rows, *(() if make is _probe else (3, _classifier())))
    stage.fit(2, [])
    assert len(traced) == count


@pytest.mark.parametrize("readout", params.READOUTS)
@pytest.mark.parametrize("segment_frames", [40, 12])
def test_a_network_with_the_head_of_a_probe_scores_alike(readout, segment_frames):
    network = _classifier(readout=readout)
    probe = _probe(segment_frames, network)
    probe.begin(TRAIN)
    probe.fit(20, [])
    probe.give_head(network)
    expected = fitting.scores(network, _data(segment_frames), TEST)
    np.testing.assert_allclose(probe.scores(TEST), expected, atol=1e-5)


def test_a_probe_converges_to_logistic_regression():
    network, l2 = _classifier(), 0.01
    probe = _probe(40, network, head_learning_rate=0.05, head_l2=l2)
    probe.begin(TRAIN)
    probe.fit(500, [])
    batches, _ = pipeline.evaluation_batches(
        DATA.features, np.arange(runs.NUM_CLIPS), batch_size=99, segment_frames=40
    )
    vectors = transfer.backbone(network).predict(batches, verbose=0)
    scaler = preprocessing.StandardScaler().fit(vectors[TRAIN])
    scaler.scale_ = np.maximum(scaler.scale_, 1)
    # scikit-learn adds half the squared weights to C times the sum of losses.
    expected = linear_model.LogisticRegression(C=0.5 / l2 / len(TRAIN), max_iter=9999)
    expected.fit(scaler.transform(vectors[TRAIN]), DATA.table.classes[TRAIN])
    probabilities = expected.predict_proba(scaler.transform(vectors[TEST]))
    np.testing.assert_allclose(probe.scores(TEST), probabilities, atol=0.01)


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy():
    stage = _whole()
    stage.model.get_layer("head").kernel.assign(np.full([10, 3], np.nan))
    stage.begin(TRAIN, 0)
    with pytest.raises(ValueError, match="loss of epoch .* lower --learning_rate"):
        stage.fit(9, [])


def test_the_best_validated_epoch_is_kept_or_else_the_last():
    stage = _whole(learning_rate=0.1)
    accuracies = iter([0.2, 0.7, 0.7, 0.1])
    scores = []

    def measure(epoch, logs):
        logs["val_accuracy"] = next(accuracies)
        scores.append(stage.scores(TEST))

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=measure)]
    stage.begin(TRAIN, 0)
    history, kept = fitting.fit_best(stage, 4, callbacks, valid=True)
    assert (len(history), kept) == (4, 2)
    np.testing.assert_array_equal(stage.scores(TEST), scores[1])
    assert np.abs(scores[1] - scores[3]).max() > 0
    assert fitting.fit_best(stage, 2, [], valid=False)[1] == 2
