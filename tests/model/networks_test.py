import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.model import gru, networks

SIZES = params.Model(num_layers=3, num_units=8, dropout=0.5)
NUM_PATHS = 5


def _clips(*lengths, longest=12):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal([len(lengths), longest, NUM_PATHS]).astype("float32")
    for clip, length in zip(frames, lengths, strict=True):
        clip[length:] = scattering.PAD_VALUE
    return frames


def _tagger(readout="mean", seed=0):
    sizes = params.Model(**{**vars(SIZES), "readout": readout})
    return networks.tagger(sizes, NUM_PATHS, 4, seed=seed)


@pytest.mark.parametrize("readout", ["all", "mean", "last"])
def test_scores_depend_neither_on_padding_nor_on_the_batch(readout):
    network = _tagger(readout)
    clips = _clips(12, 7, 3)
    together = network(clips)
    for clip, length, score in zip(clips, (12, 7, 3), together, strict=True):
        np.testing.assert_allclose(network(clip[None])[0], score, atol=1e-6)
        np.testing.assert_allclose(network(clip[None, :length])[0], score, atol=1e-6)


def test_last_read_out_is_the_state_after_the_last_valid_frame():
    # The mean over a single frame is that frame's state.
    clips = _clips(1)
    last, mean = _tagger("last"), _tagger("mean")
    np.testing.assert_allclose(last(clips), mean(clips), atol=1e-6)


def test_the_head_sees_the_means_of_the_input_and_of_every_layer():
    network = _tagger("all")
    clips = _clips(12, 5)
    parts = [_gru(network, number).output for number in (1, 2, 3)]
    mean, variance = np.linspace(-1, 1, NUM_PATHS), np.full(NUM_PATHS, 4.0)
    networks.standardize(network, mean, variance)
    outputs = [(clips - mean) / 2, *keras.Model(network.input, parts)(clips)]
    joined = [
        np.concatenate([np.mean(y[clip, :length], axis=0) for y in outputs])
        for clip, length in enumerate((12, 5))
    ]
    np.testing.assert_allclose(_vectors(network, clips), joined, atol=1e-6)


def _vectors(network, clips):
    """Returns what the head reads."""
    layer = network.get_layer("standardize_joined")
    return keras.Model(network.input, layer.output)(clips).numpy()


def test_the_head_may_go_by_statistics_that_the_layers_do_not():
    network, clips = _tagger("all"), _clips(12, 5)
    theirs = np.linspace(2, 3, NUM_PATHS), np.linspace(0.5, 9, NUM_PATHS)
    networks.standardize(network, *theirs)
    before = _vectors(network, clips)
    ours = np.arange(NUM_PATHS) + 1.0, np.full(NUM_PATHS, 4.0)
    networks.standardize(network, *ours, is_for_layers=False)
    apart = _vectors(network, clips)
    np.testing.assert_array_equal(apart[:, NUM_PATHS:], before[:, NUM_PATHS:])
    networks.standardize(network, *ours)
    both = _vectors(network, clips)
    np.testing.assert_allclose(both[:, :NUM_PATHS], apart[:, :NUM_PATHS], atol=1e-6)
    assert np.abs(both - apart)[:, NUM_PATHS:].max() > 0.01
    # Nothing is left of the statistics that were there apart.
    for number, neutral in enumerate((0, 1)):
        weights = network.get_layer("standardize_joined").get_weights()[number]
        np.testing.assert_array_equal(weights, neutral)


