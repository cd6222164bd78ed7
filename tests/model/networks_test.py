"""Taggers and classifiers: what they compute, and their files."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import pairwise

from genre_tl import features, params
from genre_tl.evaluation import calibration
from genre_tl.model import gru, networks

SIZES = params.Model(num_layers=3, num_units=8, dropout=0.5, embedding_units=6)
NUM_PATHS = 5


def _clips(*lengths, longest=12):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal([len(lengths), longest, NUM_PATHS]).astype("float32")
    for clip, length in zip(frames, lengths, strict=True):
        clip[length:] = features.PAD_VALUE
    return frames


def _tagger(readout="all", seed=0, num_dims=0, **changes):
    sizes = params.Model(**{**vars(SIZES), "readout": readout, **changes})
    return networks.tagger(sizes, NUM_PATHS, 4, num_vector_dims=num_dims, seed=seed)


@pytest.mark.parametrize("readout", params.READOUTS)
def test_scores_depend_neither_on_padding_nor_on_the_batch(readout):
    network = _tagger(readout, num_dims=2)
    clips = _clips(12, 7, 3)
    together = network(clips)
    for clip, length, score in zip(clips, (12, 7, 3), together, strict=True):
        np.testing.assert_allclose(network(clip[None])[0], score, atol=1e-6)
        np.testing.assert_allclose(network(clip[None, :length])[0], score, atol=1e-6)


def _vectors(network, clips):
    """What the layer after the read-out reads."""
    layer = network.get_layer(networks.EMBEDDING)
    return keras.Model(network.inputs[0], layer.input)(clips).numpy()


def test_the_means_of_the_input_and_of_every_layer_are_read():
    network, clips = _tagger("all"), _clips(12, 5)
    layers = [network.get_layer(f"gru_{number}").output for number in (1, 2, 3)]
    mean, variance = np.linspace(-1, 1, NUM_PATHS), np.full(NUM_PATHS, 4.0)
    networks.standardize(network, mean, variance)
    outputs = [(clips - mean) / 2, *keras.Model(network.input, layers)(clips)]
    joined = [
        np.concatenate([np.mean(y[clip, :length], axis=0) for y in outputs])
        for clip, length in enumerate((12, 5))
    ]
    np.testing.assert_allclose(_vectors(network, clips), joined, atol=1e-6)


def test_the_state_after_the_last_valid_frame_is_read():
    network, clips = _tagger("last"), _clips(12, 5)
    layer, below = network.get_layer("gru_3"), network.get_layer("dropout_2").output
    states = gru.GRU(SIZES.num_units, return_sequences=True)
    states.build((None, None, SIZES.num_units))
    states.set_weights(layer.get_weights())
    every = states(keras.Model(network.inputs[0], below)(clips)).numpy()
    expected = every[[0, 1], [11, 4]]
    np.testing.assert_allclose(_vectors(network, clips), expected, atol=1e-6)


@pytest.mark.parametrize("readout", params.READOUTS)
@pytest.mark.parametrize("cell", params.CELLS)
def test_networks_of_every_cell_are_saved_and_restored(tmp_path, readout, cell):
    network, clips = _tagger(readout, cell=cell, num_dims=2), _clips(12, 5)
    networks.save(network, tmp_path / "model.keras")
    again = networks.load(tmp_path / "model.keras")
    np.testing.assert_allclose(again(clips), network(clips), atol=1e-6)
    np.testing.assert_allclose(network(clips[1:, :5])[0], again(clips)[1], atol=1e-6)


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


def test_full_size_is_five_layers_of_512_and_an_embedding_of_256():
    network = networks.tagger(params.Model(), 643, 188)
    grus = [layer for layer in network.layers if isinstance(layer, gru.GRU)]
    assert [layer.units for layer in grus] == [512] * 5
    assert networks.embedder(network).output_shape == (None, 256)
    assert network.output_shape == (None, 188)


@pytest.mark.parametrize("readout", params.READOUTS)
def test_target_vectors_follow_the_probabilities_and_are_linear(readout):
    network, clips = _tagger(readout, num_dims=3), _clips(12, 5)
    outputs = network(clips).numpy()
    assert outputs.shape == (2, 4 + 3)
    vector = networks.embedder(network)(clips).numpy()
    kernel, bias = network.get_layer(networks.VECTORS).get_weights()
    np.testing.assert_allclose(outputs[:, 4:], vector @ kernel + bias, atol=1e-6)
    scores = networks.without_vectors(network)(clips)
    np.testing.assert_array_equal(scores, outputs[:, :4])


@pytest.mark.parametrize("readout", params.READOUTS)
@pytest.mark.parametrize("units", [0, 6])
def test_the_embedding_is_what_the_head_reads(readout, units):
    network, clips = _tagger(readout, embedding_units=units), _clips(12, 5)
    vector = networks.embedder(network)(clips).numpy()
    kernel, bias = network.get_layer(networks.HEAD).get_weights()
    scores = 1 / (1 + np.exp(-(vector @ kernel + bias)))
    np.testing.assert_allclose(scores, network(clips), atol=1e-6)
    assert (networks.EMBEDDING in {x.name for x in network.layers}) == (units > 0)


def test_a_head_with_prior_gives_the_mean_of_each_tag_to_what_has_no_input():
    network, means = _tagger(), np.array([0.25, 0.5, 0.0, np.nan])
    networks.set_prior(network, means)
    kernel, bias = network.get_layer(networks.HEAD).get_weights()
    found = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.002, 0.002], rtol=1e-5)
    assert np.ptp(kernel) > 0


def test_the_mean_is_that_of_the_statistics():
    network, mean = _tagger(), np.arange(NUM_PATHS)
    networks.standardize(network, mean, np.ones(NUM_PATHS))
    np.testing.assert_array_equal(networks.mean(network), mean)


def test_half_precision_rounds_every_weight_of_a_copy():
    network = _tagger(num_dims=2)
    before = network.get_weights()
    copy = networks.to_half(network)
    for half, full, was in zip(
        copy.get_weights(), network.get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(half, full.astype(np.float16))
        np.testing.assert_array_equal(full, was)
    assert any(np.any(x != y) for x, y in zip(copy.get_weights(), before, strict=True))


def _gaussian(num_centres=3):
    layer = networks.Gaussian(num_centres, name="similarity")
    layer.build((None, NUM_PATHS))
    centres = np.random.default_rng(1).normal(size=[NUM_PATHS, num_centres])
    layer.set_weights([centres])
    return layer, centres.T


def test_similarities_are_the_gaussian_kernel_of_scikit_learn():
    layer, centres = _gaussian()
    points = np.random.default_rng(2).normal(size=[6, NUM_PATHS]).astype("float32")
    expected = pairwise.rbf_kernel(points, centres, gamma=1)
    np.testing.assert_allclose(layer(points), expected, atol=1e-6)
    batches = tf.data.Dataset.from_tensors(points).map(layer)
    np.testing.assert_allclose(next(iter(batches)), expected, atol=1e-6)


def test_the_similarity_to_a_centre_itself_is_one_and_never_more():
    layer, centres = _gaussian()
    layer.set_weights([1e3 * centres.T])
    found = layer(1e3 * centres.astype("float32")).numpy()
    assert found.max() <= 1 and np.isfinite(found).all()


def test_a_layer_of_similarities_is_restored_from_its_config():
    layer, _ = _gaussian(7)
    again = networks.Gaussian.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again.build((None, NUM_PATHS))
    assert again.centres.shape == (NUM_PATHS, 7)
    assert not again.trainable_weights


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = _tagger(seed=1), _tagger(seed=1), _tagger(seed=2)
    clips = _clips(12)
    np.testing.assert_array_equal(one(clips), same(clips))
    assert np.any(one(clips).numpy() != other(clips).numpy())


def test_an_unknown_choice_is_refused():
    for name in ("readout", "cell"):
        with pytest.raises(ValueError, match=f"{name}='max': choose one of"):
            _tagger(**{name: "max"})


def _standardizer(num_paths):
    layer = networks.Standardize(name="standardize")
    return keras.Sequential([keras.Input((None, num_paths)), layer])


def test_standardisation_takes_out_mean_and_deviation():
    frames = 3 + 2 * np.random.default_rng(1).standard_normal([400, NUM_PATHS])
    network = _standardizer(NUM_PATHS)
    networks.standardize(network, frames.mean(axis=0), frames.var(axis=0))
    output = network(frames[None].astype("float32")).numpy()[0]
    np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(output.std(axis=0), 1, atol=1e-4)


def test_a_path_that_never_varies_is_not_amplified():
    network = _standardizer(1)
    networks.standardize(network, np.zeros(1), np.zeros(1))
    assert abs(float(network(np.full([1, 1, 1], 1e-3, "float32"))[0, 0, 0])) <= 1.001


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
    config = config.replace('"units": ', '"unheard_of": 1, "units": ')
    parts["config.json"] = config.encode()
    with zipfile.ZipFile(tmp_path / "newer.keras", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(ValueError, match=r"newer\.keras.*keras==3\.99\.0") as caught:
        networks.load(tmp_path / "newer.keras")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_network_of_cudnn_layers_is_saved_with_layers_that_run_anywhere(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        network = _tagger()
    network.trainable = False
    networks.save(network, tmp_path / "model.keras")
    copy = networks.load(tmp_path / "model.keras")
    np.testing.assert_allclose(copy(_clips(12, 5)), network(_clips(12, 5)), atol=1e-6)
    for number in (1, 2, 3):
        assert isinstance(network.get_layer(f"gru_{number}"), keras.layers.GRU)
        assert isinstance(copy.get_layer(f"gru_{number}"), gru.GRU)
    assert copy.trainable_weights


def test_a_calibrated_network_gives_calibrated_scores_of_the_plain_one(tmp_path):
    frames = np.random.default_rng(0).normal(size=[6, 20, NUM_PATHS])
    plain = networks.classifier(SIZES, NUM_PATHS, 4, seed=1)
    head = plain.get_layer(networks.HEAD)
    head.set_weights([9 * head.get_weights()[0], np.arange(4.0)])
    path = tmp_path / "x.keras"
    networks.save(networks.calibrated(plain, 0.8), path)
    rows = np.arange(6)
    found = calibration.OutOfFold(np.log(plain(frames)), rows, rows + 1, rows)
    expected = calibration.calibrated(found, 0.8)
    np.testing.assert_allclose(networks.load(path)(frames), expected, atol=1e-5)
    assert np.abs(expected - plain(frames)).max() > 0.02
