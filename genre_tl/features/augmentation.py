"""Varies training excerpts as recordings of music vary, and mixes them.

An equalizer, noise or another tuning changes scattering coefficients in a known way, so
that no audio is needed. All is done by operations of TensorFlow, inside `tf.data`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.features import framing, log_scattering

# Share of the clips that each step changes, and of frames that are masked at most.
EQUALIZED, LOW_PASSED, SHIFTED, NOISY, MIXED, BAND_MASKED = 0.5, 0.3, 0.3, 0.3, 0.6, 0.3
FRAMES_MASKED = 0.2

# Numbers of filters are those of J=12, Q=8; other front ends take the same share.
_NUM_FILTERS = 86
_NUM_KNOTS, _KNOT_STDDEV = 5, 0.7  # of the equalizer's gain, natural logarithm
_CUTOFF = 2, 22  # filters from the highest frequency
_SLOPE = 0.3, 2.0  # of the low-pass: natural logarithm per filter
_MAX_SHIFT = 3  # filters
_NOISE_DECIBELS = -50.0, -15.0  # relative to the level of the clip
_NOISE_TILT = -4.0, 1.2  # lowest over highest frequency, natural logarithm
_NOISE_OF_SECOND_ORDER = 0.06  # relative to the parent path
_BAND = 4, 16  # filters
_MIN_FRAMES_TO_MASK = 5


class Augmentation:
    """Augments batches of log-scattering frames and targets at random.

    In this order: the level of the excerpt is removed; equalizer; low-pass; shift along
    the paths, as by transposition; noise; mixing of power and targets with another clip
    of the batch (Zhang et al., 2018, mixup); the level is removed again; a band of
    paths and single frames are set to the mean (Park et al., 2019, SpecAugment).

    Args:
      frontend: front end of the frames; it must remove the level.
      mean: mean of each path over the training clips, `[paths]`.

    Raises:
      ValueError: if the front end does not remove the level.
    """

    def __init__(self, frontend: params.Frontend, mean: np.ndarray) -> None:
        if not frontend.remove_level:
            raise ValueError(
                "augmentation needs a front end that removes the level, but it has "
                "remove_level=False: train with augment=False (--noaugment)"
            )
        layer = scattering.Scattering1D(
            frontend.J, frontend.Q, frontend.T, frontend.max_order
        )
        order = layer.meta()["order"]
        paths = layer.meta()["n"][order > 0]
        num_first = int(np.sum(order == 1))
        # The first-order filter of each path; a second-order path has its parent's.
        filters = paths[:, 0].astype(int)
        is_second = order[order > 0] == 2
        self._floor, self._num_first = frontend.log_floor, num_first
        self._mean = np.asarray(mean, np.float32)
        self._parents = filters[num_first:]
        self._positions = (filters * (_NUM_FILTERS / num_first)).astype(np.float32)
        self._places = (filters / max(1, num_first - 1)).astype(np.float32)  # 0 to 1
        self._knot_weights = _knot_weights(self._places)
        noise = np.where(is_second, _NOISE_OF_SECOND_ORDER, 1.0)
        self._noise_weights = (noise**2).astype(np.float32)
        max_shift = max(1, round(_MAX_SHIFT * num_first / _NUM_FILTERS))
        shifts = range(-max_shift, max_shift + 1)
        self._shifted_paths = np.array([_moved(paths, shift) for shift in shifts])

    def __call__(
        self, frames: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns augmented frames and targets, a function of the arguments.

        Args:
          frames: float32 `[batch, frames, paths]`, `PAD_VALUE` after the end of a clip.
          targets: float32 `[batch, outputs]`; NaN is unknown, and stays so when mixed.
          seed: integers `[2]`.
        """
        draws = _Draws(seed, tf.shape(frames)[0])
        valid = tf.not_equal(frames[..., :1], framing.PAD_VALUE)
        power = log_scattering.coefficients(frames, self._parents, self._floor) ** 2
        power = self._without_level(power, valid) * self._power_gain(draws)
        power = self._shifted(power, draws) + self._noise_power(draws)
        power, targets = _mixed(power, valid, targets, draws)
        varied = tf.sqrt(self._without_level(power, valid))
        varied = log_scattering.logarithms(varied, self._parents, self._floor)
        varied = tf.where(self._is_masked(valid, draws), self._mean, varied)
        varied = tf.where(valid, varied, framing.PAD_VALUE)
        return tf.ensure_shape(varied, frames.shape), targets

    def _without_level(self, power: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Divides by the mean power of the first order over valid frames."""
        weight = tf.cast(valid, tf.float32)
        total = tf.reduce_sum(power[..., : self._num_first] * weight, [1, 2])
        level = total / (self._num_first * tf.reduce_sum(weight, [1, 2]))
        # What lies below the floor of the logarithm is rounding.
        return power / tf.maximum(level, self._floor**2)[:, None, None]

    def _power_gain(self, draws: _Draws) -> tf.Tensor:
        """Returns the gain of equalizer and low-pass: `[batch, 1, paths]`."""
        knots = draws.normal(_KNOT_STDDEV, _NUM_KNOTS)
        logs = tf.where(draws.chosen(EQUALIZED), knots @ self._knot_weights, 0.0)
        cutoff = tf.floor(draws.uniform(*_CUTOFF))
        low_pass = draws.uniform(*_SLOPE) * tf.nn.relu(cutoff - self._positions)
        logs -= tf.where(draws.chosen(LOW_PASSED), low_pass, 0.0)
        return tf.exp(2 * logs)[:, tf.newaxis]

    def _shifted(self, power: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """Moves the paths of some clips by some first-order filters."""
        number = len(self._shifted_paths)
        choice = tf.cast(draws.uniform(0, number), tf.int32)
        choice = tf.where(draws.chosen(SHIFTED), choice, number // 2)  # by 0
        paths = tf.gather(self._shifted_paths, choice[:, 0])
        return tf.gather(power, paths, axis=2, batch_dims=1)

    def _noise_power(self, draws: _Draws) -> tf.Tensor:
        """Returns the power of stationary noise: `[batch, 1, paths]`."""
        spectrum = tf.exp(2 * draws.uniform(*_NOISE_TILT) * self._places)
        level = tf.reduce_mean(spectrum[:, : self._num_first], 1, keepdims=True)
        gain = 10 ** (draws.uniform(*_NOISE_DECIBELS) / 10)
        power = gain * spectrum / level * self._noise_weights
        return tf.where(draws.chosen(NOISY), power, 0.0)[:, tf.newaxis]

    def _is_masked(self, valid: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """Returns what to replace with the mean, bool `[batch, frames, paths]`."""
        width = tf.floor(draws.uniform(*_BAND))
        begin = tf.floor(draws.uniform() * (_NUM_FILTERS - width))
        in_band = (self._positions >= begin) & (self._positions < begin + width)
        in_band &= draws.chosen(BAND_MASKED)
        share = draws.uniform(0, FRAMES_MASKED)
        is_chosen = draws.uniform(columns=tf.shape(valid)[1]) < share
        is_chosen &= tf.reduce_sum(tf.cast(valid, tf.int32), 1) >= _MIN_FRAMES_TO_MASK
        return is_chosen[:, :, tf.newaxis] | in_band[:, tf.newaxis]


class _Draws:
    """Random numbers for a batch's clips; each call has a seed of its own."""

    def __init__(self, seed: tf.Tensor, num_clips: tf.Tensor) -> None:
        self._seed, self._num_clips, self._calls = seed, num_clips, 0

    def uniform(
        self, low: float = 0.0, high: float = 1.0, columns: int | tf.Tensor = 1
    ) -> tf.Tensor:
        """Returns numbers from `low` up to `high`: float32 `[clips, columns]`."""
        numbers = tf.random.stateless_uniform(*self._arguments(columns))
        return low + (high - low) * numbers

    def normal(self, stddev: float, columns: int) -> tf.Tensor:
        """Returns normal numbers of mean 0: float32 `[clips, columns]`."""
        return stddev * tf.random.stateless_normal(*self._arguments(columns))

    def chosen(self, probability: float) -> tf.Tensor:
        """Returns True with a probability: `[clips, 1]`."""
        return self.uniform() < probability

    def others(self) -> tf.Tensor:
        """Returns a random permutation of the clips: int32 `[clips]`."""
        return tf.argsort(self.uniform()[:, 0])

    def _arguments(self, columns: int | tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        self._calls += 1
        seed = tf.random.fold_in(self._seed, self._calls)
        return [self._num_clips, columns], seed


def _mixed(
    power: tf.Tensor, valid: tf.Tensor, targets: tf.Tensor, draws: _Draws
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes some clips with others of the batch, where these have not ended."""
    others, is_mixed = draws.others(), draws.chosen(MIXED)
    # The larger of x and 1 - x, where x has the distribution Beta(1/2, 1/2).
    share = tf.where(is_mixed, tf.sin(draws.uniform(np.pi / 4, np.pi / 2)) ** 2, 1.0)

    def mix(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        return share * values + (1 - share) * tf.gather(values, others)

    mixed = mix(power, share[:, tf.newaxis])
    mixed = tf.where(tf.gather(valid, others), mixed, power)
    return mixed, tf.where(is_mixed, mix(targets, share), targets)


def _knot_weights(places: np.ndarray) -> np.ndarray:
    """Returns weights of linear interpolation between knots, `[knots, places]`.

    `places` are from 0, the first knot, to 1, the last.
    """
    knots = np.linspace(0, 1, _NUM_KNOTS)
    weights = [np.interp(places, knots, row) for row in np.eye(_NUM_KNOTS)]
    return np.array(weights, np.float32)


def _moved(filters: np.ndarray, shift: int) -> np.ndarray:
    """Returns the path `shift` first-order filters further, for each path.

    `filters` `[paths, orders]` are those of each path, NaN where there is none. Near an
    end it is the last path that there is.
    """
    keys = map(tuple, np.nan_to_num(filters, nan=-1))
    paths = {key: path for path, key in enumerate(keys)}
    step = int(np.sign(shift)) or 1

    def moved(first: float, *second: float) -> int:
        tried = ((first + part, *second) for part in range(shift, -step, -step))
        return next(paths[key] for key in tried if key in paths)

    return np.array([moved(*key) for key in paths])