def test_a_path_that_hardly_varies_is_read_as_exactly_as_others():
    # At the floor of the logarithm, as what a narrow band leaves empty.
    network, floor = _tagger("all"), np.log(1e-5)
    noise = np.random.default_rng(0).normal(size=[1, 59, NUM_PATHS])
    clips = (floor + 0.01 * noise).astype("float32")
    mean, variance = clips[0].mean(axis=0, dtype=np.float64), np.full(NUM_PATHS, 1e-4)
    networks.standardize(network, mean, variance)
    expected = (clips[0].astype(np.float64) - mean).mean(axis=0) / 0.01
    found = _vectors(network, clips)[0, :NUM_PATHS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_network_is_divided_where_the_recurrent_layers_end():
    for readout in ("all", "mean", "last"):
        network, clips = _tagger(readout), _clips(12, 5)
        below, above = networks.divided(network)
        vectors = below(clips)
        np.testing.assert_allclose(above(vectors), network(clips), atol=1e-6)
        ones = np.ones(NUM_PATHS)
        networks.standardize(network, ones, ones, is_for_layers=False)
        np.testing.assert_array_equal(below(clips), vectors)


def _gru(network, number):
    return network.get_layer(f"gru_{number}")


def test_full_size_is_five_layers_of_512():
    network = networks.tagger(params.Model(), 643, 188)
    grus = [layer for layer in network.layers if isinstance(layer, keras.layers.GRU)]
    assert [layer.units for layer in grus] == [512] * 5
    assert network.output_shape == (None, 188)


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = _tagger(seed=1), _tagger(seed=1), _tagger(seed=2)
    clips = _clips(12)
    np.testing.assert_array_equal(one(clips), same(clips))
    assert np.any(one(clips).numpy() != other(clips).numpy())


def _classifier(sizes=SIZES, seed=7):
    return networks.classifier(sizes, NUM_PATHS, 3, seed=seed)


def test_weights_drawn_anew_are_spread_like_those_of_a_new_network():
    sizes = params.Model(num_layers=2, num_units=64)
    network, new = (networks.tagger(sizes, 30, 4, seed=seed) for seed in (1, 2))
    head = network.get_layer("head").get_weights()
    networks.redraw(network, 5)
    for layer, other in zip(network.layers, new.layers, strict=True):
        for ours, theirs in zip(layer.get_weights(), other.get_weights(), strict=True):
            if "gru" in layer.name and ours.std():
                assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
                assert np.abs(ours - theirs).max() > 0.01
    states = network.get_layer("gru_2").get_weights()[1]
    np.testing.assert_allclose(states @ states.T, np.eye(64), atol=1e-5)
    np.testing.assert_array_equal(network.get_layer("head").get_weights()[0], head[0])
    drawn = network.get_weights()
    networks.redraw(network, 6)
    assert np.abs(network.get_layer("gru_2").get_weights()[1] - states).max() > 0
    networks.redraw(network, 5)
    for once, again in zip(drawn, network.get_weights(), strict=True):
        np.testing.assert_array_equal(once, again)


def test_what_is_carried_over_is_the_recurrent_layers_and_their_standardisation():
    tagger, classifier, other = _tagger(), _classifier(), _classifier()
    networks.standardize(tagger, np.ones(NUM_PATHS), np.full(NUM_PATHS, 4.0))
    networks.carry_over(tagger, classifier)
    for layer in classifier.layers:
        is_carried = layer.name.startswith("gru") or layer.name == "standardize"
        theirs = (tagger if is_carried else other).get_layer(layer.name).get_weights()
        for one, two in zip(layer.get_weights(), theirs, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_genre_that_is_a_tag_takes_over_its_weights_whatever_the_spelling():
    tagger, classifier = _tagger("all"), _classifier()
    old = classifier.get_layer("head").get_weights()
    tags = ("rock", "hip hop", "slow", "jazz")
    genres = ("hiphop", "Jazz", "polka")
    networks.carry_over(tagger, classifier, tags=tags, genres=genres)
    new = classifier.get_layer("head").get_weights()
    theirs = tagger.get_layer("head").get_weights()
    for ours, before, given in zip(new, old, theirs, strict=True):
        np.testing.assert_array_equal(ours[..., 0], given[..., 1])
        np.testing.assert_array_equal(ours[..., 1], given[..., 3])
        np.testing.assert_array_equal(ours[..., 2], before[..., 2])


@pytest.mark.parametrize("change", [{"num_layers": 4}, {"num_units": 9}])
def test_a_backbone_of_another_size_is_not_carried_over(change):
    other = params.Model(**{**vars(SIZES), **change})
    with pytest.raises(ValueError, match="gru|shape"):
        networks.carry_over(_tagger(), _classifier(other))


def _pair(**options):
    """Keras's layer and ours with the same weights."""
    theirs, ours = (kind(8, **options) for kind in (keras.layers.GRU, gru.GRU))
    for layer in (theirs, ours):
        layer.build((None, None, NUM_PATHS))
    rng = np.random.default_rng(3)
    weights = [rng.normal(0, 0.5, w.shape) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    return theirs, ours


@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 7, 1)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_the_fast_gru_gives_the_states_and_gradients_of_keras(
    lengths, training, sequences
):
    clips = tf.constant(_clips(*lengths))
    mask = tf.range(12) < tf.constant(lengths)[:, None]
    mask = None if min(lengths) == 12 else mask
    results = []
    for layer in _pair(return_sequences=sequences):
        with tf.GradientTape() as tape:
            tape.watch(clips)
            states = layer(clips, mask=mask, training=training)
            # No state's gradient is like another's.
            weights = tf.reshape(
                tf.range(tf.size(states), dtype="float32"), states.shape
            )
            loss = tf.reduce_sum(tf.sin(weights) * states)
        results.append(
            (states, *tape.gradient(loss, [clips, *layer.trainable_weights]))
        )
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_fast_gru_trains_in_a_graph_of_unknown_sizes():
    theirs, ours = _pair(return_sequences=True)

    def gradient(layer):
        @tf.function(input_signature=[tf.TensorSpec([None, None, NUM_PATHS])])
        def of(clips):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(clips, training=True) ** 2)
            return tape.gradient(loss, layer.trainable_weights)

        return of(_clips(12, 12))

    for one, other in zip(gradient(ours), gradient(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"reset_after": False}])
