import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from kymatio.scattering1d import filter_bank

from genre_tl.scattering import wavelets


@pytest.mark.parametrize("length", [2**10, 2**12, 3 * 2**13])
def test_wavelets_are_kymatios(length):
    times = np.fft.fftshift(np.arange(length) - length // 2)
    for bank in wavelets.transform(8, 4, None, 2, 0).banks():
        for xi, sigma in zip(bank.xi, bank.sigma, strict=True):
            # A wavelet that is longer than the circle wraps around it.
            turns = [times + turn * length for turn in range(-4, 5)]
            ours = sum(wavelets.morlet(xi, sigma, t, length) for t in turns)
            theirs = filter_bank.morlet_1d(length, xi, sigma)
            np.testing.assert_allclose(np.fft.fft(ours), theirs, atol=1e-5)


def test_names_that_scipy_1_17_removed_are_not_needed(root):
    program = """
import scipy.special
vars(scipy.special).pop("sph_harm", None)
from genre_tl import scattering
from support import kymatio_reference
"""
    paths = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    subprocess.run([sys.executable, "-c", program], check=True, env=paths)


def test_kymatio_needs_single_modules_imported_as_long_as_it_uses_sph_harm():
    # Once this fails with current SciPy, kymatio is mended: `kymatio.numpy` and
    # `kymatio.tensorflow` can be imported here, in wavelets.py and in the benchmarks.
    command = [sys.executable, "-c", "import kymatio.numpy"]
    done = subprocess.run(command, capture_output=True, text=True)
    loads = hasattr(scipy.special, "sph_harm")  # until SciPy 1.17
    assert (done.returncode == 0) == loads, done.stderr
    assert loads or "sph_harm" in done.stderr
