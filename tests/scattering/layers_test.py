import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import kymatio_reference as reference

from genre_tl import scattering


def test_oversampled_frames_lie_between_the_others():
    signal = reference.signals(2**13)["noise"][None].astype("float32")
    coarse = scattering.Scattering1D(8, 4)(signal)
    fine = scattering.Scattering1D(8, 4, oversampling=2)(signal)
    np.testing.assert_allclose(fine[..., ::4], coarse, rtol=1e-4, atol=1e-7)


def test_a_shift_by_one_frame_moves_the_frames_by_one():
    layer = scattering.Scattering1D(7, 4)
    signal = np.zeros([1, 2**13], "float32")
    signal[:, 3000:5000] = reference.music()[:, :2000]
    moved = np.roll(signal, 128, axis=1)
    np.testing.assert_allclose(
        layer(moved)[..., 1:], layer(signal)[..., :-1], atol=1e-5
    )


def test_the_transform_is_non_expansive():
    layer = scattering.Scattering1D(8, 8)
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal([2, 1, 2**14]).astype("float32")
    distance = np.linalg.norm(layer(one) - layer(other)) * math.sqrt(2**8)
    assert distance <= np.linalg.norm(one - other)


def test_energy_is_at_most_that_of_the_signal():
    layer = scattering.Scattering1D(8, 8)
    signal = np.random.default_rng(2).standard_normal([1, 2**14]).astype("float32")
    energy = np.sum(np.square(layer(signal))) * 2**8
    assert 0.1 * np.sum(signal**2) < energy <= np.sum(signal**2)


def test_silence_gives_zeros():
    assert not np.any(scattering.Scattering1D(8, 8)(np.zeros([2, 2**13], "float32")))


def test_gain_scales_linearly():
    layer = scattering.Scattering1D(8, 8)
    loud = layer(3.0 * reference.music())
    np.testing.assert_allclose(
        loud, 3.0 * layer(reference.music()), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_dataset_map_equal_eager(jit_compile):
    layer = scattering.Scattering1D(7, 4)
    batch = np.concatenate(
        [reference.music(2**12), 0.5 * reference.music(2**12)[:, ::-1]]
    )
    eager = layer(batch)
    graph = tf.function(layer, jit_compile=jit_compile)
    np.testing.assert_allclose(graph(batch), eager, rtol=1e-4, atol=1e-6)
    mapped = tf.data.Dataset.from_tensors(batch).map(layer)
    np.testing.assert_allclose(next(iter(mapped)), eager, rtol=1e-4, atol=1e-6)


def test_leading_axes_are_preserved():
    layer = scattering.Scattering1D(6, 2)
    stereo = np.stack([reference.music(2**11), 2 * reference.music(2**11)], axis=1)
    assert stereo.shape == (1, 2, 2**11)
    np.testing.assert_allclose(layer(stereo)[:, 1], 2 * layer(stereo)[:, 0], rtol=1e-4)


def test_gradient_equals_finite_differences():
    layer = scattering.Scattering1D(5, 2, precision="high", dtype="float64")
    rng = np.random.default_rng(3)
    signal = tf.constant(rng.standard_normal([1, 256]))
    direction = rng.standard_normal([1, 256])
    with tf.GradientTape() as tape:
        tape.watch(signal)
        total = tf.reduce_sum(tf.square(layer(signal)))
    along = np.sum(tape.gradient(total, signal) * direction)

    def at(step):
        return float(tf.reduce_sum(tf.square(layer(signal + step * direction))))

    assert along == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-4)


def test_gradient_of_silence_is_finite():
    layer = scattering.Scattering1D(6, 2)
    signal = tf.zeros([1, 1024])
    with tf.GradientTape() as tape:
        tape.watch(signal)
        total = tf.reduce_sum(layer(signal))
    assert np.all(np.isfinite(tape.gradient(total, signal)))