def test_with_other_options_the_gru_is_that_of_keras(options):
    theirs, ours = _pair(**options)
    np.testing.assert_allclose(ours(_clips(12)), theirs(_clips(12)), atol=1e-6)


def test_an_unknown_read_out_is_refused():
    with pytest.raises(ValueError, match="readout"):
        _tagger("max")


def test_standardisation_takes_out_mean_and_deviation():
    frames = 3 + 2 * np.random.default_rng(1).standard_normal([400, NUM_PATHS])
    layer = networks.Standardize()
    layer.build((None, None, NUM_PATHS))
    layer.set_statistics(frames.mean(axis=0), frames.var(axis=0))
    output = layer(frames[None].astype("float32")).numpy()[0]
    np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(output.std(axis=0), 1, atol=1e-4)


def test_a_path_that_never_varies_is_not_amplified():
    layer = networks.Standardize()
    layer.build((None, None, 1))
    layer.set_statistics(np.zeros(1), np.zeros(1))
    assert abs(float(layer(np.full([1, 1, 1], 1e-3, "float32"))[0, 0, 0])) <= 1.001


def test_a_file_brings_back_the_same_model(tmp_path):
    network = _tagger()
    networks.standardize(network, np.arange(NUM_PATHS), np.ones(NUM_PATHS))
    networks.save(network, tmp_path / "model.keras")
    again = networks.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(_clips(12, 5)), network(_clips(12, 5)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.keras"):
        networks.load(tmp_path / "absent.keras")


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_damaged_file_is_named(tmp_path, size):
    networks.save(_tagger(), tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"model\.keras: not a complete"):
        networks.load(tmp_path / "model.keras")


def test_a_file_of_a_newer_keras_is_told_from_a_damaged_one(tmp_path):
    networks.save(_tagger(), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["metadata.json"] = json.dumps({"keras_version": "3.99.0"}).encode()
    config = parts["config.json"].decode()
    parts["config.json"] = config.replace(
        '"gain": ', '"unheard_of": 1, "gain": '
    ).encode()
    with zipfile.ZipFile(tmp_path / "newer.keras", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(ValueError, match=r"newer\.keras.*keras==3\.99\.0") as caught:
        networks.load(tmp_path / "newer.keras")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_reseeding_repeats_dropout():
    network = _tagger()
    clips = _clips(12)

    def dropped(seed):
        networks.reseed(network, seed)
        return network(clips, training=True).numpy()

    np.testing.assert_array_equal(dropped(1), dropped(1))
    assert np.any(dropped(1) != dropped(2))


def test_the_portable_copy_scores_alike_and_never_uses_cudnn():
    network = _tagger()
    copy = networks.uncompiled(network, is_portable=True)
    np.testing.assert_allclose(copy(_clips(12, 5)), network(_clips(12, 5)), atol=1e-6)
    for layer in copy.layers:
        if isinstance(layer, keras.layers.GRU):
            assert layer.use_cudnn is False
