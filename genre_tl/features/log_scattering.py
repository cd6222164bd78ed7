"""Waveforms to log-scattering frames, the input of the recurrent network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.features import framing

# A lower level is silence.
MIN_LEVEL = 1e-7

_ARGUMENTS = ("J", "Q", "T", "max_order", "log_floor", "remove_level")


def logarithms(
    coefficients: tf.Tensor, parents: np.ndarray, log_floor: float, axis: int = -1
) -> tf.Tensor:
    """Returns log-scattering features of coefficients.

    `axis` has the paths of order one, then those of order two; `parents` are the
    first-order paths that the latter come from.
    """
    # Rounding may leave a value below zero.
    logs = tf.math.log(tf.nn.relu(coefficients) + log_floor)
    if not len(parents):
        return logs
    first, second = _orders(logs, parents, axis)
    return tf.concat([first, second - tf.gather(first, parents, axis=axis)], axis)


def coefficients(
    logs: tf.Tensor, parents: np.ndarray, log_floor: float, axis: int = -1
) -> tf.Tensor:
    """Returns the coefficients of features: the inverse of `logarithms`."""
    if len(parents):
        first, second = _orders(logs, parents, axis)
        parts = [first, second + tf.gather(first, parents, axis=axis)]
        logs = tf.concat(parts, axis)
    return tf.nn.relu(tf.exp(logs) - log_floor)


def _orders(values: tf.Tensor, parents: np.ndarray, axis: int) -> list[tf.Tensor]:
    return tf.split(values, [values.shape[axis] - len(parents), len(parents)], axis)


@keras.saving.register_keras_serializable(package="genre_tl")
class LogScattering(keras.layers.Layer):
    """Computes log-scattering frames `[batch, frames, paths]` of `[batch, samples]`.

    First order: log(S1 + floor). Second order: log of S2 over the S1 of its
    parent path, which makes it independent of loudness (Andén and Mallat,
    2014, section III-B: renormalised scattering). Order zero, the mean of the
    signal, is inaudible and left out.

    A clip at 16 kHz may be shorter than the input. It ends with its last sound, as
    `framing` defines it, and is extended by reflection; frames that begin later hold
    `PAD_VALUE` in every path, for `keras.layers.Masking`. Silence is one frame.

    Args:
      J: log2 of the largest wavelet scale, in samples.
      Q: wavelets per octave.
      T: samples that the low-pass averages; 2**J if None. Frames are the power of
        two not above T apart.
      max_order: 1 or 2.
      log_floor: added before the logarithm; full scale is 1, or the level if that is
        removed.
      remove_level: whether to divide each row's coefficients by the root mean square
        of its valid first-order coefficients, so that loudness has no effect.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        J: int = 13,
        Q: int = 8,
        T: int | None = None,
        max_order: int = 2,
        log_floor: float = 1e-5,
        remove_level: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.J, self.Q, self.T = J, Q, T
        self.max_order, self.log_floor = max_order, log_floor
        self.remove_level = remove_level
        self.scattering = scattering.Scattering1D(J, Q, T, max_order, dtype="float32")
        self._hop = params.Frontend(J, T=T).hop_samples
        meta = self.scattering.meta()
        self.num_first = int(np.sum(meta["order"] == 1))
        self.parents = meta["n"][meta["order"] == 2, 0].astype(int)

    @classmethod
    def from_params(cls, frontend: params.Frontend) -> LogScattering:
        """Returns the layer of a preset's front end."""
        return cls(*(getattr(frontend, name) for name in _ARGUMENTS))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Plans the transform for a static number of samples."""
        self.scattering.build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, frames, paths]` of `[batch, samples]`."""
        waveform = tf.cast(inputs, tf.float32)
        lengths = framing.valid_samples(waveform)
        return self.of_mirrored(framing.mirrored(waveform, lengths), lengths)

    def of_mirrored(self, waveform: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the frames of rows from `framing.cut` with these valid samples."""
        coefficients = self.scattering(waveform)[:, 1:]  # without order zero
        starts = tf.range(coefficients.shape[2]) * self._hop
        is_valid = starts[:, tf.newaxis] < tf.maximum(lengths, 1)[:, None, None]
        if self.remove_level:
            coefficients /= self._level(coefficients, is_valid)
        logs = logarithms(coefficients, self.parents, self.log_floor, axis=1)
        frames = tf.transpose(logs, [0, 2, 1])
        return tf.where(is_valid, frames, tf.constant(framing.PAD_VALUE, frames.dtype))

    def _level(self, coefficients: tf.Tensor, is_valid: tf.Tensor) -> tf.Tensor:
        """Returns the root mean square of the first order, `[batch, 1, 1]`."""
        first = coefficients[:, : self.num_first]
        weight = tf.cast(tf.transpose(is_valid, [0, 2, 1]), first.dtype)
        total = tf.reduce_sum(first**2 * weight, [1, 2], keepdims=True)
        count = self.num_first * tf.reduce_sum(weight, 2, keepdims=True)
        return tf.maximum(tf.sqrt(total / count), MIN_LEVEL)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns `[batch, frames, paths]`."""
        batch, paths, frames = self.scattering.compute_output_shape(input_shape)
        return batch, frames, paths - 1  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        return super().get_config() | arguments
