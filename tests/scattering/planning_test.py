import numpy as np
import tensorflow as tf

from genre_tl.scattering import planning, wavelets


def test_the_constants_of_30_seconds_have_less_than_4_megabytes():
    plan = planning.Plan(wavelets.transform(13, 8, None, 2, 0), 480_000, "standard")
    sizes = [np.size(values) for values in tf.nest.flatten(plan.kernels)]
    assert 4 * sum(sizes) < 4e6


def test_halving_passes_the_lower_band_and_stops_the_upper():
    plan = planning.Plan(wavelets.transform(8, 8, None, 2, 0), 2**13, "standard")
    kernel = plan.kernels.halvings[256]
    for phase in (0, kernel.shape[2] - 1):
        taps = kernel[..., phase].ravel()
        gain = np.abs(np.fft.rfft(taps, 2**14))
        frequency = np.fft.rfftfreq(2**14)
        np.testing.assert_allclose(gain[frequency < 0.4 / 2], 1, atol=3e-5)
        np.testing.assert_allclose(gain[frequency > 0.6 / 2], 0, atol=3e-5)
