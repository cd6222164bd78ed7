"""kymatio's one-dimensional scattering transform: arguments, wavelets, paths, shapes.

Pure NumPy. `planning` turns the wavelets into convolutions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Only kymatio's one-dimensional modules load with SciPy 1.17: `import kymatio.numpy`
# needs scipy.special.sph_harm, which that version removed (kymatio issue 1068).
from kymatio.scattering1d import filter_bank
from kymatio.scattering1d.frontend import base_frontend

SIGMA0 = 0.1
"""Bandwidth of the low-pass, in cycles per averaging length."""

_ALPHA = 5.0  # tolerance to aliasing, as in kymatio


class Bank(NamedTuple):
    """Wavelets of one order, from high to low frequencies."""

    xi: np.ndarray  # centre frequencies, in cycles per sample
    sigma: np.ndarray  # bandwidths (standard deviations), in cycles per sample
    j: np.ndarray  # log2 of the scales; a second-order path leads to a larger one

    def part(self, chosen: Any) -> Bank:
        """Returns the wavelets at these positions."""
        return Bank(*(values[chosen] for values in self))


@dataclasses.dataclass(frozen=True)
class Transform:
    """The checked arguments of a scattering transform; see `transform`."""

    J: int  # log2 of the largest wavelet scale, in samples
    Q: tuple[int, int]  # wavelets per octave in the first and in the second order
    T: int  # averaging length, in samples
    max_order: int  # 1 or 2
    oversampling: int  # log2 of the factor by which there are more frames

    @property
    def hop(self) -> int:
        """Samples between frames, without oversampling: a power of two."""
        return 2 ** int(math.log2(self.T))

    @property
    def scale(self) -> int:
        """Largest scale of wavelets and low-pass, in samples."""
        return max(2**self.J, self.T)

    def banks(self) -> tuple[Bank, Bank]:
        """Returns the wavelets of the first and, those in use, of the second order."""
        sigma_min = SIGMA0 / 2**self.J
        parameters = filter_bank.compute_params_filterbank
        first, second = (
            Bank(*map(np.array, parameters(sigma_min, q, _ALPHA))) for q in self.Q
        )
        used = (second.j > first.j.min()) & (self.max_order == 2)
        return first, second.part(used)

    @functools.cache  # noqa: B019 - small, and takes long
    def _kymatio(self, num_samples: int) -> base_frontend.ScatteringBase1D:
        # Without filters, which take much longer.
        kymatio = base_frontend.ScatteringBase1D(
            self.J, num_samples, self.Q, self.T, self.max_order
        )
        with warnings.catch_warnings():
            # Clips that are short for the low-pass; see `border`.
            warnings.simplefilter("ignore")
            kymatio.build()
        return kymatio

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths."""
        return self._kymatio(self.scale).meta()

    def num_frames(self, num_samples: int) -> int:
        """Returns kymatio's number of frames, which depends on its padding."""
        kymatio = self._kymatio(num_samples)
        level = max(int(math.log2(self.T)) - self.oversampling, 0)
        return kymatio.ind_end[level] - kymatio.ind_start[level]

    def border(self, num_samples: int, margin: int) -> tuple[int, bool]:
        """Returns the number of hops to compute, and whether both ends reflect.

        A clip is extended beyond its end by `margin` times the largest scale. If it is
        too short for kymatio to do so, it lies on a circle as long as kymatio's, so
        that values that wrap around agree as well.
        """
        kymatio = self._kymatio(num_samples)
        padded = kymatio.pad_left + num_samples + kymatio.pad_right
        if padded < num_samples + 16 * self.scale:
            return padded // self.hop, False
        return math.ceil((num_samples + margin * self.scale) / self.hop), True


def transform(
    J: int, Q: int | Sequence[int], T: int | None, max_order: int, oversampling: int
) -> Transform:
    """Checks the arguments of kymatio's `Scattering1D`, or raises ValueError."""
    J = _integer("J", J, 1)
    orders = Q if isinstance(Q, (tuple, list)) else (Q,)
    if len(orders) not in (1, 2):
        raise ValueError(f"Q must have one or two values, got {Q!r}")
    first, second, *_ = (
        _integer("Q", q, 1, ", or a pair of them") for q in (*orders, 1)
    )
    samples = 2**J if T is None else _integer("T", T, 1, ", or None")
    if max_order not in (1, 2):
        raise ValueError(f"max_order must be 1 or 2, got {max_order!r}")
    oversampling = _integer("oversampling", oversampling, 0)
    return Transform(J, (first, second), samples, int(max_order), oversampling)


def _integer(name: str, value: Any, least: int, or_else: str = "") -> int:
    try:
        number = operator.index(value)  # accepts NumPy integers
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(
            f"{name} must be an integer >= {least}{or_else}, got {value!r}"
        )
    return number


def morlet(xi: float, sigma: float, times: np.ndarray, length: int) -> np.ndarray:
    """Returns the impulse response of a wavelet of kymatio, complex128 at `times`.

    Centre frequency `xi` and bandwidth `sigma` are in cycles per sample, `times` in
    samples, not only integers. Its L1 norm is 1 on a circle of `length` samples.
    """
    images = np.arange(-2, 3)
    correction = np.sum(np.exp(-0.5 * ((images - xi) / sigma) ** 2))
    correction /= np.sum(np.exp(-0.5 * (images / sigma) ** 2))

    def wavelet(times: np.ndarray) -> np.ndarray:
        envelope = np.exp(-2 * (np.pi * sigma * times) ** 2)
        return envelope * (np.exp(2j * np.pi * xi * times) - correction)

    # Sum the modulus on a grid just fine enough, in steps that divide the circle.
    step = 1
    while 128 * (xi + sigma) * step < 1 and length % (2 * step) == 0:
        step *= 2
    count = math.ceil(7 / (2 * math.pi * sigma) / step)
    grid = np.arange(-count, count + 1)
    circle = np.zeros(length // step, complex)
    np.add.at(circle, grid % len(circle), wavelet(grid * step))
    return wavelet(times) / (np.abs(circle).sum() * step)
