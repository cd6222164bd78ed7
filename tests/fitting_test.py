import dataclasses
import operator

import numpy as np
import pytest
import training_test

from genre_tl import fitting, models

NUM_PATHS = training_test.NUM_PATHS
DATA = training_test._data(False)


def _network(**changes):
    plain = {"backbone_rate": 1.0, "states_rate": 1.0, "head_pull": 0.0}
    training = dataclasses.replace(
        training_test.TINY.finetune, **{**plain, **changes}, clip_norm=0.0
    )
    network = models.classifier(training_test.TINY.model, NUM_PATHS, 3, seed=1)
    head = network.get_layer("head")
    random = np.random.default_rng(0)
    head.set_weights([random.normal(size=w.shape) for w in head.get_weights()])
    return fitting.compiled(network, training, "categorical_crossentropy"), training


def _fitter(network, training, clock=None, segment_frames=12):
    return fitting.Fitter(
        network,
        DATA.features,
        DATA.table.labels,
        training,
        segment_frames=segment_frames,
        clock=clock or fitting.Clock(),
    )


def _step(network):
    """Trains one step, and returns by path how far each weight has gone."""
    before = {w.path: w.numpy() for w in network.weights}
    frames = np.random.default_rng(0).normal(size=(8, 10, NUM_PATHS))
    network.train_on_batch(frames.astype("float32"), np.eye(3)[np.arange(8) % 3])
    return {w.path: np.abs(w.numpy() - before[w.path]) for w in network.weights}


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_recurrent_layers_learn_at_a_rate_of_their_own(rate):
    # The first step of Adam is as long as the learning rate.
    network, _ = _network(backbone_rate=rate)
    for path, gone in _step(network).items():
        if "gru_cell" in path or path.startswith("head"):
            expected = 5e-3 * (rate if "gru_cell" in path else 1.0)
            assert gone.max() == pytest.approx(expected, rel=0.02, abs=1e-8)


def test_what_reads_the_states_learns_at_a_rate_of_its_own():
    network, _ = _network(states_rate=0.2)
    gone = _step(network)["head/kernel"]
    assert gone.shape == (NUM_PATHS + 16, 3)
    assert gone[:NUM_PATHS].max() == pytest.approx(5e-3, rel=0.02)
    assert gone[NUM_PATHS:].max() == pytest.approx(1e-3, rel=0.02)


def test_the_head_is_pulled_to_where_it_began_and_nothing_else_is():
    network, _ = _network(head_pull=4.0, backbone_rate=0.0)
    head = network.get_layer("head").kernel
    began = head.numpy()
    head.assign(began + 1)
    free, _ = _network(backbone_rate=0.0)
    free.get_layer("head").kernel.assign(began + 1)
    network.optimizer.learning_rate = free.optimizer.learning_rate = 0.01
    _step(network)
    _step(free)
    pulled = free.get_layer("head").kernel.numpy() - head.numpy()
    np.testing.assert_allclose(pulled, 0.04, rtol=1e-4)
    network.optimizer.anchor(network)
    held = head.numpy()
    network.optimizer.learning_rate = 0.0
    _step(network)
    np.testing.assert_array_equal(head.numpy(), held)


def test_the_optimizer_comes_back_with_its_anchors(tmp_path):
    network, _ = _network(backbone_rate=0.25, head_pull=2.0)
    began = network.get_layer("head").kernel.numpy()
    _step(network)
    fitting.save_state(network, tmp_path / "state.npz")
    again, _ = _network(backbone_rate=0.25, head_pull=2.0)
    again.get_layer("head").kernel.assign(began + 1)
    fitting.restore_state(again, tmp_path / "state.npz")
    assert int(again.optimizer.iterations) == 1
    for attribute in ("variables", "optimizer.variables"):
        read = operator.attrgetter(attribute)
        for ours, theirs in zip(read(again), read(network), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    anchors = again.optimizer._anchors
    np.testing.assert_array_equal(anchors["head/kernel"], began)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_state_that_is_damaged_is_named(tmp_path, size):
    network, _ = _network()
    fitting.save_state(network, tmp_path / "state.npz")
    whole = (tmp_path / "state.npz").read_bytes()
    (tmp_path / "state.npz").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"state\.npz: not a whole state"):
        fitting.restore_state(network, tmp_path / "state.npz")
    other, _ = _network(head_pull=1.0)
    (tmp_path / "state.npz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"state\.npz: not a whole state"):
        fitting.restore_state(other, tmp_path / "state.npz")


def test_fixed_layers_stay_and_scores_are_those_of_the_whole_network():
    network, training = _network(backbone_rate=0.0, head_pull=0.0, learning_rate=0.02)
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
    network, training = _network(backbone_rate=rate, learning_rate=0.0)
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
    network, training = _network(backbone_rate=0.0)
    fitter = _fitter(network, training)
    before = fitter.predict(DATA.test)
    models.standardize(network, np.ones(NUM_PATHS), np.full(NUM_PATHS, 4.0))
    fitter.forget()
    expected = fitting.predict(network, DATA.features, DATA.test, segment_frames=12)
    np.testing.assert_allclose(fitter.predict(DATA.test), expected, atol=1e-6)
    assert np.abs(expected - before).max() > 1e-3


def test_layers_that_come_again_by_name_are_not_passed_through_again():
    network, training = _network(backbone_rate=0.0)
    clock = fitting.Clock()
    fitter = _fitter(network, training, clock)
    rows = DATA.test[::-1]

    def expected():
        return fitting.predict(network, DATA.features, rows, segment_frames=12)

    layer = network.get_layer("gru_1")
    known, other = layer.get_weights(), [w + 0.1 for w in layer.get_weights()]
    for weights, layers in ((known, "known"), (other, ""), (known, "known")):
        layer.set_weights(weights)
        # The head has statistics and weights of its own each time.
        mean = np.random.default_rng(0).normal(size=NUM_PATHS)
        models.standardize(network, mean, np.ones(NUM_PATHS), is_for_layers=False)
        fitter.forget(layers=layers)
        np.testing.assert_allclose(fitter.predict(rows), expected(), atol=1e-6)
    layer.set_weights(other)
    fitter.forget(layers="known")
    assert np.abs(fitter.predict(rows) - expected()).max() > 1e-3


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
    secs = clock.to_dict()
    assert secs["steps"] >= 0.05 and secs["evaluation"] >= 0.1
    clock.restart()
    small = pytest.approx(0, abs=0.05)
    assert clock.to_dict() == {"steps": 0.0, "evaluation": 0.0, "other": small}


def test_a_seed_is_a_function_of_all_numbers_in_their_order():
    seeds = {fitting.mix(1, 2), fitting.mix(2, 1), fitting.mix(1), fitting.mix(1, 2)}
    assert len(seeds) == 3