def test_a_clip_has_the_same_coefficients_alone_and_in_a_batch():
    layer = scattering.Scattering1D(7, 4)
    signal = reference.music(4096)
    batch = np.concatenate([signal, signal[:, ::-1], 0 * signal])
    alone = layer(tf.ensure_shape(signal, [1, 4096]))
    np.testing.assert_allclose(layer(batch)[:1], alone, rtol=1e-5, atol=1e-8)


def test_config_and_keras_file_restore_the_layer(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3000,)),
            scattering.Scattering1D(
                7, (4, 2), T=100, max_order=2, oversampling=1, precision="high"
            ),
        ]
    )
    path = tmp_path / "layer.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert again.layers[-1].get_config() == model.layers[-1].get_config()
    signal = reference.music(3000)
    np.testing.assert_array_equal(again(signal), model(signal))


def test_saved_model_restores_the_layer(tmp_path):
    layer = scattering.Scattering1D(7, 4)
    module = tf.Module()
    module.call = tf.function(layer, [tf.TensorSpec([None, 4096], tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    again = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        again.call(reference.music(4096)), layer(reference.music(4096)), rtol=1e-5
    )


def test_mixed_precision_computes_in_single_precision():
    layer = scattering.Scattering1D(7, 4, dtype="mixed_bfloat16")
    output = layer(reference.music(4096))
    assert output.dtype == tf.bfloat16
    exact = scattering.Scattering1D(7, 4)(reference.music(4096))
    np.testing.assert_allclose(tf.cast(output, tf.float32), exact, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"J": 0}, "J must"),
        ({"J": 5, "Q": 0}, "Q must"),
        ({"J": 5, "Q": 0.9}, "Q must be an integer >= 1, or a pair of them, got 0.9"),
        ({"J": 5, "Q": (8, 1, 1)}, "Q must have one or two values"),
        ({"J": 5, "Q": (8, 0)}, "Q must"),
        ({"J": 5, "T": 0}, "T must"),
        ({"J": 5, "max_order": 3}, "max_order must"),
        ({"J": 5, "oversampling": -1}, "oversampling must"),
        ({"J": 5, "precision": "exact"}, "precision must"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        scattering.Scattering1D(**arguments)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros([2, 4096], "int16"), "floating-point"),
        (np.zeros([2, 4096], "complex64"), "floating-point"),
        (np.zeros([4096], "float32"), "batch axis"),
        (np.zeros([2, 100], "float32"), "100 samples"),
    ],
)
def test_bad_inputs_are_named(inputs, words):
    with pytest.raises(ValueError, match=words):
        scattering.Scattering1D(8, 2)(inputs)


def test_another_length_than_built_for_is_refused_with_both_lengths():
    layer = scattering.Scattering1D(6, 2)
    layer(reference.music(4096))
    with pytest.raises(ValueError, match="4096.*4000"):
        layer(reference.music(4000))


def test_numpy_integers_are_accepted_and_saved(tmp_path):
    J, Q, T, oversampling = np.array([7, 4, 100, 1])
    layer = scattering.Scattering1D(J, Q, T, oversampling=oversampling)
    expected = scattering.Scattering1D(7, 4, 100, oversampling=1)(reference.music(3000))
    np.testing.assert_array_equal(layer(reference.music(3000)), expected)
    keras.Sequential([keras.Input((3000,)), layer]).save(tmp_path / "layer.keras")
    again = keras.saving.load_model(tmp_path / "layer.keras")
    np.testing.assert_array_equal(again(reference.music(3000)), expected)


def test_an_eager_call_prints_no_warning(caplog, monkeypatch):
    logger = logging.getLogger("tensorflow")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING, "tensorflow"):
        scattering.Scattering1D(6, 2)(np.zeros([2, 1024], "float32"))
    assert not caplog.records


def test_products_have_all_bits_of_float32_on_a_gpu():
    # On by default, it would multiply the error by 16; a GPU shows it, a CPU does not.
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
