"""The scattering transform as strided convolutions at falling rates.

`plan` works out, in NumPy, everything about the transform of clips of one length
but the samples; `scattering` computes with it. `docs/scattering.md` explains it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from genre_tl.scattering import wavelets

# Wavelets of one convolution: neighbours, whose reach is alike.
_GROUP_SIZE = 6


class _Sampling(NamedTuple):
    """How finely one order is sampled: accuracy against time.

    The modulus of a band-limited signal is not band-limited: what folds back is
    what `rate` and `extra` buy off, `extra` at the low frequencies, where few
    samples are averaged and more of them cost nothing.

    Attributes:
      band: a wavelet's input holds this many of its sigma above its centre,
      reach: and its impulse response this many standard deviations in time.
      rate: samples of the modulus for each of its sigma,
      extra: and samples a block on top.
    """

    band: float
    reach: float
    rate: float
    extra: float


class _Precision(NamedTuple):
    """Sampling of both orders, and what else decides on accuracy.

    Attributes:
      first: sampling of the first order,
      second: and of the second.
      stopband_db: of the filters that halve a rate.
      margin: of the largest scale: how far beyond its end a clip is gone on with.
      dtype: what to compute in.
    """

    first: _Sampling
    second: _Sampling
    stopband_db: float
    margin: int
    dtype: str


SAMPLING = {
    "standard": _Precision(
        _Sampling(4.0, 4.2, 10, 62), _Sampling(3.0, 4.0, 5.6, 16), 95, 7, "float32"
    ),
    "high": _Precision(
        _Sampling(6.0, 6.0, 40, 256), _Sampling(6.0, 6.0, 30, 192), 150, 8, "float64"
    ),
}

# Frequencies that halving a rate leaves clean, in cycles a sample.
_CLEAN = 0.4

# In samples a block; below, filters would go round a short circle many times.
_LEAST_RATE = 4


# Legendre polynomials that stand for the low-pass within a block.
_NUM_MOMENTS = 7

# Blocks of one step of the low-pass.
_SPREAD_BLOCKS = 16


class Filters(NamedTuple):
    """Filters on a sampled signal, as one strided convolution.

    Attributes:
      kernel: `[size, stride, outputs]`: a step takes in `stride` samples, and sees
        `size` times as many, of which it is the middle.
      rate_in: samples a block of the signal.
      rate_out: samples a block of what comes out.
    """

    kernel: Any
    rate_in: int
    rate_out: int


class Group(NamedTuple):
    """Wavelets that read the same rate and whose moduli have one rate.

    Attributes:
      filters: outputs are real parts, then imaginary parts, each
        `[wavelets, samples a step]`.
      rows: wavelets of the first order: those that it makes (first order), or
        those whose moduli it reads (second order).
    """

    filters: Filters
    rows: range


@dataclasses.dataclass(frozen=True)
class Plan:
    """The transform of clips of one length.

    The clip is laid on `num_blocks` blocks of `hop` samples: itself, then its
    reflection at the end. Before its start every signal is its own reflection, and so
    are its moduli. (A short clip lies on a circle: itself, its reflection at the end,
    then its reflection at the start.) A rate is a number of samples a block; those at
    which signals are read are `hop` halved again and again.

    Attributes:
      num_samples: of a clip.
      num_frames: of the output.
      num_blocks: to compute on.
      is_mirrored: at both ends; else they are a circle.
      hop: samples of a block, and from frame to frame without oversampling.
      oversampling: output frames a block.
      lowest: rate at which orders zero and one are averaged.
      halvings: by the rate they start from, filters that halve it.
      moments: by rate, `[samples of a block, 1 + moments]`: what picks the block's
        first sample, and what gives the moments of all.
      spread: the low-pass, from the moments of the blocks to frames:
        `[size, stride * (1 + moments), stride * oversampling]`.
      echo: `[frames]`, what the clip's first sample weighs in them.
      first: wavelets of the first order.
      second: wavelets of the second order.
      order: where kymatio's paths stand in ours: order zero, `first`, `second`.
      dtype: what to compute in.
    """

    num_samples: int
    num_frames: int
    num_blocks: int
    is_mirrored: bool
    hop: int
    oversampling: int
    lowest: int
    halvings: dict[int, Any]
    moments: dict[int, Any]
    spread: Any
    echo: Any
    first: list[Group]
    second: list[Group]
    order: np.ndarray
    dtype: str

    @property
    def length(self) -> int:
        """Samples to compute on."""
        return self.num_blocks * self.hop

    def beyond(self, length: int, before: int, after: int) -> list[np.ndarray]:
        """Returns which samples of a signal stand before its first, after its last."""
        # Mirrored at the first sample, and behind the last.
        period = 2 * length - 1 if self.is_mirrored else length
        places = (np.arange(-before, 0), np.arange(length, length + after))
        turned = [place % period for place in places]
        return [np.where(turn < length, turn, period - turn) for turn in turned]


def plan(transform: wavelets.Transform, num_samples: int, precision: str) -> Plan:
    """Works out the transform of clips of `num_samples` samples.

    Raises:
      ValueError: if the clips are shorter than the largest scale.
    """
    if max(2**transform.J, transform.averaging) > num_samples:
        raise ValueError(
            f"J={transform.J}, T={transform.T}: clips of {num_samples} samples are "
            "shorter than the largest scale; lower J or T, or pad the clips"
        )
    return _Planner(transform, num_samples, SAMPLING[precision]).plan()


class _Planner:
    """Lays out wavelets and low-pass on the circle of one clip length."""

    def __init__(
        self, transform: wavelets.Transform, num_samples: int, precision: _Precision
    ) -> None:
        self._transform = transform
        self._num_samples = num_samples
        self._precision = precision
        self._hop = 2**transform.hop_log2
        self._num_blocks, self._is_mirrored = transform.border(
            num_samples, precision.margin
        )
        self._oversampling = min(2**transform.oversampling, self._hop)
        # All frequencies are in cycles a block from here on.
        self._sigma_low = wavelets.SIGMA0 / transform.averaging * self._hop
        self._first, self._second = (
            wavelets.Bank(bank.xi * self._hop, bank.sigma * self._hop, bank.j)
            for bank in transform.banks()
        )

    def plan(self) -> Plan:
        """Returns the whole."""
        moduli = self._rates_of_moduli()
        first, second = self._first_order(moduli), self._second_order(moduli)
        lowest = min(group.filters.rate_in for group in first)
        return Plan(
            num_samples=self._num_samples,
            num_frames=self._transform.num_frames(self._num_samples),
            num_blocks=self._num_blocks,
            is_mirrored=self._is_mirrored,
            hop=self._hop,
            oversampling=self._oversampling,
            lowest=lowest,
            halvings={
                rate: self._halving(rate)
                for rate in {self._hop >> i for i in range(self._transform.hop_log2)}
                if rate > lowest
            },
            moments={
                rate: self._moments(rate)
                for rate in {lowest, *(group.filters.rate_out for _, group in second)}
            },
            spread=self._spread(),
            echo=self._gauss(np.arange(self._num_blocks), np.zeros(1))[0],
            first=first,
            second=[group for _, group in second],
            order=self._kymatio_order(second),
            dtype=self._precision.dtype,
        )

    def _rate(self, wanted: float) -> int:
        # The smallest rate from `wanted` on: the hop, halved again and again.
        halvings = math.floor(math.log2(self._hop / max(wanted, _LEAST_RATE)))
        return self._hop >> max(halvings, 0)

    def _rate_of_input(self, bank: wavelets.Bank, n: int, sampling: _Sampling) -> int:
        return self._rate((bank.xi[n] + sampling.band * bank.sigma[n]) / _CLEAN)

    def _rates_of_moduli(self) -> np.ndarray:
        # By wavelet of the first order, falling, so that a rate holds the first few.
        bank, sampling, children = self._first, self._precision.first, self._second
        wanted = sampling.rate * bank.sigma + sampling.extra
        # Modulations that the second order asks for must not fold back.
        asked = 2 * (children.xi + 2 * children.sigma)
        for n, j in enumerate(bank.j):
            wanted[n] = max(wanted[n], *asked[children.j > j], 0)
        rates = np.array([self._rate(rate) for rate in wanted], int)
        return np.maximum.accumulate(rates[::-1])[::-1]

    def _first_order(self, moduli: np.ndarray) -> list[Group]:
        bank, sampling = self._first, self._precision.first
        read = [self._rate_of_input(bank, n, sampling) for n in range(len(moduli))]
        groups = []
        for rows in _runs(list(zip(read, moduli.tolist(), strict=True))):
            for start in range(rows.start, rows.stop, _GROUP_SIZE):
                chosen = range(start, min(start + _GROUP_SIZE, rows.stop))
                rates = read[start], moduli[start]
                filters = self._filters(bank, chosen, sampling, *rates, exact=True)
                groups.append(Group(filters, chosen))
        return groups

    def _second_order(self, moduli: np.ndarray) -> list[tuple[int, Group]]:
        # With the wavelet of the second order that the group is of.
        bank, sampling = self._second, self._precision.second
        groups = []
        for n in range(len(bank.xi)):
            rate = min(self._rate_of_input(bank, n, sampling), moduli.max())
            # Moduli that were sampled at less are read as they are.
            rates = np.minimum(moduli[self._first.j < bank.j[n]], rate)
            wanted = sampling.rate * bank.sigma[n] + sampling.extra
            for rows in _runs(rates.tolist()):
                chosen = range(n, n + 1)
                read = rates[rows.start]
                filters = self._filters(bank, chosen, sampling, read, wanted)
                groups.append((n, Group(filters, rows)))
        return groups

    def _filters(
        self,
        bank: wavelets.Bank,
        chosen: range,
        sampling: _Sampling,
        rate_in: int,
        wanted: float,
        exact: bool = False,
    ) -> Filters:
        # The wavelets `chosen` as a convolution that gives at least `wanted` samples
        # a block, or exactly those.
        spread = 1 / (2 * math.pi * bank.sigma[chosen].min())
        reach = sampling.reach * spread * rate_in
        stride, rate_out = _stride(rate_in, wanted, reach, 2 * len(chosen), exact)
        lags = _lags(rate_in, rate_out, stride, reach)
        responses = np.stack([self._response(bank, n, lags) for n in chosen], 2)
        parts = np.stack([responses.real, responses.imag], 2) / rate_in
        return Filters(parts.reshape(*lags.shape[:2], -1), rate_in, rate_out)

    def _response(self, bank: wavelets.Bank, n: int, lags: np.ndarray) -> np.ndarray:
        hop = self._hop
        xi, sigma, length = (
            bank.xi[n] / hop,
            bank.sigma[n] / hop,
            hop * self._num_blocks,
        )
        return wavelets.morlet(xi, sigma, lags * hop, length) * hop

    def _halving(self, rate: int) -> np.ndarray:
        # A sinc under a Kaiser window: kernel of `Filters`.
        decibels = self._precision.stopband_db
        reach = (decibels - 8) / (2.285 * 2 * math.pi * (0.5 - _CLEAN)) / 2
        stride, rate_out = _stride(rate, rate // 2, reach, 1, exact=True)
        lags = _lags(rate, rate_out, stride, reach) * rate
        window = np.i0(
            0.1102 * (decibels - 8.7) * np.sqrt(np.maximum(1 - (lags / reach) ** 2, 0))
        )
        response = np.sinc(lags / 2) * np.where(np.abs(lags) <= reach, window, 0)
        return response / response.sum((0, 1))

    def _moments(self, rate: int) -> np.ndarray:
        # [samples of a block, 1 + moments]
        picked = np.eye(rate, 1)
        return np.concatenate([picked, _legendre(np.arange(rate) / rate)], 1) / rate

    def _spread(self) -> np.ndarray:
        # What the moments of a block weigh in the frames around it: a kernel.
        stride = max(1, _SPREAD_BLOCKS // self._oversampling)
        size = _size(stride, math.ceil(5 / (2 * math.pi * self._sigma_low)))
        reach = (size - 1) * stride // 2
        lags = np.arange(-reach, reach + 1)
        nodes = (1 - np.cos(np.pi * (np.arange(32) + 0.5) / 32)) / 2
        weights = np.linalg.pinv(_legendre(nodes)) @ self._gauss(lags, nodes)
        weights = weights.reshape(-1, len(lags), self._oversampling)
        kernel = np.zeros([size * stride, 1 + _NUM_MOMENTS, stride, self._oversampling])
        for frame in range(stride):
            kernel[frame : frame + len(lags), 1:, frame] = weights[:, ::-1].swapaxes(
                0, 1
            )
        return kernel.reshape(size, stride * (1 + _NUM_MOMENTS), -1)

    def _gauss(self, lags: np.ndarray, times: np.ndarray) -> np.ndarray:
        # [times, lags x outputs a block]: the low-pass, all in blocks.
        outputs = np.arange(self._oversampling) / self._oversampling
        lag = (lags[:, np.newaxis] + outputs).ravel() - times[:, np.newaxis]
        spread = 2 * np.pi * self._sigma_low
        return np.exp(-0.5 * (lag * spread) ** 2) * spread / math.sqrt(2 * math.pi)

    def _kymatio_order(self, second: list[tuple[int, Group]]) -> np.ndarray:
        # Positions of kymatio's paths in order zero, first order, `second`.
        ours = [(n1, n2) for n2, group in second for n1 in group.rows]
        by_path = sorted(range(len(ours)), key=ours.__getitem__)
        before = 1 + len(self._first.xi)
        return np.concatenate([np.arange(before), before + np.array(by_path, int)])


def _legendre(times: np.ndarray) -> np.ndarray:
    # [times, moments], of times within a block.
    return np.polynomial.legendre.legvander(2 * times - 1, _NUM_MOMENTS - 1)


def _stride(
    rate_in: int, wanted: float, reach: float, channels: int, exact: bool
) -> tuple[int, int]:
    # The samples a step that a convolution should take in, and the rate that comes
    # out: a multiple of the steps a block.
    def cost(choice: tuple[int, int]) -> float:
        stride, rate = choice
        outputs = channels * rate * stride // rate_in
        # As measured on processors: convolutions of few outputs are slow.
        return rate * stride * _size(stride, reach) * (1 + 25 / outputs)

    strides = [2**i for i in range(8) if 2**i <= rate_in]
    choices = [
        (stride, math.ceil(wanted * stride / rate_in) * rate_in // stride)
        for stride in strides
    ]
    fit = [c for c in choices if not exact or c[1] == wanted]
    return min(fit, key=cost)


def _size(stride: int, reach: float) -> int:
    return 1 + math.ceil(2 * reach / stride)


def _lags(rate_in: int, rate_out: int, stride: int, reach: float) -> np.ndarray:
    # [size, stride, samples a step]: blocks from input to output.
    size = _size(stride, reach)
    inputs = np.arange(size * stride) - (size - 1) * stride // 2
    outputs = np.arange(rate_out * stride // rate_in)
    lags = outputs / rate_out - inputs[:, np.newaxis] / rate_in
    return lags.reshape(size, stride, -1)


def _runs(values: Sequence[Any]) -> list[range]:
    # Ranges of equal neighbours.
    runs: list[range] = []
    for i, value in enumerate(values):
        if runs and values[i - 1] == value:
            runs[-1] = range(runs[-1].start, i + 1)
        else:
            runs.append(range(i, i + 1))
    return runs
