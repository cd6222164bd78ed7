"""The framing: from waveforms to segments, their valid samples and their weights.

Extraction, exported graphs, prediction and `LogScattering` all cut waveforms with
these functions, so that training and serving see the same segments:

* A sample is sound if it is louder than `sound.SILENCE`, at most `sound.LOUDEST`, and
  differs from the first sample of its clip: TensorFlow Serving pads the clips of a
  batch with their first sample, others pad with zeros. Neither changes a segment.
* A clip begins at its first sound. A head of 64 equal samples or more is skipped like
  silence.
* Segments tile the clip from there. A segment is valid up to its last sound and
  extended by reflection; segments without sound are dropped.
* A clip without any sound is one segment of one zero sample.
* Samples that are not finite or louder than `sound.LOUDEST` count as zero.

Waveforms are float32 `[batch, samples]`. Only core operations of TensorFlow are used.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from genre_tl import params
from genre_tl.audio import sound

PAD_VALUE = -1000.0
"""Value of every path of a frame beyond the end of a clip."""

_SEARCH_SAMPLES = 2**16  # searched for the first sound at a time


class Segments(NamedTuple):
    """Segments of a batch of clips, in order: tensors `[segments]`."""

    clips: tf.Tensor  # row of each segment's clip, int32
    starts: tf.Tensor  # its first sample in the row, int32
    lengths: tf.Tensor  # its valid samples, int32; 0 for a clip without sound
    weights: tf.Tensor  # its valid frames, float32, at least 1

    def select(self, chosen: slice) -> Segments:
        """Returns some of the segments."""
        return Segments(*(values[chosen] for values in self))

    def frames_per_clip(self, num_clips: tf.Tensor) -> tf.Tensor:
        """Returns the valid frames of each clip, float32; 0 without sound."""
        frames = tf.where(self.lengths > 0, self.weights, 0.0)
        return tf.math.unsorted_segment_sum(frames, self.clips, num_clips)


def padding(waveform: tf.Tensor) -> tf.Tensor:
    """Returns the first sample of each clip, which it may be padded with."""
    zeros = tf.zeros([tf.shape(waveform)[0], 1], waveform.dtype)
    return tf.concat([waveform[:, :1], zeros], 1)[:, 0]


def starts(waveform: tf.Tensor) -> tf.Tensor:
    """Returns where each clip has its first sound, or its end: int32 `[batch]`."""
    return _first_sound(waveform, _head_value(waveform))


def segments(
    waveform: tf.Tensor,
    frontend: params.Frontend,
    starts: tf.Tensor,
    padding: tf.Tensor,
) -> Segments:
    """Lists the segments of clips that hold sound, at least one of each clip.

    Args:
      waveform: float32 `[batch, samples]`; both may be 0.
      frontend: has the length of a segment and the hop.
      starts: begin of each clip's first segment, from `starts`; 0 in later pieces.
      padding: value that is not sound, of each clip or its recording, from `padding`.
    """
    num_clips, num_samples = tf.unstack(tf.shape(waveform))
    size = frontend.segment_samples
    most = tf.reduce_max(tf.concat([[1], num_samples - starts], 0))
    numbers = tf.range(-(-most // size))
    clips = tf.repeat(tf.range(num_clips), tf.size(numbers))
    begins = tf.reshape(starts[:, tf.newaxis] + size * numbers, [-1])

    def valid(place: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, begin = place
        return _last_sound(waveform[clip, begin : begin + size], padding[clip])

    # A segment at a time: a recording of hours fits.
    spec = tf.TensorSpec([], tf.int32)
    lengths = tf.map_fn(valid, (clips, begins), fn_output_signature=spec)
    has_sound = tf.reshape(lengths > 0, [num_clips, tf.size(numbers)])
    is_silent = ~tf.reduce_any(has_sound, 1, keepdims=True)
    listed = tf.where(tf.reshape(has_sound | (is_silent & (numbers == 0)), [-1]))[:, 0]
    clips, begins, lengths = (tf.gather(x, listed) for x in (clips, begins, lengths))
    begins = tf.where(lengths > 0, begins, 0)
    return Segments(clips, begins, lengths, weights(lengths, frontend))


def weights(lengths: tf.Tensor, frontend: params.Frontend) -> tf.Tensor:
    """Returns the number of frames of valid samples, float32, at least 1."""
    return tf.cast(tf.maximum(-(-lengths // frontend.hop_samples), 1), tf.float32)


def cut(
    waveform: tf.Tensor, segments: Segments, frontend: params.Frontend
) -> tf.Tensor:
    """Cuts segments out of clips: float32 `[segments, segment_samples]`."""
    size = frontend.segment_samples

    # `mirrored` with slices, which take a sixth of the time but no static shapes.
    def row(place: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, start, length = place
        samples = _usable(waveform[clip, start : start + length])
        samples = tf.pad(samples, [[0, tf.cast(length < 1, tf.int32)]])
        last = tf.size(samples) - 1
        back = samples[tf.maximum(2 * last + 1 - size, 1) : last][::-1]
        period = tf.concat([samples, back], 0)
        rounds = -(-size // tf.size(period))
        return tf.ensure_shape(tf.tile(period, [rounds])[:size], [size])

    places = segments.clips, segments.starts, segments.lengths
    spec = tf.TensorSpec([size], tf.float32)
    return tf.map_fn(row, places, fn_output_signature=spec)


def valid_samples(waveform: tf.Tensor, padding: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the samples of each row up to its last sound, int32 `[batch]`.

    `padding` is a value that is not sound, `[batch]`; by default each row's first.
    """
    not_sound = waveform[:, :1] if padding is None else padding[:, tf.newaxis]
    return _last_sound(waveform, not_sound)


