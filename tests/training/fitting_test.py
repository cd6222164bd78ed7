import dataclasses
import operator

import learning_test
import numpy as np
import pytest
import training_test

from genre_tl.model import networks
from genre_tl.training import fitting, learning

NUM_PATHS = training_test.NUM_PATHS
DATA = training_test._data(False)


def _fitter(network, training, clock=None, segment_frames=12):
    return fitting.Fitter(
        network,
        DATA.features,
        DATA.table.labels,
        training,
        segment_frames=segment_frames,
        clock=clock or fitting.Clock(),
    )


def test_fixed_layers_stay_and_scores_are_those_of_the_whole_network():
    network, training = learning_test.compiled(
        backbone_rate=0.0, head_pull=0.0, learning_rate=0.02
    )
    fixed = [w.numpy() for w in network.get_layer("gru_1").weights]
    fitter = _fitter(network, training)
    losses = [
        fitter.epoch(DATA.train, seed=3, number=number)["loss"]
        for number in range(1, 9)
    ]
    assert losses[-1] < losses[0]
    for old, new in zip(fixed, network.get_layer("gru_1").weights, strict=True):
        np.testing.assert_array_equal(old, new)
    # Clips have up to four segments here, of 12 frames at most.
    expected = fitting.predict(network, DATA.features, DATA.test, segment_frames=12)
    np.testing.assert_allclose(fitter.predict(DATA.test), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_loss_and_accuracy_are_means_over_the_whole_epoch(rate):
    network, training = learning_test.compiled(backbone_rate=rate, learning_rate=0.0)
    for layer in network.layers:
        if layer.name.startswith("dropout"):
            layer.rate = 0.0
    whole = dataclasses.replace(training, crop_frames=0, batch_size=4)
    rows = np.arange(16)
    # No clip is longer, so each is one segment, seen whole.
    row = _fitter(network, whole, segment_frames=40).epoch(rows, seed=0, number=1)
    scores = fitting.predict(network, DATA.features, rows, segment_frames=40)
    classes = DATA.table.classes[rows]
    losses = -np.log(scores[rows, classes])
    assert np.ptp(losses.reshape(4, 4).mean(axis=1)) > 0.1
    assert row["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert row["accuracy"] == np.mean(scores.argmax(axis=1) == classes)


def test_what_was_read_with_other_weights_is_forgotten_when_asked():
    network, training = learning_test.compiled(backbone_rate=0.0)
    fitter = _fitter(network, training)
    before = fitter.predict(DATA.test)
    networks.standardize(network, np.ones(NUM_PATHS), np.full(NUM_PATHS, 4.0))
    fitter.forget()
    expected = fitting.predict(network, DATA.features, DATA.test, segment_frames=12)
    np.testing.assert_allclose(fitter.predict(DATA.test), expected, atol=1e-6)
    assert np.abs(expected - before).max() > 1e-3


def test_layers_that_come_again_by_name_are_not_passed_through_again():
    network, training = learning_test.compiled(backbone_rate=0.0)
    fitter, rows = _fitter(network, training), DATA.test[::-1]
    random = np.random.default_rng(0)

    def expected():
        return fitting.predict(network, DATA.features, rows, segment_frames=12)

    layer = network.get_layer("gru_1")
    known, other = layer.get_weights(), [w + 0.1 for w in layer.get_weights()]
    for weights, layers in ((known, "known"), (other, ""), (known, "known")):
        layer.set_weights(weights)
        # The head has statistics and weights of its own each time.
        mean = random.normal(size=NUM_PATHS)
        networks.standardize(network, mean, np.ones(NUM_PATHS), is_for_layers=False)
        network.get_layer("head").kernel.assign_add(
            random.normal(size=[NUM_PATHS + 16, 3])
        )
        fitter.forget(layers=layers)
        np.testing.assert_allclose(fitter.predict(rows), expected(), atol=1e-6)
    layer.set_weights(other)
    fitter.forget(layers="known")
    assert np.abs(fitter.predict(rows) - expected()).max() > 1e-3


def test_an_epoch_of_the_head_in_one_call_is_its_steps_one_by_one():
    settings = {"backbone_rate": 0.0, "head_pull": 3.0, "states_rate": 0.5}
    one, training = learning_test.compiled(**settings)
    other, _ = learning_test.compiled(**settings)
    told = []
    for number in (1, 2):
        _fitter(one, training).epoch(
            DATA.train, seed=5, number=number, on_step=lambda *done: told.append(done)
        )
        # By hand, with the same batches and the same dropout.
        fitter = _fitter(other, training)
        networks.reseed(other, learning.mix(5, number), fitter._trained.layers)
        batches = list(fitter._batches(DATA.train, 5, number))
        for batch in batches:
            fitter._trained.train_on_batch(*batch)
    assert told == [(len(batches), len(batches))] * 2 and len(batches) > 1
    assert int(one.optimizer.iterations) == 2 * len(batches)
    assert one.get_layer("dropout_1").rate > 0
    for attribute in ("variables", "optimizer.variables"):
        ours, theirs = (operator.attrgetter(attribute)(n) for n in (one, other))
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=1e-6, atol=1e-7)


def test_a_clock_leaves_out_the_call_that_traces():
    clock = fitting.Clock()
    for graph, of in (("step", "steps"), ("scores", "evaluation")):
        with clock.runs(graph, of=of):
            training_test.time.sleep(0.05)
        assert clock.to_dict()[of] == 0.0
    assert clock.to_dict()["other"] >= 0.1
    with clock.runs("step", of="steps"):
        training_test.time.sleep(0.05)
    with clock.runs("step", of="evaluation"):
        training_test.time.sleep(0.1)
    with clock.runs("step", of="evaluation", share=0.0):
        training_test.time.sleep(0.05)
    secs = clock.to_dict()
    assert secs["evaluation"] < 0.15 and secs["other"] >= 0.15
    assert secs["steps"] >= 0.05 and secs["evaluation"] >= 0.1
    clock.restart()
    small = pytest.approx(0, abs=0.05)
    assert clock.to_dict() == {"steps": 0.0, "evaluation": 0.0, "other": small}


@pytest.mark.parametrize(
    ("changes", "begins", "is_chosen"),
    [
        ({"backbone_rate": 0.0, "head_pulls": (40.0,)}, 1.0, True),
        ({"backbone_rate": 0.0, "head_pulls": (40.0,)}, 0.0, False),
        ({"backbone_rate": 0.0, "head_pulls": ()}, 1.0, False),
        ({"backbone_rate": 1.0, "head_pulls": (40.0,)}, 1.0, False),
    ],
)
def test_a_pull_is_chosen_for_a_head_with_an_opinion_over_fixed_layers(
    changes, begins, is_chosen
):
    network, training = learning_test.compiled(head_pull=5.0, **changes)
    head = network.get_layer("head")
    head.set_weights([begins * weight for weight in head.get_weights()])
    fitter = _fitter(network, training)
    weights = [w.numpy() for w in network.weights]
    fitter.choose_pull(DATA.train, DATA.table, seed=1)
    assert learning.head_pull(network) == (40.0 if is_chosen else 5.0)
    for old, new in zip(weights, network.weights, strict=True):
        np.testing.assert_array_equal(old, new)
