"""kymatio's scattering transform: its arguments, wavelets, paths and shapes.

What is computed is defined here, in NumPy; `multirate` says how, `scattering`
computes it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from kymatio.scattering1d import filter_bank
from kymatio.scattering1d import utils as kymatio_utils

_R_PSI = math.sqrt(0.5)
SIGMA0 = 0.1
"""Bandwidth of the low-pass, in cycles over what it averages."""

_ALPHA = 5.0


class Bank(NamedTuple):
    """Wavelets of one order.

    Attributes:
      xi: centre frequencies, in cycles a sample.
      sigma: bandwidths, standard deviations in cycles a sample.
      j: scales; a path of the second order goes to a larger one.
    """

    xi: np.ndarray
    sigma: np.ndarray
    j: np.ndarray


@dataclasses.dataclass(frozen=True)
class Transform:
    """Which transform: the arguments of kymatio's `Scattering1D`.

    Attributes:
      J: log2 of the largest wavelet scale, in samples.
      Q: wavelets per octave, of the first order or of both.
      T: samples over which the low-pass averages; 2**J if None.
      max_order: 1 or 2.
      oversampling: log2 of how many times more frames to put out.
    """

    J: int
    Q: int | tuple[int, ...]
    T: int | None
    max_order: int
    oversampling: int

    def __post_init__(self) -> None:
        J, T = self.J, self.T
        if not isinstance(J, int) or J < 1:
            raise ValueError(f"J must be a positive integer, got {J!r}")
        orders = (self.Q,) if isinstance(self.Q, int) else self.Q
        is_pair = isinstance(orders, tuple) and len(orders) in (1, 2)
        if not is_pair or any(not isinstance(q, int) or q < 1 for q in orders):
            raise ValueError(
                f"Q must be an integer from 1 on, or a pair of them, got {self.Q!r}"
            )
        if T is not None and (not isinstance(T, int) or T < 2):
            raise ValueError(f"T must be None or an integer from 2 on, got {T!r}")
        if self.max_order not in (1, 2):
            raise ValueError(f"max_order must be 1 or 2, got {self.max_order!r}")
        if not isinstance(self.oversampling, int) or self.oversampling < 0:
            raise ValueError(
                f"oversampling must be an integer from 0 on, got {self.oversampling!r}"
            )

    @property
    def averaging(self) -> int:
        """Samples over which the low-pass averages."""
        return 2**self.J if self.T is None else self.T

    @property
    def hop_log2(self) -> int:
        """log2 of the samples from frame to frame, without oversampling."""
        return int(math.log2(self.averaging))

    @property
    def orders(self) -> tuple[int, int]:
        """Wavelets per octave of the first and of the second order."""
        first, *rest = (self.Q,) if isinstance(self.Q, int) else self.Q
        return first, rest[0] if rest else 1

    def banks(self) -> tuple[Bank, Bank]:
        """Returns the wavelets of the first and, without those unused, the second."""
        first, second = (
            Bank(
                *map(
                    np.array,
                    filter_bank.compute_params_filterbank(
                        SIGMA0 / 2**self.J, per_octave, _ALPHA
                    ),
                )
            )
            for per_octave in self.orders
        )
        keep = (second.j > first.j.min()) & (self.max_order == 2)
        return first, Bank(*(values[keep] for values in second))

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths."""
        return kymatio_utils.compute_meta_scattering(
            self.J,
            self.orders,
            self.averaging,
            self.max_order,
            _R_PSI,
            SIGMA0,
            _ALPHA,
        )

    def num_frames(self, num_samples: int) -> int:
        """Returns kymatio's count of frames, which depends on how it pads."""
        left, _ = self._kymatio_padding(num_samples)
        starts, ends = kymatio_utils.compute_border_indices(
            self.hop_log2, self.J, left, left + num_samples
        )
        level = max(self.hop_log2 - self.oversampling, 0)
        return ends[level] - starts[level]

    def border(self, num_samples: int, margin: int) -> tuple[int, bool]:
        """Returns the hops to compute on, and whether they mirror at their ends.

        A clip is gone on with beyond its end for `margin` times the largest scale. One
        too short for kymatio to mirror it far lies on a circle as long as kymatio's,
        so that even what goes round it agrees.
        """
        scale, hop = max(2**self.J, self.averaging), 2**self.hop_log2
        theirs = sum(self._kymatio_padding(num_samples)) + num_samples
        if theirs < num_samples + 16 * scale:
            return theirs // hop, False
        return math.ceil((num_samples + margin * scale) / hop), True

    @functools.cache  # noqa: B019 - small, and the filter is long
    def _kymatio_padding(self, num_samples: int) -> tuple[int, int]:
        # As kymatio's ScatteringBase1D.build, which makes all filters on the way.
        low_pass = filter_bank.gauss_1d(num_samples, SIGMA0 / self.averaging)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too short for the low-pass: handled
            reach = 3 * filter_bank.compute_temporal_support(
                low_pass[np.newaxis], criterion_amplitude=1e-3
            )
        wanted = math.ceil(math.log2(num_samples + 2 * reach))
        largest = int(math.log2(3 * num_samples - 2))
        return kymatio_utils.compute_padding(2 ** min(wanted, largest), num_samples)


def morlet(xi: float, sigma: float, times: np.ndarray, length: int) -> np.ndarray:
    """Returns the impulse response of one of kymatio's wavelets.

    Args:
      xi: centre frequency, in cycles a sample.
      sigma: bandwidth, in cycles a sample.
      times: where, in samples; any numbers.
      length: samples of the circle on which the norm in L1 is one.

    Returns:
      complex128 of the shape of `times`.
    """
    images = np.arange(-2, 3)
    correction = np.exp(-0.5 * ((images - xi) / sigma) ** 2).sum()
    correction /= np.exp(-0.5 * (images / sigma) ** 2).sum()

    def wavelet(times: np.ndarray) -> np.ndarray:
        envelope = np.exp(-2 * (np.pi * sigma * times) ** 2)
        return envelope * (np.exp(2j * np.pi * xi * times) - correction)

    # As finely as its modulus asks for, in steps that divide the circle.
    step = 1
    while 128 * (xi + sigma) * step < 1 and length % (2 * step) == 0:
        step *= 2
    count = math.ceil(7 / (2 * math.pi * sigma) / step)
    grid = np.arange(-count, count + 1)
    circle = np.zeros(length // step, complex)
    np.add.at(circle, grid % len(circle), wavelet(grid * step))
    return wavelet(times) / (np.abs(circle).sum() * step)
