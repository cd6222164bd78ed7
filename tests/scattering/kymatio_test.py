"""Compares with kymatio in double precision and without inner subsampling."""

import itertools

import numpy as np
import pytest
import soundfile
from support import kymatio_reference as reference

from genre_tl import scattering

# Bounds of the median and of the largest error of a path.
BOUNDS = {"standard": (3e-4, 5e-3), "high": (1e-5, 1e-3)}
# J, Q, T, samples: with and without room to reflect, T below and above 2^J.
CASES = [
    (1, 1, None, 1000),
    (5, 3, 1, 700),
    (3, 1, 256, 1000),
    (7, 1, 700, 3000),
    (6, 1, None, 4096),
    (8, 8, None, 2**14),
    (8, 8, None, 15_000),
    (9, (8, 2), 300, 10_001),
    (7, 4, 64, 5_000),
    (10, 2, None, 2048),
    (9, 8, 1024, 20_001),
    (9, 1, None, 20_000),
]
GRID = itertools.product(
    (1, 2, 3, 5, 7),
    (1, 3, 8, (4, 2), (1, 3)),
    (None, 1, 5, 33, 128, 700),
    ((2, 0), (1, 3)),
)


def check(signal, **arguments):
    exact = reference.exact(signal, **arguments)
    for precision, (median, largest) in BOUNDS.items():
        layer = scattering.Scattering1D(precision=precision, **arguments)
        dtype = "float64" if precision == "high" else "float32"
        ours = layer(signal[None].astype(dtype))[0].numpy()
        errors = reference.errors(ours, exact[:, : ours.shape[1]])
        assert np.median(errors) < median, (precision, arguments)
        assert errors.max() < largest, (precision, arguments)
    return ours.shape


@pytest.mark.parametrize("case", CASES)
def test_every_path_equals_kymatio_without_subsampling(case):
    J, Q, T, num_samples = case
    for signal in reference.signals(num_samples).values():
        check(signal, J=J, Q=Q, T=T)


@pytest.mark.slow
def test_every_valid_setting_has_kymatios_shape_and_values():
    signal = reference.signals(1000)["noise"]
    num_compared = 0
    for J, Q, T, (max_order, oversampling) in GRID:
        arguments = {"J": J, "Q": Q, "T": T, "max_order": max_order}
        arguments["oversampling"] = oversampling
        try:
            shape = reference.released(1000, **arguments)(signal).shape
        except AssertionError:  # kymatio finds its own filters unstable
            continue
        assert check(signal, **arguments) == shape, arguments
        num_compared += 1
    assert num_compared >= 200


def test_the_error_on_real_music_is_as_stated(shared):
    path = sorted((shared / "data/gtzan/genres_original/jazz").glob("*.wav"))[0]
    signal, _ = soundfile.read(path, stop=2**16)
    exact = reference.exact(signal, J=10, Q=8)
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
    kymatio = reference.released(num_samples, **arguments)
    layer = scattering.Scattering1D(**arguments)
    expected = kymatio(np.zeros([3, num_samples])).shape
    assert layer(np.zeros([3, num_samples], "float32")).shape == expected
    assert layer.compute_output_shape((3, num_samples)) == expected
    ours, theirs = layer.meta(), kymatio.meta()
    assert ours.pop("key") == theirs.pop("key")
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_released_kymatio_is_off_by_a_power_of_two():
    # Its first order is averaged where it should be summed, once per halving.
    signal = reference.signals(2**14)["noise"]
    released = reference.released(2**14, J=8, Q=8)
    first = released.meta()["order"] == 1
    theirs = released(signal)[first]
    exact = reference.exact(signal, J=8, Q=8)[first, : theirs.shape[1]]
    expected = 2.0 ** -released.meta()["j"][first, 0]
    np.testing.assert_allclose(np.median(theirs / exact, axis=1), expected, rtol=0.05)
