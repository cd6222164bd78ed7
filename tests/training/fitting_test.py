"""Stages of training: what an epoch does, and what they are refused."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import runs

from genre_tl import params
from genre_tl.model import networks, transfer
from genre_tl.training import fitting, pretrain

DATA = runs.data()
TRAIN, TEST = DATA.parts["train"], DATA.parts["test"]
MODEL = params.Model(num_layers=1, num_units=4, dropout=0.3, embedding_units=0)


def _data(segment_frames):
    frontend = dataclasses.replace(DATA.frontend, segment_frames=segment_frames)
    return dataclasses.replace(DATA, frontend=frontend)


def _classifier(seed=1, readout="all"):
    model = dataclasses.replace(MODEL, readout=readout)
    return networks.classifier(model, runs.NUM_PATHS, 3, seed=seed)


def _whole(segment_frames=12, network=None, **changes):
    recipe = runs.tuned(**changes).finetune
    network = network or _classifier()
    return fitting.WholeNetwork(network, _data(segment_frames), recipe)


def _frozen(data=DATA, readout="all"):
    tagger = pretrain.tagger(
        runs.data(True), dataclasses.replace(MODEL, readout=readout), seed=1
    )
    return fitting.FrozenBackbone(transfer.backbone(tagger), data)


def test_loss_and_accuracy_are_means_over_the_clips():
    stage = _whole(40, learning_rate=0.0, crop_frames=(), batch_size=4)
    stage.model.get_layer("dropout_joined").rate = 0.0
    rows = np.arange(16)
    stage.begin(rows, 0)
    logs = stage.fit(1, [])
    scores, classes = stage.scores(rows), DATA.table.classes[rows]
    losses = -np.log(scores[rows, classes])
    assert logs["loss"][0] == pytest.approx(losses.mean(), rel=1e-4)
    assert logs["accuracy"][0] == np.mean(scores.argmax(axis=1) == classes)


def _targets_and_outputs(num_clips=8, num_tags=3, num_dims=2):
    rng = np.random.default_rng(0)
    tags = rng.uniform(size=[2, num_clips, num_tags])
    vectors = rng.normal(size=[2, num_clips, num_dims])
    return np.concatenate([tags, vectors], axis=2).astype("float32")


def _loss(targets, outputs, num_tags=3):
    loss = fitting.TaggerLoss(num_tags)
    return float(loss(tf.constant(targets), tf.constant(outputs)))


def test_the_loss_of_known_tags_is_the_binary_cross_entropy_of_keras():
    targets, outputs = _targets_and_outputs(num_dims=0)
    expected = keras.losses.BinaryCrossentropy()(targets, outputs)
    assert _loss(targets, outputs) == pytest.approx(float(expected), rel=1e-5)
    # Also of tags that are certain, and wrong.
    targets[:], outputs[:] = 1, 0
    expected = keras.losses.BinaryCrossentropy()(targets, outputs)
    assert _loss(targets, outputs) == pytest.approx(float(expected), rel=1e-5)


def test_target_vectors_add_their_weighted_mean_squared_error():
    targets, outputs = _targets_and_outputs()
    tags = _loss(targets[:, :3], outputs[:, :3])
    error = np.mean((targets[:, 3:] - outputs[:, 3:]) ** 2)
    expected = tags + fitting._VECTOR_WEIGHT * error
    assert _loss(targets, outputs) == pytest.approx(float(expected), rel=1e-5)


def test_unknown_targets_count_in_neither_loss_nor_gradient():
    targets, outputs = _targets_and_outputs()
    targets[:3, 0], targets[5, 1:3], targets[::2, 3:] = np.nan, np.nan, np.nan
    known = ~np.isnan(targets)
    tags, wanted = outputs[:, :3][known[:, :3]], targets[:, :3][known[:, :3]]
    cross_entropy = keras.losses.BinaryCrossentropy()(wanted[None], tags[None])
    vectors = (targets - outputs)[:, 3:][known[:, 3:]]
    expected = float(cross_entropy) + fitting._VECTOR_WEIGHT * np.mean(vectors**2)
    assert _loss(targets, outputs) == pytest.approx(expected, rel=1e-5)
    outputs = tf.constant(outputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = fitting.TaggerLoss(3)(tf.constant(targets), outputs)
    gradient = tape.gradient(loss, outputs).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient != 0, known)


def test_the_loss_is_restored_from_its_config():
    loss = fitting.TaggerLoss(3, name="some")
    again = fitting.TaggerLoss.from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    assert again.num_tags == 3


def test_targets_that_are_all_unknown_have_no_loss():
    targets, outputs = _targets_and_outputs()
    assert _loss(np.full_like(targets, np.nan), outputs) == 0
    targets[:, 3:] = np.nan
    expected = _loss(targets[:, :3], outputs[:, :3])
    assert _loss(targets, outputs) == pytest.approx(expected)


def _rates(**changes):
    """The learning rate in each epoch."""
    stage, rates = _whole(**changes), []
    rate = stage.model.optimizer.learning_rate
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: rates.append(float(rate))
    )
    stage.begin(TRAIN[:8], 0)
    stage.fit(stage.training.max_epochs, [callback])
    return rates


def test_a_cosine_warms_up_for_two_epochs_and_falls_to_nearly_zero():
    rates = _rates(schedule="cosine", max_epochs=6, learning_rate=0.1)
    cosine = 0.05 + 0.05 * np.cos(np.pi * (np.arange(6) + 0.5) / 6)
    np.testing.assert_allclose(rates, [0.25, 0.75, 1, 1, 1, 1] * cosine, rtol=1e-5)
    assert rates[-1] < 0.002


def test_a_constant_schedule_keeps_the_learning_rate():
    np.testing.assert_allclose(_rates(max_epochs=3, learning_rate=0.1), 0.1)


def test_weight_decay_shrinks_kernels_and_leaves_biases_and_statistics_alone():
    network = _classifier()
    for layer in network.layers:
        layer.set_weights([weight + 0.5 for weight in layer.get_weights()])
    frozen = [weight.path for weight in network.non_trainable_weights]
    before = {weight.path: weight.numpy() for weight in network.weights}
    stage = _whole(network=network, learning_rate=0.1, weight_decay=0.5)
    optimizer = stage.model.optimizer
    zeros = [tf.zeros(weight.shape) for weight in network.trainable_weights]
    optimizer.apply(zeros, network.trainable_weights)
    factors = {"kernel": 0.95, "recurrent_kernel": 0.95, "bias": 1.0}
    for weight in network.weights:
        factor = 1.0 if weight.path in frozen else factors[weight.name]
        expected = factor * before[weight.path]
        np.testing.assert_allclose(weight, expected, rtol=1e-5, err_msg=weight.path)


def test_metrics_that_callbacks_add_reach_later_callbacks_and_the_history():
    # Keras hands the same dictionary to all callbacks, and its history comes last.
    seen = []

    def add(epoch, logs):
        logs["val_accuracy"] = 0.25

    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=add),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(logs)),
    ]
    stage = _whole()
    stage.begin(TRAIN, 0)
    assert stage.fit(2, callbacks)["val_accuracy"] == [0.25, 0.25]
    assert [logs["val_accuracy"] for logs in seen] == [0.25, 0.25]


def test_validation_adds_loss_and_metrics_of_its_clips():
    stage = _whole()
    stage.begin(TRAIN, 0)

    def measure(targets, outputs):
        return {"error": float(np.abs(targets - outputs).mean()), "genres": {}}

    (callback,) = fitting.validation(stage, TEST, measure)
    logs = {}
    callback.on_epoch_end(0, logs)
    targets, outputs = DATA.table.labels[TEST], stage.outputs(TEST)
    expected = keras.losses.CategoricalCrossentropy()(targets, outputs)
    assert logs == {
        "val_loss": pytest.approx(float(expected), rel=1e-5),
        "val_error": float(np.abs(targets - outputs).mean()),
    }
    assert fitting.validation(stage, TEST[:0], measure) == []


def test_validation_of_a_tagger_ignores_what_is_unknown():
    data = runs.data(True, num_dims=2)
    targets = pretrain.targets(data.table, TRAIN)
    tagger = pretrain.tagger(data, MODEL, num_dims=2)
    stage = fitting.WholeNetwork(tagger, data, runs.TINY.pretrain, targets)
    (callback,) = fitting.validation(stage, TEST, lambda *_: {})
    logs = {}
    callback.on_epoch_end(0, logs)
    expected = _loss(targets[TEST], stage.outputs(TEST))
    assert logs == {"val_loss": pytest.approx(expected)}
    assert stage.outputs(TEST).shape == (len(TEST), 3 + 2)
    np.testing.assert_array_equal(stage.scores(TEST), stage.outputs(TEST)[:, :3])


def _run(stage, rows):
    stage.begin(rows, 3, _classifier())
    return stage.fit(2, []), stage.scores(TEST)


@pytest.mark.parametrize("is_default", [False, True])
def test_a_stage_begun_again_repeats_its_result(is_default):
    recipe = runs.tuned().finetune
    recipe = runs.as_by_default(recipe) if is_default else recipe
    stage = fitting.WholeNetwork(_classifier(), DATA, recipe)
    history, scores = _run(stage, TRAIN)
    assert _run(stage, TRAIN[:9])[0] != history
    again, same = _run(stage, TRAIN)
    assert again == history
    np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize("crop_frames", [(12,), (6, 10)])
def test_clips_of_all_counts_and_excerpts_share_one_traced_graph(crop_frames):
    stage = _whole(crop_frames=crop_frames)
    step, traced = stage.model.train_step, []

    def train_step(data):
        traced.append(data)
        return step(data)

    stage.model.train_step = train_step
    for rows in (TRAIN, TRAIN[:9], TRAIN[:14]):
        _run(stage, rows)
    # Keras runs a step once without a graph, to build what a model still lacks.
    assert len(traced) <= 2
    count = len(traced)
    _run(stage, TRAIN[:5])
    assert len(traced) == count


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("readout", params.READOUTS)
@pytest.mark.parametrize("segment_frames", [40, 12])
def test_a_network_with_a_fitted_head_scores_like_the_head(
    readout, segment_frames, kernel
):
    frozen = _frozen(_data(segment_frames), readout)
    head = frozen.fit(TRAIN, kernel=kernel)
    network = transfer.with_head(frozen.network, head)
    found = fitting.outputs(network, _data(segment_frames), TEST)
    np.testing.assert_allclose(frozen.scores(head, TEST), found, atol=1e-5)


@pytest.mark.parametrize("kernel", [False, True])
def test_test_clips_have_no_effect_on_a_head(kernel):
    classes = DATA.table.labels.argmax(axis=1)
    classes[TEST] = 0
    labels = np.eye(3, dtype=np.uint8)[classes]
    groups = tuple("x" if row in TEST else str(row) for row in range(runs.NUM_CLIPS))
    table = dataclasses.replace(DATA.table, labels=labels, groups=groups)
    read = DATA.features.read

    def louder(clip, start, count):
        return read(clip, start, count) + 5 * (clip in TEST)

    features = dataclasses.replace(DATA.features, read=louder)
    other = dataclasses.replace(DATA, table=table, features=features)
    expected = _frozen().fit(TRAIN, kernel=kernel)
    found = _frozen(other).fit(TRAIN, kernel=kernel)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy():
    stage = _whole()
    kernel = stage.model.get_layer("head").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
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
