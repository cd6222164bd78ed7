import keras
import numpy as np
import pytest

from genre_tl import models, params, scattering

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
    return models.tagger(sizes, NUM_PATHS, 4, seed=seed)


@pytest.mark.parametrize("readout", ["mean", "last"])
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


def test_full_size_is_five_layers_of_512():
    network = models.tagger(params.Model(), 643, 188)
    grus = [layer for layer in network.layers if isinstance(layer, keras.layers.GRU)]
    assert [layer.units for layer in grus] == [512] * 5
    assert network.output_shape == (None, 188)


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = _tagger(seed=1), _tagger(seed=1), _tagger(seed=2)
    clips = _clips(12)
    np.testing.assert_array_equal(one(clips), same(clips))
    assert np.any(one(clips).numpy() != other(clips).numpy())


def test_swapping_the_head_keeps_the_backbone():
    network = _tagger()
    before = [w.copy() for w in network.get_weights()[:-2]]
    classifier = models.swap_head(network, 3)
    for old, new in zip(before, classifier.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(old, new)
    scores = classifier(_clips(12, 4)).numpy()
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="head"):
        models.swap_head(models.backbone(SIZES, NUM_PATHS), 3)


def test_an_unknown_read_out_is_refused():
    with pytest.raises(ValueError, match="readout"):
        _tagger("max")


def test_standardisation_takes_out_mean_and_deviation():
    frames = 3 + 2 * np.random.default_rng(1).standard_normal([400, NUM_PATHS])
    layer = models.Standardize()
    layer.build((None, None, NUM_PATHS))
    layer.set_statistics(frames.mean(axis=0), frames.var(axis=0))
    output = layer(frames[None].astype("float32")).numpy()[0]
    np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(output.std(axis=0), 1, atol=1e-4)


def test_a_path_that_never_varies_is_not_amplified():
    layer = models.Standardize()
    layer.build((None, None, 1))
    layer.set_statistics(np.zeros(1), np.zeros(1))
    assert abs(float(layer(np.full([1, 1, 1], 1e-3, "float32"))[0, 0, 0])) <= 1.001


def test_a_file_brings_back_the_same_model(tmp_path):
    network = _tagger()
    network.get_layer("standardize").set_statistics(
        np.arange(NUM_PATHS), np.ones(NUM_PATHS)
    )
    models.save(network, tmp_path / "model.keras")
    again = models.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(_clips(12, 5)), network(_clips(12, 5)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_compiled_model_comes_back_with_its_optimizer(tmp_path):
    network = _tagger()
    network.compile("adam", "binary_crossentropy")
    network.train_on_batch(_clips(12, 5), np.zeros([2, 4]))
    models.save(network, tmp_path / "model.keras")
    again = models.load(tmp_path / "model.keras", compiled=True)
    assert int(again.optimizer.iterations) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.keras"):
        models.load(tmp_path / "absent.keras")


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_damaged_file_is_named(tmp_path, size):
    models.save(_tagger(), tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"model\.keras: not a complete"):
        models.load(tmp_path / "model.keras")


def test_reseeding_repeats_dropout():
    network = _tagger()
    clips = _clips(12)

    def dropped(seed):
        models.reseed(network, seed)
        return network(clips, training=True).numpy()

    np.testing.assert_array_equal(dropped(1), dropped(1))
    assert np.any(dropped(1) != dropped(2))


def test_the_portable_copy_scores_alike_and_never_uses_cudnn():
    network = _tagger()
    copy = models.portable(network)
    np.testing.assert_allclose(copy(_clips(12, 5)), network(_clips(12, 5)), atol=1e-6)
    for layer in copy.layers:
        if isinstance(layer, keras.layers.GRU):
            assert layer.use_cudnn is False
