import dataclasses
import operator

import numpy as np
import pytest
import training_test

from genre_tl.model import networks
from genre_tl.training import learning

NUM_PATHS = training_test.NUM_PATHS


def compiled(**changes):
    """Returns a compiled network of one layer, and how it is to be trained."""
    plain = {"backbone_rate": 1.0, "states_rate": 1.0, "head_pull": 0.0}
    training = dataclasses.replace(
        training_test.TINY.finetune, **{**plain, **changes}, clip_norm=0.0
    )
    network = networks.classifier(training_test.TINY.model, NUM_PATHS, 3, seed=1)
    head = network.get_layer("head")
    random = np.random.default_rng(0)
    head.set_weights([random.normal(size=w.shape) for w in head.get_weights()])
    return learning.compiled(network, training, "categorical_crossentropy"), training


def _step(network):
    """Trains one step, and returns by path how far each weight has gone."""
    before = {w.path: w.numpy() for w in network.weights}
    frames = np.random.default_rng(0).normal(size=(8, 10, NUM_PATHS))
    network.train_on_batch(frames.astype("float32"), np.eye(3)[np.arange(8) % 3])
    return {w.path: np.abs(w.numpy() - before[w.path]) for w in network.weights}


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_recurrent_layers_learn_at_a_rate_of_their_own(rate):
    # The first step of Adam is as long as the learning rate.
    network, _ = compiled(backbone_rate=rate)
    for path, gone in _step(network).items():
        if "gru_cell" in path or path.startswith("head"):
            expected = 5e-3 * (rate if "gru_cell" in path else 1.0)
            assert gone.max() == pytest.approx(expected, rel=0.02, abs=1e-8)


def test_what_reads_the_states_learns_at_a_rate_of_its_own():
    network, _ = compiled(states_rate=0.2)
    gone = _step(network)["head/kernel"]
    assert gone.shape == (NUM_PATHS + 16, 3)
    assert gone[:NUM_PATHS].max() == pytest.approx(5e-3, rel=0.02)
    assert gone[NUM_PATHS:].max() == pytest.approx(1e-3, rel=0.02)


def test_the_head_is_pulled_to_where_it_began_and_nothing_else_is():
    network, _ = compiled(head_pull=4.0, backbone_rate=0.0)
    head = network.get_layer("head").kernel
    began = head.numpy()
    head.assign(began + 1)
    free, _ = compiled(backbone_rate=0.0)
    free.get_layer("head").kernel.assign(began + 1)
    network.optimizer.learning_rate = free.optimizer.learning_rate = 0.01
    _step(network)
    _step(free)
    pulled = free.get_layer("head").kernel.numpy() - head.numpy()
    np.testing.assert_allclose(pulled, 0.04, rtol=1e-4)
    network.optimizer.begin(network)
    held = head.numpy()
    network.optimizer.learning_rate = 0.0
    _step(network)
    np.testing.assert_array_equal(head.numpy(), held)


def test_a_pull_never_goes_beyond_where_the_head_began():
    network, _ = compiled(head_pull=1000.0, backbone_rate=0.0)
    head = network.get_layer("head").kernel
    began = head.numpy()
    head.assign(began + 1)
    _step(network)
    # All the way back, and a step of Adam from there.
    np.testing.assert_allclose(head.numpy(), began, atol=0.006)


def test_an_optimizer_that_begins_again_is_like_a_new_one():
    network, _ = compiled(head_pull=4.0, backbone_rate=0.0)
    _step(network)
    network.optimizer.head_pull.assign(7.0)
    network.optimizer.begin(network)
    new, _ = compiled(head_pull=4.0, backbone_rate=0.0)
    new.set_weights(network.get_weights())
    new.optimizer.begin(new)
    pairs = zip(network.optimizer.variables, new.optimizer.variables, strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_the_optimizer_comes_back_with_its_anchors(tmp_path):
    network, _ = compiled(backbone_rate=0.25, head_pull=2.0)
    began = network.get_layer("head").kernel.numpy()
    _step(network)
    learning.save_state(network, tmp_path / "state.npz")
    again, _ = compiled(backbone_rate=0.25, head_pull=2.0)
    again.get_layer("head").kernel.assign(began + 1)
    learning.restore_state(again, tmp_path / "state.npz")
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
    network, _ = compiled()
    learning.save_state(network, tmp_path / "state.npz")
    whole = (tmp_path / "state.npz").read_bytes()
    (tmp_path / "state.npz").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"state\.npz: not a whole state"):
        learning.restore_state(network, tmp_path / "state.npz")
    other, _ = compiled(head_pull=1.0)
    (tmp_path / "state.npz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"state\.npz: not a whole state"):
        learning.restore_state(other, tmp_path / "state.npz")


def test_a_seed_is_a_function_of_all_numbers_in_their_order():
    seeds = {
        learning.mix(1, 2),
        learning.mix(2, 1),
        learning.mix(1),
        learning.mix(1, 2),
    }
    assert len(seeds) == 3
