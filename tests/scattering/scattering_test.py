"""Compares with kymatio in double precision and without inner subsampling."""

import functools
import math

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from kymatio.numpy import Scattering1D as Kymatio
from kymatio.scattering1d import filter_bank

from genre_tl import features, params, scattering
from genre_tl.scattering import planning, wavelets

# J, Q, T, samples: with room to mirror and without, T above and below 2^J.
CASES = [
    (6, 1, None, 4096),
    (8, 8, None, 2**14),
    (8, 8, None, 15_000),
    (9, (8, 2), 300, 10_001),
    (7, 4, 64, 5_000),
    (10, 2, None, 2048),
    (9, 8, 1024, 20_001),
    (9, 1, None, 20_000),
]


def _signals(num_samples):
    rng = np.random.default_rng(0)
    time = np.arange(num_samples)
    impulse = np.zeros(num_samples)
    impulse[[3, num_samples // 2]] = 1
    return {
        "noise": rng.standard_normal(num_samples),
        "sine": np.sin(2 * np.pi * 0.031 * time),
        "chirp": np.sin(2 * np.pi * 0.2 * time**2 / num_samples),
        "impulse": impulse,
        "beats": np.sin(0.3 * time) * (1 + np.sin(0.01 * time)) + 0.01 * rng.random(),
    }


@functools.cache
def _exact(J, Q, T, num_samples):
    kymatio = Kymatio(J=J, Q=Q, T=T, shape=num_samples, oversampling=20)
    hop = 2 ** int(math.log2(T or 2**J))
    return {name: kymatio(x)[:, ::hop] for name, x in _signals(num_samples).items()}


def _errors(ours, exact):
    # Relative to the path, or to a thousandth of the largest of its order.
    norms = np.linalg.norm(exact, axis=1)
    return np.linalg.norm(ours - exact, axis=1) / np.maximum(norms, 1e-3 * norms.max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("precision", "median", "worst"), [("standard", 3e-4, 5e-3), ("high", 1e-5, 1e-3)]
)
def test_every_path_equals_kymatio_without_subsampling(case, precision, median, worst):
    J, Q, T, num_samples = case
    layer = scattering.Scattering1D(J, Q, T, precision=precision)
    for name, exact in _exact(*case).items():
        signal = _signals(num_samples)[name]
        dtype = "float64" if precision == "high" else "float32"
        ours = layer(signal[None].astype(dtype))[0].numpy()
        errors = _errors(ours, exact[:, : ours.shape[1]])
        assert np.median(errors) < median, name
        assert errors.max() < worst, name


def test_real_music_has_the_stated_error(shared):
    path = sorted((shared / "data/gtzan/genres_original/jazz").glob("*.wav"))[0]
    signal, _ = soundfile.read(path, stop=2**16)
    exact = Kymatio(J=10, Q=8, shape=2**16, oversampling=10)(signal)[:, ::1024]
    ours = scattering.Scattering1D(10, 8)(signal[None].astype("float32"))[0].numpy()
    errors = np.linalg.norm(ours - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.median(errors) < 3e-4
    assert errors.max() < 5e-3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("max_order", [1, 2])
@pytest.mark.parametrize("oversampling", [0, 2])
def test_shape_and_meta_are_kymatios(case, max_order, oversampling):
    J, Q, T, num_samples = case
    arguments = {"J": J, "Q": Q, "T": T, "max_order": max_order}
    arguments["oversampling"] = oversampling
    kymatio = Kymatio(shape=num_samples, **arguments)
    layer = scattering.Scattering1D(**arguments)
    expected = kymatio(np.zeros([3, num_samples])).shape
    assert layer(np.zeros([3, num_samples], "float32")).shape == expected
    assert layer.compute_output_shape((3, num_samples)) == expected
    ours, theirs = layer.meta(), kymatio.meta()
    assert ours.pop("key") == theirs.pop("key")
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_oversampled_frames_lie_between_the_others():
    signal = _signals(2**13)["noise"][None].astype("float32")
    coarse = scattering.Scattering1D(8, 4)(signal)
    fine = scattering.Scattering1D(8, 4, oversampling=2)(signal)
    np.testing.assert_allclose(fine[..., ::4], coarse, rtol=1e-4, atol=1e-7)


def test_released_kymatio_is_off_by_a_power_of_two():
    # Its first order is averaged where it should be summed, once for each halving.
    num_samples, J = 2**14, 8
    signal = _signals(num_samples)["noise"]
    released = Kymatio(J=J, Q=8, shape=num_samples)
    meta = released.meta()
    first = meta["order"] == 1
    exact = _exact(J, 8, None, num_samples)["noise"]
    theirs = released(signal)[first]
    ratio = np.median(theirs / exact[first, : theirs.shape[1]], axis=1)
    expected = 2.0 ** -meta["j"][first, 0]
    np.testing.assert_allclose(ratio, expected, rtol=0.05)


def _music(num_samples=2**14):
    signals = _signals(num_samples)
    return (0.3 * signals["beats"] + 0.05 * signals["noise"]).astype("float32")[None]


def test_a_shift_by_one_frame_moves_the_frames_by_one():
    layer = scattering.Scattering1D(7, 4)
    signal = np.zeros([1, 2**13], "float32")
    signal[:, 3000:5000] = _music()[:, :2000]
    moved = np.roll(signal, 128, axis=1)
    np.testing.assert_allclose(
        layer(moved)[..., 1:], layer(signal)[..., :-1], atol=1e-5
    )


def test_the_transform_does_not_expand():
    layer = scattering.Scattering1D(8, 8)
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal([2, 1, 2**14]).astype("float32")
    distance = np.linalg.norm(layer(one) - layer(other)) * math.sqrt(2**8)
    assert distance <= np.linalg.norm(one - other)


def test_energy_stays_within_that_of_the_signal():
    layer = scattering.Scattering1D(8, 8)
    signal = np.random.default_rng(2).standard_normal([1, 2**14]).astype("float32")
    energy = np.sum(np.square(layer(signal))) * 2**8
    assert 0.1 * np.sum(signal**2) < energy <= np.sum(signal**2)


def test_silence_gives_zeros():
    assert not np.any(scattering.Scattering1D(8, 8)(np.zeros([2, 2**13], "float32")))


def test_gain_scales_linearly():
    layer = scattering.Scattering1D(8, 8)
    loud = layer(3.0 * _music())
    np.testing.assert_allclose(loud, 3.0 * layer(_music()), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("length", [2**10, 2**12, 3 * 2**13])
def test_wavelets_are_kymatios(length):
    times = np.fft.fftshift(np.arange(length) - length // 2)
    for bank in wavelets.Transform(8, 4, None, 2, 0).banks():
        for xi, sigma in zip(bank.xi, bank.sigma, strict=True):
            # A wavelet that is longer than the circle goes round it.
            turns = [times + turn * length for turn in range(-4, 5)]
            ours = sum(wavelets.morlet(xi, sigma, t, length) for t in turns)
            theirs = filter_bank.morlet_1d(length, xi, sigma)
            np.testing.assert_allclose(np.fft.fft(ours), theirs, atol=1e-5)


def test_filters_are_small():
    plan = planning.plan(wavelets.Transform(13, 8, None, 2, 0), 480_000, "standard")
    groups = plan.first + plan.second
    kernels = [group.filters.kernel for group in groups]
    kernels += [*plan.halvings.values(), *plan.moments.values(), plan.spread]
    assert sum(4 * kernel.size for kernel in kernels) < 4e6


def test_halving_keeps_what_it_promises_and_nothing_else():
    planner = planning._Planner(
        wavelets.Transform(8, 8, None, 2, 0), 2**13, planning.SAMPLING["standard"]
    )
    kernel = planner._halving(256)
    for phase in (0, kernel.shape[2] - 1):
        taps = kernel[..., phase].ravel()
        gain = np.abs(np.fft.rfft(taps, 2**14))
        frequency = np.fft.rfftfreq(2**14)
        np.testing.assert_allclose(gain[frequency < 0.4 / 2], 1, atol=3e-5)
        np.testing.assert_allclose(gain[frequency > 0.6 / 2], 0, atol=3e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_map_give_what_eager_gives(jit_compile):
    layer = scattering.Scattering1D(7, 4)
    batch = np.concatenate([_music(2**12), 0.5 * _music(2**12)[:, ::-1]])
    eager = layer(batch)
    graph = tf.function(layer, jit_compile=jit_compile)
    np.testing.assert_allclose(graph(batch), eager, rtol=1e-4, atol=1e-6)
    mapped = tf.data.Dataset.from_tensors(batch).map(layer)
    np.testing.assert_allclose(next(iter(mapped)), eager, rtol=1e-4, atol=1e-6)


def test_leading_axes_are_kept():
    layer = scattering.Scattering1D(6, 2)
    stereo = np.stack([_music(2**11), 2 * _music(2**11)], axis=1)
    assert stereo.shape == (1, 2, 2**11)
    np.testing.assert_allclose(layer(stereo)[:, 1], 2 * layer(stereo)[:, 0], rtol=1e-4)


def test_gradient_is_that_of_finite_differences():
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


def test_a_clip_alone_gives_what_it_gives_in_a_batch():
    layer = scattering.Scattering1D(7, 4)
    signal = _music(4096)
    batch = np.concatenate([signal, signal[:, ::-1], 0 * signal])
    alone = layer(tf.ensure_shape(signal, [1, 4096]))
    np.testing.assert_allclose(layer(batch)[:1], alone, rtol=1e-5, atol=1e-8)


def test_config_and_file_bring_back_the_same_layer(tmp_path):
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
    signal = _music(3000)
    np.testing.assert_array_equal(again(signal), model(signal))


def test_saved_model_gives_the_same(tmp_path):
    layer = scattering.Scattering1D(7, 4)
    module = tf.Module()
    module.call = tf.function(layer, [tf.TensorSpec([None, 4096], tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    again = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(again.call(_music(4096)), layer(_music(4096)), rtol=1e-5)


def test_half_precision_policy_computes_in_single_precision():
    layer = scattering.Scattering1D(7, 4, dtype="mixed_bfloat16")
    output = layer(_music(4096))
    assert output.dtype == tf.bfloat16
    exact = scattering.Scattering1D(7, 4)(_music(4096))
    np.testing.assert_allclose(tf.cast(output, tf.float32), exact, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"J": 0}, "J must"),
        ({"J": 5, "Q": 0}, "Q must"),
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


TINY = params.PRESETS["tiny"].frontend


def _frames(waveform):
    return features.LogScattering.from_params(TINY)(waveform).numpy()


def test_what_follows_the_clip_is_masked_and_has_no_effect():
    clip = _music(TINY.segment_samples)
    clip[:, 10_000:] = 0
    frames = _frames(clip)
    num_frames = TINY.num_frames(10_000)
    assert np.all(frames[:, num_frames:] == features.PAD_VALUE)
    # As if the clip were mirrored at its last sample, not followed by silence.
    mirrored = clip.copy()
    mirrored[:, 10_000:19_999] = clip[:, 9_998::-1]
    mirrored[:, 19_999:29_997] = clip[:, 1:9_999]
    mirrored[:, 29_997:] = clip[:, 9_998 : 9_998 - (mirrored.shape[1] - 29_997) : -1]
    np.testing.assert_allclose(
        frames[:, :num_frames], _frames(mirrored)[:, :num_frames], atol=1e-4
    )


def test_silence_is_one_frame_of_finite_values():
    frames = _frames(np.zeros([1, TINY.segment_samples], "float32"))
    assert np.all(np.isfinite(frames))
    np.testing.assert_array_equal(
        np.all(frames[0] == features.PAD_VALUE, axis=1),
        [False] + [True] * (TINY.segment_frames - 1),
    )


def test_log_features_are_the_logarithms_of_the_coefficients():
    clip = _music(TINY.segment_samples)
    coefficients = scattering.Scattering1D(TINY.J, TINY.Q)(clip).numpy()[0]
    meta = scattering.Scattering1D(TINY.J, TINY.Q).meta()
    logs = np.log(coefficients + TINY.log_floor)
    frames = _frames(clip)[0].T
    num_first = np.sum(meta["order"] == 1)
    np.testing.assert_allclose(frames[:num_first], logs[1 : 1 + num_first], atol=1e-4)
    parents = logs[1 + meta["n"][1 + num_first :, 0].astype(int)]
    np.testing.assert_allclose(
        frames[num_first:], logs[1 + num_first :] - parents, atol=1e-4
    )


def test_second_order_does_not_depend_on_loudness():
    clip = _music(TINY.segment_samples)
    meta = scattering.Scattering1D(TINY.J, TINY.Q).meta()
    second = meta["order"][1:] == 2
    loud, soft = _frames(1000 * clip)[..., second], _frames(100 * clip)[..., second]
    np.testing.assert_allclose(loud, soft, atol=2e-2)


def test_features_come_back_from_their_config():
    layer = features.LogScattering(J=7, Q=3, max_order=1, log_floor=1e-3)
    again = features.LogScattering.from_config(layer.get_config())
    np.testing.assert_array_equal(again(_music(4096)), layer(_music(4096)))
