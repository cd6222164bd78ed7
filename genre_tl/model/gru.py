"""Keras's recurrent layer with a loop that is faster on a CPU.

The input's part of the gates is one product for all frames; only the recurrence is a
loop, and its gradient is written down (Cho et al. 2014, with `reset_after`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="genre_tl")
class GRU(keras.layers.GRU):
    """`keras.layers.GRU` with a faster loop on a CPU; the same weights and results.

    Keras multiplies the input with its kernel, and sums the gradient of either
    kernel, step by step. Here the steps of a sequence do so together, and only the
    recurrence itself is a loop, with its gradient written down. Where cuDNN can be
    used, or with options that the network does not need, Keras's own loop runs.
    """

    def inner_loop(
        self,
        sequences: tf.Tensor,
        initial_state: list[tf.Tensor],
        mask: tf.Tensor | None,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns last output, all outputs and last state, as Keras asks for."""
        if not self._is_plain() or self._finds_cudnn():
            return super().inner_loop(sequences, initial_state, mask, training)
        if mask is None:
            mask = tf.ones(tf.shape(sequences)[:2], tf.bool)
        cell = self.cell
        steps = tf.transpose(sequences, [1, 0, 2])
        gates = tf.tensordot(steps, cell.kernel, 1) + cell.bias[0]
        keep = tf.transpose(mask)[:, :, tf.newaxis]  # [frames, batch, 1]
        # Only what is trained needs the gradient, and an export must not hold it.
        recur = _differentiable(keep) if training else _recur(keep)
        states, *_ = recur(
            gates,
            tf.convert_to_tensor(cell.recurrent_kernel),
            tf.convert_to_tensor(cell.bias[1]),
            initial_state[0],
        )
        return states[-1], tf.transpose(states, [1, 0, 2]), [states[-1]]

    def _is_plain(self) -> bool:
        return (
            self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and self.use_bias
            and self.reset_after
            and not (self.dropout or self.recurrent_dropout or self.go_backwards)
        )

    def _finds_cudnn(self) -> bool:
        return bool(self.use_cudnn and tf.config.list_logical_devices("GPU"))


def _recur(keep: tf.Tensor) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Returns the loop over frames (Cho et al. 2014, with `reset_after`).

    The loop takes the input's part of the gates `[frames, batch, 3 units]`, the
    recurrent kernel `[units, 3 units]`, its bias `[3 units]` and the first state
    `[batch, units]`. It returns, each `[frames, batch, ...]`, the states, update
    and reset gates together, candidates, and the candidates' recurrent part.

    Args:
      keep: bool `[frames, batch, 1]`; where false, the state stays as it was.
    """

    def loop(
        gates: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        units = kernel.shape[0]

        def step(
            frame: tf.Tensor, state: tf.Tensor, *kept: tf.TensorArray
        ) -> tuple[Any, ...]:
            given, recurrent = gates[frame], tf.matmul(state, kernel) + bias
            opened = tf.sigmoid(given[:, : 2 * units] + recurrent[:, : 2 * units])
            recurrent = recurrent[:, 2 * units :]
            candidate = tf.tanh(given[:, 2 * units :] + opened[:, units:] * recurrent)
            new = candidate + opened[:, :units] * (state - candidate)
            new = tf.where(keep[frame], new, state)
            values = (new, opened, candidate, recurrent)
            written = (a.write(frame, v) for a, v in zip(kept, values, strict=True))
            return frame + 1, new, *written

        frames = tf.shape(gates)[0]
        arrays = [tf.TensorArray(gates.dtype, frames) for _ in range(4)]
        last = tf.while_loop(
            lambda frame, *_: frame < frames, step, (0, state, *arrays)
        )
        return tuple(array.stack() for array in last[2:])

    return loop


def _differentiable(keep: tf.Tensor) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Returns the loop of `_recur` with a gradient, of the states alone."""

    @tf.custom_gradient
    def loop(
        gates: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, state: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor, ...]]]:
        saved = _recur(keep)(gates, kernel, bias, state)
        states, opened, candidate, recurrent = saved

        def gradient(upstream: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            before = tf.concat([state[tf.newaxis], states[:-1]], axis=0)
            update, reset = tf.split(opened, 2, axis=2)
            # Of the state after a frame, by each gate; nothing flows where padded.
            valid = tf.cast(keep, gates.dtype)
            by_update = valid * (before - candidate) * update * (1 - update)
            by_candidate = valid * (1 - update) * (1 - candidate**2)
            by_reset = by_candidate * recurrent * reset * (1 - reset)
            slopes = tf.concat([by_update, by_reset, by_candidate * reset], axis=2)
            carried = tf.where(keep, update, 1)
            total, of_first = _backward(upstream, slopes, carried, kernel)
            total = tf.tile(total, [1, 1, 3])
            # All frames and clips in one product, where Keras adds up by frame.
            of_recurrent = tf.reshape(total * slopes, [-1, kernel.shape[1]])
            before = tf.reshape(before, [-1, kernel.shape[0]])
            return (
                total * tf.concat([by_update, by_reset, by_candidate], axis=2),
                tf.matmul(before, of_recurrent, transpose_a=True),
                tf.reduce_sum(of_recurrent, axis=0),
                of_first,
            )

        return saved, gradient

    return loop


def _backward(
    upstream: tf.Tensor, slopes: tf.Tensor, carried: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs back through the frames.

    Args:
      upstream: gradient of each state by what follows the layer.
      slopes: of the state by the recurrent part, `[frames, batch, 3 units]`.
      carried: share of the state before that stays, `[frames, batch, units]`.
      kernel: the recurrent kernel, `[units, 3 units]`.

    Returns:
      Gradients of every state, all that follows considered, and of the first one.
    """
    frames = tf.shape(upstream)[0]

    def step(
        frame: tf.Tensor, gradient: tf.Tensor, totals: tf.TensorArray
    ) -> tuple[Any, ...]:
        total = gradient + upstream[frame]
        gates = tf.tile(total, [1, 3]) * slopes[frame]
        # In this order the product takes a CPU a third of the time.
        product = tf.transpose(tf.matmul(kernel, gates, transpose_b=True))
        return frame - 1, total * carried[frame] + product, totals.write(frame, total)

    totals = tf.TensorArray(upstream.dtype, frames)
    begin = (frames - 1, tf.zeros_like(upstream[0]), totals)
    _, first, totals = tf.while_loop(lambda frame, *_: frame >= 0, step, begin)
    return totals.stack(), first
