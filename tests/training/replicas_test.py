"""Training on two devices equals training on one; mixed precision comes near it.

The devices are parts of the processor, which a process must be given at its start.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from support import runs

from genre_tl import params
from genre_tl.model import networks
from genre_tl.training import fitting, pretrain, replicas

ON_TWO = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
part = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [part, part])
from genre_tl.training import replicas
import replicas_test
if sys.argv[1] == "2":
    replicas._devices = lambda: ["CPU:0", "CPU:1"]
print(json.dumps(replicas_test.trained_all()))
"""


def trained(multi_label, dropout=0.0, **changes):
    """Losses of three epochs, and outputs before the end and after it."""
    data = runs.data(multi_label, num_dims=2 if multi_label else 0)
    options = {"batch_size": 6, "clip_norm": 0.1, "weight_decay": 0.1} | changes
    preset = runs.tuned(**options)
    # Devices draw other numbers.
    model = dataclasses.replace(preset.model, dropout=dropout)
    rows = data.parts["train"]
    if multi_label:
        targets = pretrain.targets(data.table, rows)
        targets[::3, 0] = np.nan  # known tags differ in number between halves
        network = pretrain.tagger(data, model, num_dims=2)
    else:
        targets = None
        network = networks.classifier(model, runs.NUM_PATHS, 3, seed=1)
    stage = fitting.WholeNetwork(network, data, preset.finetune, targets)
    stage.begin(rows, 3)
    losses = stage.fit(3, [])["loss"]
    return {
        "replicas": stage.model.distribute_strategy.num_replicas_in_sync,
        "losses": losses,
        "outputs": stage.outputs(
            data.parts["valid" if multi_label else "test"]
        ).tolist(),
        "steps": int(stage.model.optimizer.iterations.numpy()),
    }


def trained_all():
    usual = {"schedule": "cosine", "augment": True, "crop_frames": (6, 10)}
    return {
        "tagger": trained(True, **usual),
        "classifier": trained(False),
        "odd": trained(False, batch_size=5),
        "half": trained(False, precision="mixed_float16", dropout=0.2),
        "resumed": resumed(),
    }


def resumed():
    """Weights of a run that is stopped and resumed, and of one that is not."""
    preset = runs.tuned(batch_size=6, method="finetune")
    with tempfile.TemporaryDirectory() as folder:
        whole, parted = pathlib.Path(folder, "whole"), pathlib.Path(folder, "parted")
        runs.finetuned(whole, preset)
        with contextlib.suppress(runs.Killed):
            runs.finetuned(parted, preset, callbacks=runs.kill_at(2, 1))
        runs.finetuned(parted, preset)
        return [[x.tolist() for x in runs.weights(y)] for y in (whole, parted)]


@pytest.fixture(scope="module")
def on_two(root):
    """What one device and two give, each in a fresh process."""
    folders = os.pathsep.join(map(str, [root, root / "tests", root / "tests/training"]))
    found = []
    for number in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", ON_TWO, number],
            env=os.environ | {"PYTHONPATH": folders, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


@pytest.mark.parametrize("kind", ["tagger", "classifier"])
def test_two_devices_train_as_one(on_two, kind):
    # Rows fill two and a half batches, some targets are unknown, gradients are clipped.
    one, two = (found[kind] for found in on_two)
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert one["steps"] == two["steps"] == 9
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(two["outputs"], one["outputs"], rtol=1e-3, atol=1e-4)


def test_a_batch_that_two_devices_cannot_halve_is_trained_on_one(on_two):
    one, two = (found["odd"] for found in on_two)
    assert two["replicas"] == 1
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-6)


def test_two_devices_train_with_dropout_in_mixed_precision(on_two):
    found = on_two[1]["half"]
    assert (found["replicas"], found["steps"]) == (2, 9)
    assert found["losses"][-1] < 0.9 * found["losses"][0]


def test_a_run_on_two_devices_resumes(on_two):
    whole, resumed = on_two[1]["resumed"]
    for weight, same in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(same, weight)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_mixed_precision_learns_nearly_the_same(precision, multi_label):
    full = trained(multi_label)
    mixed = trained(multi_label, precision=precision)
    assert mixed["losses"] != full["losses"]
    np.testing.assert_allclose(mixed["losses"], full["losses"], rtol=0.05)


@pytest.mark.parametrize("cell", params.CELLS)
@pytest.mark.parametrize("readout", params.READOUTS)
def test_only_recurrent_layers_are_in_16_bits_and_the_result_has_none(cell, readout):
    model = params.Model(num_layers=1, num_units=4, cell=cell, readout=readout)
    network = networks.classifier(model, 7, 3)
    training = params.Training(precision="mixed_bfloat16")
    copy = replicas.trainable(network, training)
    half = {x.name for x in copy.layers if x.compute_dtype == "bfloat16"}
    assert f"{cell}_1" in half
    assert all(name.startswith((cell, "dropout")) for name in half)
    assert {variable.dtype for variable in copy.trainable_variables} == {"float32"}
    frames = tf.random.normal([2, 5, 7])
    assert copy(frames).dtype == tf.float32
    np.testing.assert_allclose(copy(frames), network(frames), atol=0.02)
    assert all(x.compute_dtype == "float32" for x in networks.portable(network).layers)


def test_without_gpus_and_in_float32_the_network_itself_is_trained():
    network = networks.classifier(runs.TINY.model, 7, 3)
    assert replicas.trainable(network, params.Training()) is network


def test_an_infinite_gradient_halves_the_scale_and_changes_no_weight():
    network = networks.classifier(runs.TINY.model, 7, 3)
    training = params.Training(precision="mixed_float16")
    model = replicas.trainable(network, training)
    replicas.compile(model, training, loss="categorical_crossentropy")
    before, scale = model.get_weights(), float(model.optimizer.dynamic_scale.numpy())
    gradients = [tf.fill(x.shape, np.inf) for x in model.trainable_variables]
    model.optimizer.apply(gradients, model.trainable_variables)
    assert float(model.optimizer.dynamic_scale.numpy()) == scale / 2
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
