"""The scattering transform as Keras layers, and the features made of it.

`Scattering1D` computes what kymatio defines (same filters, same path order),
exactly and fast; `LogScattering` turns waveforms into the frames that the
recurrent network reads. `docs/scattering.md` explains the algorithm.

    >>> layer = scattering.Scattering1D(J=13, Q=8)
    >>> coefficients = layer(waveform)  # [batch, samples] -> [batch, paths, frames]

Sources: S. Mallat, "Group invariant scattering" (2012); J. Andén and S. Mallat,
"Deep scattering spectrum" (2014); filters, path order and meta of kymatio 0.3.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from kymatio.scattering1d import filter_bank
from kymatio.scattering1d import utils as kymatio_utils

from genre_tl import params

_R_PSI = math.sqrt(0.5)
_SIGMA0 = 0.1
_ALPHA = 5.0

# What stands in for a frame that lies beyond the end of the clip.
PAD_VALUE = -1000.0

# Clips transformed at once inside one call: bounds the memory of a batch.
_PARALLEL_CLIPS = 4

# Wavelets that share one FFT length: half an octave at Q=8.
_GROUP_SIZE = 4


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
_SAMPLING = {
    "standard": (_Sampling(4.7, 4.7, 1.1, 64), _Sampling(6, 4, 0.8, 32), "float32"),
    "high": (_Sampling(6, 6, 4, 256), _Sampling(7, 6, 3, 192), "float64"),
}


# Centre frequencies and bandwidths in cycles a sample, and scales j.
_Bank = tuple[list[float], list[float], list[int]]


class _Group(NamedTuple):
    """Wavelets whose outputs are sampled alike, one inverse FFT for all.

    Attributes:
      length: FFT length: samples of the modulus over the whole signal.
      lows: first spectrum bin of each wavelet's slice.
      filters: `[wavelets, bins]` values on those slices.
      parents: groups of the first order that feed this one (second order).
      kernel: `[samples a frame, taps]` low-pass in time (second order).
    """

    length: int
    lows: list[int]
    filters: tf.Tensor
    parents: tuple[int, ...] = ()
    kernel: tf.Tensor | None = None


@keras.saving.register_keras_serializable(package="genre_tl")
class Scattering1D(keras.layers.Layer):
    """Time scattering transform, a drop-in for kymatio's Keras `Scattering1D`.

    S0 = x * phi, S1 = |x * psi1| * phi, S2 = ||x * psi1| * psi2| * phi (Song et
    al. 2017, equations 1 and 2), the signal mirrored at both ends. Unlike
    kymatio 0.3.0, whose coefficients lose a factor of two at every octave of
    its inner subsampling, the result is that of the transform without any
    inner subsampling, read at samples 0, 2^J, 2 * 2^J ... of the clip.

    Input: `[..., samples]` real, with a static number of samples. Output:
    `[..., paths, frames]`, in kymatio's path order; see `meta`.

    Under a mixed-precision policy the transform still computes in float32
    (spectra span more than half precision holds) and casts its output.

    Args:
      J: log2 of the largest wavelet scale, in samples.
      Q: wavelets per octave of the first order, or a pair for both orders.
      T: samples over which the low-pass averages; 2**J if None.
      max_order: 1 or 2.
      oversampling: log2 of how many times more frames to put out.
      precision: `standard` (relative error 3e-4 in the median path) or `high`
        (below 1e-5, in double precision, at several times the cost).
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: for arguments out of range; the message names them.
    """

    def __init__(
        self,
        J: int,
        Q: int | tuple[int, ...] = 1,
        T: int | None = None,
        max_order: int = 2,
        oversampling: int = 0,
        precision: str = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A config read back from JSON holds a list.
        self.J, self.Q, self.T = J, tuple(Q) if isinstance(Q, list) else Q, T
        self.max_order, self.oversampling = max_order, oversampling
        self.precision = precision
        _check_arguments(self)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Plans the transform for the static number of samples."""
        num_samples = _num_samples(input_shape)
        if max(2**self.J, _averaging(self)) > num_samples:
            raise ValueError(
                f"J={self.J}, T={self.T}: clips of {num_samples} samples are shorter "
                "than the largest scale; lower J or T, or pad the clips"
            )
        # Tensors made here are shared by every graph that calls the layer.
        with tf.init_scope():
            self._plan = _Plan(self, num_samples)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[..., paths, frames]` of `[..., samples]`."""
        if not inputs.dtype.is_floating:
            raise ValueError(
                f"Scattering1D takes real floating-point samples, got "
                f"{inputs.dtype.name}: scale integers to [-1, 1], split complex ones"
            )
        plan = self._plan
        clips = tf.reshape(tf.cast(inputs, plan.dtype), [-1, plan.num_samples])
        output = plan.transform_batch(clips)
        shape = tf.concat([tf.shape(inputs)[:-1], tf.shape(output)[1:]], 0)
        output = tf.cast(tf.reshape(output, shape), self.compute_dtype)
        return tf.ensure_shape(output, self.compute_output_shape(inputs.shape))

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape `[..., paths, frames]`, as kymatio's."""
        num_samples = _num_samples(input_shape)
        num_frames = _num_frames(self, num_samples)
        return (*tuple(input_shape)[:-1], self.output_size(), num_frames)

    def output_size(self) -> int:
        """Returns the number of paths."""
        return len(self.meta()["order"])

    def meta(self) -> dict[str, Any]:
        """Returns kymatio's description of the paths.

        Arrays with a row for each path, in order of output: `order`, and with
        a column for each order (NaN where the path is shorter) `xi` and
        `sigma` in cycles a sample, `j` and `n`; the list `key` of tuples `n`.
        """
        return kymatio_utils.compute_meta_scattering(
            self.J,
            _both_orders(self.Q),
            _averaging(self),
            self.max_order,
            _R_PSI,
            _SIGMA0,
            _ALPHA,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("J", "Q", "T", "max_order", "oversampling", "precision")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="genre_tl")
class LogScattering(keras.layers.Layer):
    """Waveforms to frames of log-scattering coefficients.

    First order: log(S1 + floor). Second order: log of S2 over the S1 of its
    parent path, which makes it independent of loudness (Andén and Mallat,
    2014, section III-B: renormalised scattering). Order zero, the signal's
    mean, carries nothing that is heard and is left out.

    A clip may be shorter than the layer's input: zeros at its end are
    padding, whatever their number. The clip is mirrored at its last sample
    that is not zero, and frames that begin beyond it hold `PAD_VALUE` in every
    path, for `keras.layers.Masking`. A silent clip counts as one frame.

    Input: `[batch, samples]` at 16 kHz. Output: `[batch, frames, paths]`.

    Args:
      J: log2 of averaging and hop, in samples.
      Q: wavelets per octave.
      max_order: 1 or 2.
      log_floor: added before the logarithm; full scale is 1.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        J: int = 13,
        Q: int = 8,
        max_order: int = 2,
        log_floor: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.J, self.Q = J, Q
        self.max_order, self.log_floor = max_order, log_floor
        self.scattering = Scattering1D(J, Q, max_order=max_order, dtype="float32")
        meta = self.scattering.meta()
        self._is_second = meta["order"] == 2
        self._parents = meta["n"][self._is_second, 0].astype(int)

    @classmethod
    def from_params(cls, frontend: params.Frontend) -> LogScattering:
        """Returns the layer of a preset's frontend."""
        return cls(
            J=frontend.J,
            Q=frontend.Q,
            max_order=frontend.max_order,
            log_floor=frontend.log_floor,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, frames, paths]` of `[batch, samples]`."""
        waveform = tf.cast(inputs, tf.float32)
        lengths = valid_samples(waveform)
        coefficients = self.scattering(_mirror(waveform, lengths))
        frames = tf.transpose(self._log(coefficients), [0, 2, 1])
        starts = tf.range(frames.shape[1]) * 2**self.J
        is_valid = starts[tf.newaxis, :, tf.newaxis] < lengths[:, None, None]
        return tf.where(is_valid, frames, tf.constant(PAD_VALUE, frames.dtype))

    def _log(self, coefficients: tf.Tensor) -> tf.Tensor:
        # [batch, 1 + first + second, frames]
        num_second = int(self._is_second.sum())
        num_first = coefficients.shape[1] - 1 - num_second
        # Rounding may leave a coefficient a hair below zero.
        logs = tf.math.log(tf.nn.relu(coefficients) + self.log_floor)
        _, first, second = tf.split(logs, [1, num_first, num_second], axis=1)
        if not num_second:
            return first
        second -= tf.gather(first, self._parents, axis=1)
        return tf.concat([first, second], axis=1)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns `[batch, frames, paths]`."""
        batch, paths, frames = self.scattering.compute_output_shape(input_shape)
        return batch, frames, paths - 1  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("J", "Q", "max_order", "log_floor")
        return super().get_config() | {name: getattr(self, name) for name in names}