def mirrored(waveform: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Extends rows of static length by reflection at their last valid sample."""
    last = tf.maximum(lengths, 1)[:, tf.newaxis] - 1
    phase = tf.range(waveform.shape[1])[tf.newaxis] % tf.maximum(2 * last, 1)
    rows = tf.gather(_usable(waveform), last - tf.abs(last - phase), batch_dims=1)
    return tf.where(lengths[:, tf.newaxis] > 0, rows, 0.0)


def _head_value(waveform: tf.Tensor) -> tf.Tensor:
    """Returns the value that the head of each clip repeats, 0 if none."""
    head = waveform[:, : sound.MIN_HEAD]
    is_constant = tf.reduce_all(tf.equal(head, head[:, :1]), 1)
    is_constant &= tf.equal(tf.shape(head)[1], sound.MIN_HEAD)
    return tf.where(is_constant, padding(waveform), 0.0)


def _first_sound(waveform: tf.Tensor, head_value: tf.Tensor) -> tf.Tensor:
    size = tf.shape(waveform)[1]

    def search(begin: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        block = waveform[:, begin : begin + _SEARCH_SAMPLES]
        is_sound = _is_sound(block, head_value[:, tf.newaxis])
        positions = begin + tf.range(tf.shape(block)[1])
        first = tf.reduce_min(tf.where(is_sound, positions, size), 1)
        return begin + _SEARCH_SAMPLES, tf.minimum(found, first)

    _, found = tf.while_loop(
        lambda begin, found: (begin < size) & tf.reduce_any(tf.equal(found, size)),
        search,
        (0, tf.fill([tf.shape(waveform)[0]], size)),
    )
    return found


def _last_sound(samples: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    positions = tf.range(1, tf.shape(samples)[-1] + 1)
    ends = tf.where(_is_sound(samples, padding), positions, 0)
    return tf.maximum(tf.reduce_max(ends, -1), 0)


def _is_sound(samples: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    level = tf.abs(samples)
    return (
        (level > sound.SILENCE)
        & (level <= sound.LOUDEST)
        & tf.not_equal(samples, padding)
    )


def _usable(samples: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.abs(samples) <= sound.LOUDEST, samples, 0.0)
