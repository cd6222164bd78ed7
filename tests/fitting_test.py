import dataclasses

import keras
import numpy as np
import pytest
import training_test

from genre_tl import fitting, models


def _network(backbone_rate):
    training = dataclasses.replace(
        training_test.TINY.finetune, backbone_rate=backbone_rate
    )
    network = models.classifier(training_test.TINY.model, training_test.NUM_PATHS, 3)
    head = network.get_layer("head")
    head.set_weights([np.random.normal(size=w.shape) for w in head.get_weights()])
    return fitting.compiled(network, training, "categorical_crossentropy")


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_recurrent_layers_learn_at_a_rate_of_their_own(rate):
    # The first step of Adam is as long as the learning rate.
    network = _network(rate)
    before = [w.numpy() for w in network.trainable_weights]
    frames = np.random.normal(size=(8, 10, training_test.NUM_PATHS)).astype("float32")
    network.train_on_batch(frames, np.eye(3)[np.arange(8) % 3])
    for old, weight in zip(before, network.trainable_weights, strict=True):
        expected = 5e-3 * (rate if "gru_cell" in weight.path else 1.0)
        longest = np.abs(weight.numpy() - old).max()
        assert longest == pytest.approx(expected, rel=0.02, abs=1e-8)


def test_the_optimizer_comes_back_with_its_rate(tmp_path):
    network = _network(0.25)
    models.save(network, tmp_path / "model.keras")
    again = models.load(tmp_path / "model.keras", compiled=True)
    assert isinstance(again.optimizer, keras.optimizers.Adam)
    assert again.optimizer.backbone_rate == 0.25


def test_a_clock_leaves_out_the_step_that_traces():
    clock = fitting.Clock()
    with clock.step():
        pass
    assert clock.to_dict()["steps"] == 0.0
    with clock.step():
        training_test.time.sleep(0.05)
    assert clock.to_dict()["steps"] >= 0.05
    clock.restart()
    assert clock.to_dict() == {"steps": 0.0, "other": pytest.approx(0, abs=0.05)}


def test_a_seed_is_a_function_of_all_numbers_in_their_order():
    seeds = {fitting.mix(1, 2), fitting.mix(2, 1), fitting.mix(1), fitting.mix(1, 2)}
    assert len(seeds) == 3
