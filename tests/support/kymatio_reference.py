"""kymatio in double precision and without inner subsampling, to compare with."""

import functools
import math

import numpy as np
from kymatio.scattering1d.frontend.numpy_frontend import ScatteringNumPy1D


def signals(num_samples):
    """Returns signals `[samples]` of different kinds, by name."""
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


def music(num_samples=2**14):
    """Returns a signal `[1, samples]` of beats and noise, float32."""
    named = signals(num_samples)
    return (0.3 * named["beats"] + 0.05 * named["noise"]).astype("float32")[None]


def released(num_samples, **arguments):
    """Returns kymatio's transform as released."""
    return ScatteringNumPy1D(shape=num_samples, **arguments)


def exact(signal, *, J, Q=1, T=None, max_order=2, oversampling=0):
    """Returns the coefficients `[paths, frames]` without inner subsampling.

    kymatio 0.3.0 loses a factor of two per octave that it subsamples; with as much
    oversampling as there are octaves it subsamples nothing.
    """
    transform = _exact_transform(len(signal), J, Q, T, max_order)
    hop_log2 = int(math.log2(T or 2**J))
    return transform(signal)[:, :: 2 ** max(hop_log2 - oversampling, 0)]


@functools.lru_cache(maxsize=1)
def _exact_transform(num_samples, J, Q, T, max_order):
    arguments = {"J": J, "Q": Q, "T": T, "max_order": max_order}
    return released(num_samples, oversampling=20, **arguments)


def errors(ours, expected):
    """Returns the relative error of each path.

    Relative to the path, or to a thousandth of the strongest path if it is weaker.
    """
    norms = np.linalg.norm(expected, axis=1)
    difference = np.linalg.norm(ours - expected, axis=1)
    return difference / np.maximum(norms, 1e-3 * norms.max())
