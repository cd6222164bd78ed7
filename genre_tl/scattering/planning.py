"""Plans a scattering transform as strided convolutions at falling sampling rates.

Works out, in NumPy, everything that does not depend on the samples; `operations` runs
the plan. `docs/scattering.md` explains it. Times are in blocks (the samples between
frames), rates in samples per block, frequencies in cycles per block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from genre_tl.scattering import wavelets


class _Sampling(NamedTuple):
    """How finely one order is sampled: accuracy against time.

    The modulus of a band-limited signal is not band-limited. `rate` and `extra` keep
    the aliasing small; `extra` matters at low frequencies, where it is cheap.
    """

    band: float  # bandwidths (sigma) above its centre that a wavelet's input holds
    reach: float  # half the length of a wavelet, in standard deviations
    rate: float  # samples of the modulus per bandwidth (sigma)
    extra: float  # samples of the modulus per block, in addition


class _Precision(NamedTuple):
    first: _Sampling
    second: _Sampling
    stopband_db: float  # attenuation of the filters that halve a rate
    margin: int  # reflection at the end of a clip, in largest scales
    dtype: str


PRECISIONS = {
    "standard": _Precision(
        _Sampling(4.0, 4.2, 10, 62), _Sampling(3.0, 4.0, 5.6, 16), 95, 7, "float32"
    ),
    "high": _Precision(
        _Sampling(6.0, 6.0, 40, 256), _Sampling(6.0, 6.0, 30, 192), 150, 12, "float64"
    ),
}

# Neighbouring wavelets in one convolution: their lengths are similar.
_GROUP_SIZE = 6
# Frequencies that halving a rate preserves, in cycles per sample.
_CLEAN = 0.4
# Lowest rate: below it, filters would wrap around a short circle many times.
_LEAST_RATE = 4
# Legendre polynomials that represent the low-pass within a block.
_NUM_MOMENTS = 7
# Blocks in one step of the low-pass.
_LOW_PASS_BLOCKS = 16


class Group(NamedTuple):
    """Wavelets that one strided convolution computes.

    A step advances `stride` samples and sees `size * stride` around them. Its outputs
    are real parts, then imaginary parts, each `[wavelets, samples per step]`. Its rows
    are the first-order wavelets that it computes (first order), or whose moduli are
    its input (second order).
    """

    kernel: Any  # [size, stride, outputs]
    rate_in: int
    rate_out: int
    first: int  # row
    num_rows: int


class Kernels(NamedTuple):
    """The constants of a plan, dictionaries by rate."""

    first: list[Group]
    second: list[Group]
    halvings: dict[int, Any]  # kernels that halve the rate
    # [samples per block, 1 + moments]: the first sample of a block, Legendre moments
    moments: dict[int, Any]
    low_pass: Any  # [size, stride * (1 + moments), stride * oversampling], to frames


class Plan:
    """The transform of clips of one length.

    A clip is followed by its reflection and fills `num_blocks` blocks of `hop` samples.
    Nothing is computed before its start: a signal that is symmetric about its first
    sample has symmetric moduli. A short clip lies on a circle instead: itself, its
    reflection at the end, its reflection at the start.

    Attributes:
      is_mirrored: whether both ends reflect; otherwise they meet on a circle.
      oversampling: output frames per block.
      rates: at which signals are read, falling.
      lowest: rate at which order zero and the first order are averaged.
      order: positions of kymatio's paths in order zero, first order, second order.

    Raises ValueError if the clips are shorter than the largest scale.
    """

    def __init__(
        self, transform: wavelets.Transform, num_samples: int, precision: str
    ) -> None:
        if transform.scale > num_samples:
            raise ValueError(
                f"J={transform.J}, T={transform.T}: clips of {num_samples} samples are "
                "shorter than the largest scale; lower J or T, or pad the clips"
            )
        self.precision = PRECISIONS[precision]
        self.num_samples = num_samples
        self.num_frames = transform.num_frames(num_samples)
        margin = self.precision.margin
        self.num_blocks, self.is_mirrored = transform.border(num_samples, margin)
        self.hop = hop = transform.hop
        self.rates = [hop >> i for i in range(hop.bit_length())]
        self.oversampling = min(2**transform.oversampling, self.hop)
        self._sigma_low = wavelets.SIGMA0 / transform.T * hop
        banks = transform.banks()
        self.order = _kymatio_order(banks[0].j, banks[1].j)
        scaled = (wavelets.Bank(xi * hop, sigma * hop, j) for xi, sigma, j in banks)
        self.kernels = self._kernels(*scaled)

    def beyond(self, length: int, margin: int) -> list[np.ndarray]:
        """Returns the positions of the samples before a signal, and of those after."""
        # Reflected at the first sample, and between the last and its copy.
        period = 2 * length - 1 if self.is_mirrored else length
        around = np.arange(-margin, 0), np.arange(length, length + margin)
        turned = [places % period for places in around]
        return [np.where(turn < length, turn, period - turn) for turn in turned]

    def _kernels(self, first: wavelets.Bank, second: wavelets.Bank) -> Kernels:
        moduli = self._moduli(first, second)
        groups = self._first_order(first, moduli)
        more = self._second_order(second, moduli, first.j)
        self.lowest = min(*moduli, *(group.rate_in for group in groups + more))
        averaged = {self.lowest, *(group.rate_out for group in more)}
        return Kernels(
            first=groups,
            second=more,
            halvings={r: self._halving(r) for r in self.rates if r > self.lowest},
            moments={rate: _moments(rate) for rate in averaged},
            low_pass=self._low_pass(),
        )

    def _rate(self, wanted: float) -> int:
        # The smallest rate that is >= wanted.
        halvings = math.floor(math.log2(self.hop / max(wanted, _LEAST_RATE)))
        return self.hop >> max(halvings, 0)

    def _input_rate(self, bank: wavelets.Bank, n: int, sampling: _Sampling) -> int:
        return self._rate((bank.xi[n] + sampling.band * bank.sigma[n]) / _CLEAN)

    def _moduli(self, first: wavelets.Bank, second: wavelets.Bank) -> list[int]:
        # Rates of the first-order moduli. They fall: each rate holds the first few.
        sampling = self.precision.first
        wanted = sampling.rate * first.sigma + sampling.extra
        # Modulations that the second order reads must not be aliased.
        read = 2 * (second.xi + 2 * second.sigma)
        for n, j in enumerate(first.j):
            wanted[n] = max(wanted[n], *read[second.j > j], 0)
        rates = np.array([self._rate(rate) for rate in wanted], int)
        return np.maximum.accumulate(rates[::-1])[::-1].tolist()

    def _first_order(self, bank: wavelets.Bank, moduli: list[int]) -> list[Group]:
        sampling = self.precision.first
        read = [self._input_rate(bank, n, sampling) for n in range(len(moduli))]
        rates = list(zip(read, moduli, strict=True))
        groups = []
        for start, stop in _runs(rates):
            for n in range(start, stop, _GROUP_SIZE):
                chosen = bank.part(slice(n, min(n + _GROUP_SIZE, stop)))
                kernel, _ = self._kernel(chosen, sampling.reach, *rates[n], True)
                groups.append(Group(kernel, *rates[n], n, len(chosen.xi)))
        return groups

    def _second_order(
        self, bank: wavelets.Bank, moduli: list[int], parents_j: np.ndarray
    ) -> list[Group]:
        sampling = self.precision.second
        groups = []
        for n in range(len(bank.xi)):
            # Moduli with a lower rate are read as they are.
            rate = min(self._input_rate(bank, n, sampling), moduli[0])
            rates = np.minimum(moduli, rate)[parents_j < bank.j[n]].tolist()
            wanted = sampling.rate * bank.sigma[n] + sampling.extra
            for start, stop in _runs(rates):
                arguments = sampling.reach, rates[start], wanted, False
                kernel, rate_out = self._kernel(bank.part([n]), *arguments)
                rows = start, stop - start
                groups.append(Group(kernel, rates[start], rate_out, *rows))
        return groups

    def _kernel(
        self,
        bank: wavelets.Bank,
        reach: float,
        rate_in: int,
        wanted: float,
        exact: bool,
    ) -> tuple[np.ndarray, int]:
        # For at least (or exactly) `wanted` samples per block; and how many they are.
        samples = reach * rate_in / (2 * math.pi * bank.sigma.min())
        channels = 2 * len(bank.xi)
        stride, rate_out = _stride(rate_in, wanted, samples, channels, exact)
        lags = _lags(rate_in, rate_out, stride, samples)
        length = self.hop * self.num_blocks
        responses = [
            wavelets.morlet(xi / self.hop, sigma / self.hop, lags * self.hop, length)
            for xi, sigma in zip(bank.xi, bank.sigma, strict=True)
        ]
        parts = np.stack([np.real(responses), np.imag(responses)])
        parts = np.moveaxis(parts, [0, 1], [2, 3]) * self.hop / rate_in
        return parts.reshape(*lags.shape[:2], -1), rate_out

    def _halving(self, rate: int) -> np.ndarray:
        # A sinc under a Kaiser window, as the kernel of a `Group`.
        decibels = self.precision.stopband_db
        reach = (decibels - 8) / (2.285 * 2 * math.pi * (0.5 - _CLEAN)) / 2
        stride, rate_out = _stride(rate, rate // 2, reach, 1, exact=True)
        lags = _lags(rate, rate_out, stride, reach) * rate
        shape = np.sqrt(np.maximum(1 - (lags / reach) ** 2, 0))
        window = np.i0(0.1102 * (decibels - 8.7) * shape)
        response = np.sinc(lags / 2) * np.where(np.abs(lags) <= reach, window, 0)
        return response / response.sum((0, 1))

    def _low_pass(self) -> np.ndarray:
        # A kernel from the moments of blocks to the frames around them.
        spread = 2 * math.pi * self._sigma_low
        stride = max(1, _LOW_PASS_BLOCKS // self.oversampling)
        size = _size(stride, math.ceil(5 / spread))
        reach = (size - 1) * stride // 2
        lags = np.arange(-reach, reach + 1)
        times = lags[:, np.newaxis] + np.arange(self.oversampling) / self.oversampling
        nodes = (1 - np.cos(np.pi * (np.arange(32) + 0.5) / 32)) / 2
        gauss = np.exp(-0.5 * ((times.ravel() - nodes[:, np.newaxis]) * spread) ** 2)
        gauss *= spread / math.sqrt(2 * math.pi)
        weights = np.linalg.pinv(_legendre(nodes)) @ gauss
        weights = weights.reshape(-1, len(lags), self.oversampling)[:, ::-1]
        kernel = np.zeros([size * stride, 1 + _NUM_MOMENTS, stride, self.oversampling])
        for frame in range(stride):
            kernel[frame : frame + len(lags), 1:, frame] = weights.swapaxes(0, 1)
        return kernel.reshape(size, stride * (1 + _NUM_MOMENTS), -1)


def _kymatio_order(first_j: np.ndarray, second_j: np.ndarray) -> np.ndarray:
    # Our paths go by second-order wavelet, kymatio's by first-order wavelet.
    n2, n1 = np.nonzero(first_j < second_j[:, np.newaxis])
    before = 1 + len(first_j)
    return np.concatenate([np.arange(before), before + np.lexsort((n2, n1))])


def _moments(rate: int) -> np.ndarray:
    # [samples per block, 1 + moments]
    picked = np.eye(rate, 1)
    return np.concatenate([picked, _legendre(np.arange(rate) / rate)], 1) / rate


def _legendre(times: np.ndarray) -> np.ndarray:
    # [times, moments] for times within a block.
    return np.polynomial.legendre.legvander(2 * times - 1, _NUM_MOMENTS - 1)


def _stride(
    rate_in: int, wanted: float, reach: float, channels: int, exact: bool
) -> tuple[int, int]:
    # The cheapest stride, and the rate of its output: a multiple of steps per block.
    def cost(choice: tuple[int, int]) -> float:
        stride, rate = choice
        outputs = channels * rate * stride // rate_in
        # Measured on CPUs: convolutions with few outputs are slow.
        return rate * stride * _size(stride, reach) * (1 + 25 / outputs)

    strides = [2**i for i in range(8) if 2**i <= rate_in]
    rates = [math.ceil(wanted * s / rate_in) * rate_in // s for s in strides]
    choices = zip(strides, rates, strict=True)
    return min((c for c in choices if not exact or c[1] == wanted), key=cost)


def _size(stride: int, reach: float) -> int:
    return 1 + math.ceil(2 * reach / stride)


def _lags(rate_in: int, rate_out: int, stride: int, reach: float) -> np.ndarray:
    # [size, stride, samples per step]: blocks from input to output.
    size = _size(stride, reach)
    inputs = np.arange(size * stride) - (size - 1) * stride // 2
    outputs = np.arange(rate_out * stride // rate_in)
    lags = outputs / rate_out - inputs[:, np.newaxis] / rate_in
    return lags.reshape(size, stride, -1)


def _runs(values: Sequence[Any]) -> Iterable[tuple[int, int]]:
    # First and last (exclusive) positions of equal neighbours.
    starts = [i for i in range(len(values)) if not i or values[i - 1] != values[i]]
    return itertools.pairwise([*starts, len(values)])