def valid_samples(waveform: tf.Tensor) -> tf.Tensor:
    """Counts the samples of each clip up to its last that is not zero.

    Args:
      waveform: `[batch, samples]`.

    Returns:
      `[batch]` int32, at least 1.
    """
    positions = tf.range(1, tf.shape(waveform)[1] + 1)
    counts = tf.where(tf.equal(waveform, 0.0), 0, positions[tf.newaxis])
    return tf.maximum(tf.reduce_max(counts, axis=1), 1)


def _mirror(waveform: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    # Continues each clip beyond its length by reflecting it there and back.
    last = lengths[:, tf.newaxis] - 1
    position = tf.range(waveform.shape[1])[tf.newaxis]
    phase = tf.math.floormod(position, tf.maximum(2 * last, 1))
    return tf.gather(waveform, last - tf.abs(last - phase), batch_dims=1)


class _Plan:
    """Everything about the transform of a given length but the samples.

    The signal is laid on a circle of `num_blocks` blocks of `hop` samples: the
    clip, its reflection at the end, then its reflection at the start. Spectra
    hold Fourier coefficients divided by the length, so that a slice of one
    can be brought back to time at any length.
    """

    def __init__(self, layer: Scattering1D, num_samples: int) -> None:
        self.num_samples = num_samples
        *samplings, dtype = _SAMPLING[layer.precision]
        self.dtype = tf.as_dtype(dtype)
        self._complex = "complex128" if self.dtype == tf.float64 else "complex64"
        averaging = _averaging(layer)
        self._hop = 2 ** int(math.log2(averaging))
        self._oversampling = min(2**layer.oversampling, self._hop)
        self._num_frames = _num_frames(layer, num_samples)
        self._num_blocks = _num_blocks(layer, num_samples, self._hop)
        self._length = self._num_blocks * self._hop
        self._sigma_low = _SIGMA0 / averaging
        first, second = (
            filter_bank.compute_params_filterbank(_SIGMA0 / 2**layer.J, q, _ALPHA)
            for q in _both_orders(layer.Q)
        )
        if layer.max_order == 1:
            second = ([], [], [])
        members = _groups(first[2])
        self._first = self._first_order(members, first, second, samplings[0])
        self._second = self._second_order(members, first, second, samplings[1])
        self._order = _kymatio_order(first[2], members, second[2])
        self._low_pass = self._spectral_low_pass()

    def _first_order(
        self, members: list[list[int]], bank: _Bank, children: _Bank, cut: _Sampling
    ) -> list[_Group]:
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
            filters = tf.constant(filters / self._length, self.dtype)
            groups.append(_Group(length, lows, filters))
        return groups

    def _second_order(
        self, members: list[list[int]], parents: _Bank, bank: _Bank, cut: _Sampling
    ) -> list[_Group]:
        groups = []
        for xi, sigma, j in zip(*bank, strict=True):
            above = tuple(g for g, ns in enumerate(members) if parents[2][ns[0]] < j)
            if not above:
                continue
            length = self._fft_length(
                cut.rate * (cut.below + cut.above) * sigma, cut.extra
            )
            lows, filters = self._slices([(xi, sigma)], sigma, cut, length)
            kernel = self._time_low_pass(length // self._num_blocks) * length
            filters = tf.constant(filters, self.dtype)
            kernel = tf.constant(kernel, self.dtype)
            groups.append(_Group(length, lows, filters, above, kernel))
        return groups

    def _fft_length(self, rate: float, extra: float) -> int:
        # `rate` is in samples of the modulus for each sample of the signal.
        per_block = _smooth(math.ceil(rate * self._hop + extra))
        return self._num_blocks * min(per_block, self._hop)

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

    def _spectral_low_pass(self) -> tf.Tensor:
        # Beyond seven sigma nothing is left in single precision.
        count = min(math.ceil(7 * self._sigma_low * self._length), self._length // 2)
        frequencies = np.arange(count) / self._length
        return tf.constant(
            np.exp(-0.5 * (frequencies / self._sigma_low) ** 2), self.dtype
        )

    def _time_low_pass(self, per_block: int) -> np.ndarray:
        # [samples of a block, blocks reached x outputs a block]: the weight of a
        # sample in the output frames of the blocks around it.
        step = self._hop / per_block
        # Five standard deviations in time; a short circle is gone round.
        reach = math.ceil(5 / (2 * math.pi * self._sigma_low * self._hop))
        blocks = np.arange(-reach, reach + 1) * self._hop
        outputs = np.arange(self._oversampling) * (self._hop / self._oversampling)
        frames = (blocks[:, np.newaxis] + outputs).ravel()
        lag = frames - (np.arange(per_block) * step)[:, np.newaxis]
        spread = 2 * np.pi * self._sigma_low
        gauss = np.exp(-0.5 * (lag * spread) ** 2) * spread / math.sqrt(2 * math.pi)
        return gauss * step

    def transform_batch(self, clips: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, paths, frames]` of `[batch, samples]`.

        Clip by clip, a few side by side: what one clip needs stays in the
        processor's caches, and memory does not grow with the batch.
        """
        # Out of the loop: complex once for all clips.
        first, second = (
            [g._replace(filters=tf.cast(g.filters, self._complex)) for g in groups]
            for groups in (self._first, self._second)
        )
        return tf.map_fn(
            tf.autograph.experimental.do_not_convert(
                lambda clip: self._transform(clip, first, second)
            ),
            clips,
            parallel_iterations=_PARALLEL_CLIPS,
        )

    def _transform(
        self, clip: tf.Tensor, first: list[_Group], second: list[_Group]
    ) -> tf.Tensor:
        # [samples] -> [paths, frames]
        spectrum = tf.signal.rfft(self._reflect(clip))
        spectra = [self._modulus_spectrum(spectrum, group) for group in first]
        orders = [self._average_spectra(spectrum, spectra)]
        if second:
            orders.append(self._average_second(spectra, second))
        return tf.concat(orders, 0)

    def _reflect(self, clip: tf.Tensor) -> tf.Tensor:
        last = self.num_samples - 1
        missing = self._length - self.num_samples
        left, right = missing // 2, missing - missing // 2
        return tf.concat(
            [clip, clip[last - right : last][::-1], clip[1 : left + 1][::-1]], 0
        )

    def _modulus_spectrum(self, spectrum: tf.Tensor, group: _Group) -> tf.Tensor:
        # [bins] -> [wavelets, group's bins]
        width = group.filters.shape[1]
        bands = [
            _bins(spectrum, low, low + width, self._length // 2) for low in group.lows
        ]
        return tf.signal.rfft(self._modulus(tf.stack(bands), group))

    def _modulus(self, bands: tf.Tensor, group: _Group) -> tf.Tensor:
        # Where the band begins in the short spectrum does not matter: moving it
        # only turns the phase, which the modulus forgets.
        missing = group.length - group.filters.shape[1]
        bands = tf.pad(bands * group.filters, [[0, 0], [0, missing]])
        return tf.abs(tf.signal.ifft(bands))

    def _average_spectra(
        self, spectrum: tf.Tensor, spectra: list[tf.Tensor]
    ) -> tf.Tensor:
        # Orders 0 and 1: their spectra are at hand, the low-pass is a product.
        count = len(self._low_pass)
        zeroth = spectrum[tf.newaxis, :count] / self._length
        lowest = tf.concat([zeroth, *(s[:, :count] for s in spectra)], 0)
        lowest *= tf.cast(self._low_pass, self._complex)
        per_block = max(2, self._oversampling)
        length = per_block * self._num_blocks
        lowest = tf.pad(lowest, [[0, 0], [0, length // 2 + 1 - count]])
        averaged = tf.signal.irfft(lowest) * length
        return averaged[:, :: per_block // self._oversampling][:, : self._num_frames]

    def _average_second(
        self, spectra: list[tf.Tensor], groups: list[_Group]
    ) -> tf.Tensor:
        weighted = [self._weigh(spectra, group) for group in groups]
        # [paths, blocks, blocks reached, outputs a block]
        blocks = tf.reshape(
            tf.concat(weighted, 0),
            [len(self._order), self._num_blocks, -1, self._oversampling],
        )
        reach = blocks.shape[2] // 2
        averaged = tf.add_n(
            [
                tf.roll(blocks[:, :, lag + reach], lag, axis=1)
                for lag in range(-reach, reach + 1)
            ]
        )
        averaged = tf.reshape(averaged, [len(self._order), -1])
        return tf.gather(averaged[:, : self._num_frames], self._order)

    def _weigh(self, spectra: list[tf.Tensor], group: _Group) -> tf.Tensor:
        low, width = group.lows[0], group.filters.shape[1]
        bands = [
            _bins(spectra[g], low, low + width, self._first[g].length // 2, False)
            for g in group.parents
        ]
        moduli = self._modulus(tf.concat(bands, 0), group)
        return tf.reshape(moduli, [-1, group.kernel.shape[0]]) @ group.kernel


def _bins(
    spectrum: tf.Tensor, low: int, high: int, nyquist: int, is_periodic: bool = True
) -> tf.Tensor:
    # Bins low to high of a real signal's spectrum that is given from 0 to
    # nyquist: below 0 its conjugate; above nyquist the conjugate again, or
    # nothing where the spectrum was never sampled that far.
    parts = [spectrum[..., max(low, 0) : min(high, nyquist + 1)]]
    if low < 0:
        parts.insert(0, _conjugate(spectrum[..., max(1, 1 - high) : 1 - low]))
    missing = high - (nyquist + 1)
    if missing > 0 and is_periodic:
        parts.append(_conjugate(spectrum[..., nyquist - missing : nyquist]))
    elif missing > 0:
        padding = [[0, 0]] * (spectrum.shape.rank - 1)
        missing = min(missing, high - low)
        parts[-1] = tf.pad(parts[-1], [*padding, [0, missing]])
    return tf.concat(parts, -1)


def _conjugate(bins: tf.Tensor) -> tf.Tensor:
    return tf.math.conj(bins[..., ::-1])


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


def _num_blocks(layer: Scattering1D, num_samples: int, hop: int) -> int:
    # Eight times the largest scale on either side keeps the border exact. A
    # short clip cannot be mirrored that far: then kymatio's own length, so that
    # even what goes round the circle agrees.
    reach = 8 * max(2**layer.J, _averaging(layer))
    ours = _smooth(math.ceil((num_samples + 2 * reach) / hop))
    kymatio_length = sum(_kymatio_padding(layer, num_samples)) + num_samples
    return min(ours, kymatio_length // hop)


def _kymatio_padding(layer: Scattering1D, num_samples: int) -> tuple[int, int]:
    # As kymatio's ScatteringBase1D.build, which builds all filters on the way.
    sigma_low = _SIGMA0 / _averaging(layer)
    low_pass = filter_bank.gauss_1d(num_samples, sigma_low)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too short for the low-pass: handled
        reach = 3 * filter_bank.compute_temporal_support(
            low_pass[np.newaxis], criterion_amplitude=1e-3
        )
    wanted = math.ceil(math.log2(num_samples + 2 * reach))
    largest = int(math.log2(3 * num_samples - 2))
    return kymatio_utils.compute_padding(2 ** min(wanted, largest), num_samples)


def _num_frames(layer: Scattering1D, num_samples: int) -> int:
    # kymatio's count of frames, which depends on how it pads.
    hop_log2 = int(math.log2(_averaging(layer)))
    left, _ = _kymatio_padding(layer, num_samples)
    starts, ends = kymatio_utils.compute_border_indices(
        hop_log2, layer.J, left, left + num_samples
    )
    level = max(hop_log2 - layer.oversampling, 0)
    return ends[level] - starts[level]


def _averaging(layer: Scattering1D) -> int:
    return 2**layer.J if layer.T is None else layer.T


def _both_orders(Q: int | tuple[int, ...]) -> tuple[int, int]:
    orders = (Q,) if isinstance(Q, int) else tuple(Q)
    return (orders[0], orders[1] if len(orders) > 1 else 1)


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


def _check_arguments(layer: Scattering1D) -> None:
    J, Q, T = layer.J, layer.Q, layer.T
    if not isinstance(J, int) or J < 1:
        raise ValueError(f"J must be a positive integer, got {J!r}")
    orders = (Q,) if isinstance(Q, int) else Q
    is_pair = isinstance(orders, tuple) and len(orders) in (1, 2)
    if not is_pair or any(not isinstance(q, int) or q < 1 for q in orders):
        raise ValueError(f"Q must be an integer from 1 on, or a pair, got {Q!r}")
    if T is not None and (not isinstance(T, int) or T < 2):
        raise ValueError(f"T must be None or an integer from 2 on, got {T!r}")
    if layer.max_order not in (1, 2):
        raise ValueError(f"max_order must be 1 or 2, got {layer.max_order!r}")
    if not isinstance(layer.oversampling, int) or layer.oversampling < 0:
        raise ValueError(
            f"oversampling must be an integer from 0 on, got {layer.oversampling!r}"
        )
    if layer.precision not in _SAMPLING:
        raise ValueError(
            f"precision must be one of {sorted(_SAMPLING)}, got {layer.precision!r}"
        )


def _num_samples(input_shape: tuple[int | None, ...]) -> int:
    if len(input_shape) < 2 or input_shape[-1] is None:
        raise ValueError(
            "Scattering1D takes [batch, samples] with a static number of samples, "
            f"got shape {tuple(input_shape)}: add a batch axis, or cut or pad the "
            "clips to one length"
        )
    return int(input_shape[-1])
