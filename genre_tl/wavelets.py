"""kymatio's wavelets, cut to the slices of the spectrum that they cover.

`plan` works out, in NumPy, everything about the scattering transform of a given
length but the samples; `scattering` computes with it. Filters, path order and
meta are kymatio's.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from kymatio.scattering1d import filter_bank
from kymatio.scattering1d import utils as kymatio_utils

_R_PSI = math.sqrt(0.5)
_SIGMA0 = 0.1
_ALPHA = 5.0

# Wavelets that share one FFT length: half an octave at Q=8.
_GROUP_SIZE = 4


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

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths."""
        return kymatio_utils.compute_meta_scattering(
            self.J,
            self.orders,
            self.averaging,
            self.max_order,
            _R_PSI,
            _SIGMA0,
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

    def num_blocks(self, num_samples: int) -> int:
        """Returns the hops of the circle on which a clip is laid."""
        # Eight times the largest scale on either side keeps the border exact. A
        # short clip cannot be mirrored that far: then kymatio's own length, so
        # that even what goes round the circle agrees.
        reach = 8 * max(2**self.J, self.averaging)
        hop = 2**self.hop_log2
        ours = _smooth(math.ceil((num_samples + 2 * reach) / hop))
        theirs = sum(self._kymatio_padding(num_samples)) + num_samples
        return min(ours, theirs // hop)

    def _kymatio_padding(self, num_samples: int) -> tuple[int, int]:
        # As kymatio's ScatteringBase1D.build, which makes all filters on the way.
        low_pass = filter_bank.gauss_1d(num_samples, _SIGMA0 / self.averaging)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too short for the low-pass: handled
            reach = 3 * filter_bank.compute_temporal_support(
                low_pass[np.newaxis], criterion_amplitude=1e-3
            )
        wanted = math.ceil(math.log2(num_samples + 2 * reach))
        largest = int(math.log2(3 * num_samples - 2))
        return kymatio_utils.compute_padding(2 ** min(wanted, largest), num_samples)


class _Sampling(NamedTuple):
    """How finely the moduli of one order are sampled: accuracy against time.

    The modulus of a band-limited signal is not band-limited: what folds back is
    what `rate` and `extra` buy off, `extra` at the low frequencies, where few
    samples are averaged and more of them cost nothing.

    Attributes:
      below: a wavelet is cut this many of its sigma below its centre, where the
        spectra of music are strong,
      above: and this many above.
      rate: samples for each that the band so cut needs.
      extra: samples a frame on top.
    """

    below: float
    above: float
    rate: float
    extra: float


# By precision: for the first order, the second, and the type computed in.
SAMPLING = {
    "standard": (_Sampling(4.7, 4.7, 1.1, 64), _Sampling(6, 4, 0.8, 32), "float32"),
    "high": (_Sampling(6, 6, 4, 256), _Sampling(7, 6, 3, 192), "float64"),
}


# Centre frequencies and bandwidths in cycles a sample, and scales j.
_Bank = tuple[list[float], list[float], list[int]]


class Group(NamedTuple):
    """Wavelets whose outputs are sampled alike, one inverse FFT for all.

    Attributes:
      length: FFT length: samples of the modulus over the whole signal.
      lows: first spectrum bin of each wavelet's slice.
      filters: `[wavelets, bins]` values on those slices.
      parents: groups of the first order that feed this one (second order).
      kernel: `[samples a block, taps]` low-pass in time (second order): the
        weight of a sample in the output frames of the blocks around it.
    """

    length: int
    lows: list[int]
    filters: np.ndarray
    parents: tuple[int, ...] = ()
    kernel: Any = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The transform of clips of one length.

    The clip is laid on a circle of `num_blocks` blocks of `hop` samples: itself,
    its reflection at the end, then its reflection at the start. Spectra hold
    Fourier coefficients divided by the length, so that a slice of one can be
    brought back to time at any length.

    Attributes:
      num_samples: of a clip.
      num_frames: of the output.
      num_blocks: of the circle.
      hop: samples of a block, and from frame to frame without oversampling.
      oversampling: output frames a block.
      low_pass: `[bins]` of the circle's spectrum, for orders zero and one.
      first: wavelets of the first order.
      second: wavelets of the second order.
      order: where kymatio's second-order paths stand in those of `second`.
      dtype: what to compute in.
    """

    num_samples: int
    num_frames: int
    num_blocks: int
    hop: int
    oversampling: int
    low_pass: np.ndarray
    first: list[Group]
    second: list[Group]
    order: np.ndarray
    dtype: str

    @property
    def length(self) -> int:
        """Samples of the circle."""
        return self.num_blocks * self.hop


def plan(transform: Transform, num_samples: int, precision: str) -> Plan:
    """Works out the transform of clips of `num_samples` samples.

    Raises:
      ValueError: if the clips are shorter than the largest scale.
    """
    if max(2**transform.J, transform.averaging) > num_samples:
        raise ValueError(
            f"J={transform.J}, T={transform.T}: clips of {num_samples} samples are "
            "shorter than the largest scale; lower J or T, or pad the clips"
        )
    *samplings, dtype = SAMPLING[precision]
    first, second = (
        filter_bank.compute_params_filterbank(_SIGMA0 / 2**transform.J, q, _ALPHA)
        for q in transform.orders
    )
    if transform.max_order == 1:
        second = ([], [], [])
    members = _groups(first[2])
    planner = _Planner(transform, num_samples)
    return Plan(
        num_samples=num_samples,
        num_frames=transform.num_frames(num_samples),
        num_blocks=planner.num_blocks,
        hop=planner.hop,
        oversampling=planner.oversampling,
        low_pass=planner.spectral_low_pass(),
        first=planner.first_order(members, first, second, samplings[0]),
        second=planner.second_order(members, first, second, samplings[1]),
        order=_kymatio_order(first[2], members, second[2]),
        dtype=dtype,
    )


class _Planner:
    """Lays out wavelets and low-pass on the circle of one clip length."""

    def __init__(self, transform: Transform, num_samples: int) -> None:
        self.hop = 2**transform.hop_log2
        self.num_blocks = transform.num_blocks(num_samples)
        self.oversampling = min(2**transform.oversampling, self.hop)
        self._length = self.num_blocks * self.hop
        self._sigma_low = _SIGMA0 / transform.averaging

    def first_order(
        self, members: list[list[int]], bank: _Bank, children: _Bank, cut: _Sampling
    ) -> list[Group]:
        xis, sigmas, js = bank
        groups = []
        for chosen in members:
            band = max(sigmas[n] for n in chosen)
            # Modulations that the second order asks for must not fold back.
            highest = [
                xi + 2 * sigma
                for xi, sigma, j in zip(*children, strict=True)
                if j > js[chosen[0]]
            ]
            rate = max(
                cut.rate * (cut.below + cut.above) * band, *(2 * h for h in highest), 0
            )
            length = self._fft_length(rate, cut.extra)
            wavelets = [(xis[n], sigmas[n]) for n in chosen]
            lows, filters = self._slices(wavelets, band, cut, length)
            groups.append(Group(length, lows, filters / self._length))
        return groups

    def second_order(
        self, members: list[list[int]], parents: _Bank, bank: _Bank, cut: _Sampling
    ) -> list[Group]:
        groups = []
        for xi, sigma, j in zip(*bank, strict=True):
            above = tuple(g for g, ns in enumerate(members) if parents[2][ns[0]] < j)
            if not above:
                continue
            length = self._fft_length(
                cut.rate * (cut.below + cut.above) * sigma, cut.extra
            )
            lows, filters = self._slices([(xi, sigma)], sigma, cut, length)
            kernel = self._time_low_pass(length // self.num_blocks) * length
            groups.append(Group(length, lows, filters, above, kernel))
        return groups

    def _fft_length(self, rate: float, extra: float) -> int:
        # `rate` is in samples of the modulus for each sample of the signal.
        per_block = _smooth(math.ceil(rate * self.hop + extra))
        return self.num_blocks * min(per_block, self.hop)

    def _slices(
        self,
        wavelets: list[tuple[float, float]],
        band: float,
        cut: _Sampling,
        length: int,
    ) -> tuple[list[int], np.ndarray]:
        # First bins and values of wavelets (xi, sigma) on equally long slices.
        below = min(math.ceil(cut.below * band * self._length), (length - 1) // 2)
        above = min(math.ceil(cut.above * band * self._length), length - 1 - below)
        lows = [round(xi * self._length) - below for xi, _ in wavelets]
        values = [
            _morlet(self._length, xi, sigma, low + np.arange(below + above + 1))
            for (xi, sigma), low in zip(wavelets, lows, strict=True)
        ]
        return lows, np.stack(values)

    def spectral_low_pass(self) -> np.ndarray:
        # Beyond seven sigma nothing is left in single precision.
        count = min(math.ceil(7 * self._sigma_low * self._length), self._length // 2)
        frequencies = np.arange(count) / self._length
        return np.exp(-0.5 * (frequencies / self._sigma_low) ** 2)

    def _time_low_pass(self, per_block: int) -> np.ndarray:
        # [samples of a block, blocks reached x outputs a block]: the weight of a
        # sample in the output frames of the blocks around it.
        step = self.hop / per_block
        # Five standard deviations in time; a short circle is gone round.
        reach = math.ceil(5 / (2 * math.pi * self._sigma_low * self.hop))
        blocks = np.arange(-reach, reach + 1) * self.hop
        outputs = np.arange(self.oversampling) * (self.hop / self.oversampling)
        frames = (blocks[:, np.newaxis] + outputs).ravel()
        lag = frames - (np.arange(per_block) * step)[:, np.newaxis]
        spread = 2 * np.pi * self._sigma_low
        gauss = np.exp(-0.5 * (lag * spread) ** 2) * spread / math.sqrt(2 * math.pi)
        return gauss * step


def _morlet(length: int, xi: float, sigma: float, bins: np.ndarray) -> np.ndarray:
    # A bin of kymatio's filter holds the same value at a length halved when
    # frequency and bandwidth are doubled: use the shortest that still fits.
    scale = 1
    while length % (2 * scale) == 0 and (xi + 6 * sigma) * 2 * scale <= 0.5:
        scale *= 2
    values = filter_bank.morlet_1d(length // scale, xi * scale, sigma * scale)
    return values[bins % len(values)]


def _groups(js: list[int]) -> list[list[int]]:
    # Neighbours of one scale, a few together.
    groups = []
    for j in sorted(set(js)):
        members = [n for n in range(len(js)) if js[n] == j]
        starts = range(0, len(members), _GROUP_SIZE)
        groups += [members[start : start + _GROUP_SIZE] for start in starts]
    return groups


def _kymatio_order(
    first_js: list[int], groups: list[list[int]], second_js: list[int]
) -> np.ndarray:
    # Positions of kymatio's second-order paths in our output, which runs over
    # n2, then over the groups of the first order.
    ours = [
        (n1, n2)
        for n2, j2 in enumerate(second_js)
        for group in groups
        for n1 in group
        if first_js[n1] < j2
    ]
    position = {path: i for i, path in enumerate(ours)}
    return np.array([position[path] for path in sorted(ours)], int)


def _smooth(minimum: int) -> int:
    # The smallest number from `minimum` on without a prime factor above 5.
    number = max(minimum, 1)
    while True:
        rest = number
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number += 1
