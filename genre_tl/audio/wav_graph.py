"""Encoded WAV files to waveforms, in core TensorFlow ops: a server can run it.

`decode` does inside a graph what `audio.read` does with files: any sample rate, any
number of channels, 8 to 32 bits or floating-point, chunks in any order, and what a
writer that did not finish leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from genre_tl import params
from genre_tl.audio import decoding

MAX_BATCH_SAMPLES = 2**29
"""Most samples that a batch may come to, at the model's rate: some nine hours."""

# A file of nothing but empty chunks must not keep a server busy.
_MAX_CHUNKS = 1000

# Samples of all channels that are decoded and resampled at a time, or one second if
# that is more.
_BLOCK_SAMPLES = 2**20

# Louder than any 32-bit integer: no sample, and its square would overflow.
_LOUDEST = 2.0**31

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# What follows the codec's number in an extensible header: the rest of a GUID.
_GUID = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"

# The size of `data` in an RF64 file, whose `ds64`, always the first chunk, has it.
_IN_DS64 = 2**32 - 1

# Columns of what `_parse` returns, all int64.
_CODE, _CHANNELS, _RATE, _ALIGN, _START, _FRAMES = range(6)


def decode(
    data: tf.Tensor, name: str = "audio_bytes", numbers: tf.Tensor | None = None
) -> tf.Tensor:
    """Decodes WAV files.

    A file that breaks off is used as far as it goes. The channels are averaged, and
    resampled by `audio.resample`. Samples that are no numbers count as zero.

    Args:
      data: string `[batch]`, a whole file each.
      name: of the argument, for messages.
      numbers: of the files, for messages, int64 `[batch]`; from 0 if None.

    Returns:
      float32 `[batch, samples]` at `params.SAMPLE_RATE_HZ`, zeros after the end of
      the shorter ones.

    Raises:
      tf.errors.InvalidArgumentError: if one cannot be decoded; says which, and why.
    """
    if numbers is None:
        numbers = tf.range(tf.size(data, tf.int64))
    parsed, reasons = tf.map_fn(
        _parse, data, fn_output_signature=(tf.TensorSpec([6], tf.int64), tf.string)
    )
    parsed = tf.ensure_shape(parsed, [None, 6])
    with tf.control_dependencies([_require_fine(reasons, name, numbers)]):
        parsed = tf.identity(parsed)
        lengths = _at_model_rate(parsed[:, _FRAMES], parsed[:, _RATE])
    longest = tf.reduce_max(tf.concat([lengths, [0]], 0))
    with tf.control_dependencies([_require_room(longest, tf.size(data), name)]):
        # Nothing is decoded before all were found to be fine.
        longest, parsed = tf.identity(longest), tf.identity(parsed)

    def row(number: tf.Tensor) -> tf.Tensor:
        samples = _waveform(data[number], parsed[number])
        return tf.pad(samples, [[0, longest - tf.size(samples, tf.int64)]])

    samples = _concat(row, tf.size(data, tf.int64))
    return tf.reshape(samples, tf.stack([tf.size(data, tf.int64), longest]))


def is_sample(waveform: tf.Tensor) -> tf.Tensor:
    """Says of each value whether it can be a sample: a number, at most 2^31."""
    return (waveform > -_LOUDEST) & (waveform < _LOUDEST)


def _at_model_rate(num_samples: tf.Tensor, rate_hz: tf.Tensor) -> tf.Tensor:
    return -(-num_samples * params.SAMPLE_RATE_HZ // rate_hz)


def _require_fine(reasons: tf.Tensor, name: str, numbers: tf.Tensor) -> tf.Operation:
    broken = tf.where(tf.not_equal(reasons, ""))[:, 0]
    where = tf.strings.as_string(tf.gather(numbers, broken[:1]))
    text = tf.strings.join([name, "[", where, "]: ", tf.gather(reasons, broken[:1])])
    return tf.debugging.Assert(tf.equal(tf.size(broken), 0), [text])


def _require_room(longest: tf.Tensor, count: tf.Tensor, name: str) -> tf.Operation:
    total = longest * tf.cast(count, tf.int64)
    text = tf.strings.join(
        [
            f"{name}: clips of the length of the longest come to ",
            tf.strings.as_string(total // (3600 * params.SAMPLE_RATE_HZ)),
            " hours, more than a batch may hold: send fewer, or shorter ones",
        ]
    )
    return tf.debugging.Assert(total <= MAX_BATCH_SAMPLES, [text])


def _parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the columns of one file, and "" or what is wrong with it."""
    length = tf.strings.length(data, unit="BYTE")
    length = tf.cast(length, tf.int64)
    (fmt, fmt_size), (start, data_size) = _find_chunks(data, length)
    fields = _bytes(data, fmt, 40)
    tag, channels = _number(fields, 0, 2), _number(fields, 2, 2)
    rate, align, bits = (_number(fields, *at) for at in ((4, 4), (12, 2), (14, 2)))
    is_extensible = tf.equal(tag, _EXTENSIBLE) & (fmt_size >= 40)
    guid = tf.reduce_all(tf.equal(fields[26:], tf.constant(list(_GUID), tf.int64)))
    codec = tf.where(is_extensible & guid, _number(fields, 24, 2), tag)
    sizes = tf.where(tf.equal(codec, _PCM), [8, 16, 24, 32], [32, 64, 32, 64])
    num_frames = data_size // tf.maximum(align, 1)
    code = tf.where(tf.equal(codec, _PCM), bits // 8 - 1, 3 + bits // 32)
    is_riff = _is(data, 0, b"RIFF") | _is(data, 0, b"RF64")
    number = tf.strings.as_string
    reasons = [
        (length < 1, "it is empty (0 bytes)"),
        (
            ~(is_riff & _is(data, 8, b"WAVE")),
            "it has no RIFF/WAVE header: send a WAV file",
        ),
        (fmt < 0, "its header breaks off or is damaged: there is no fmt chunk"),
        (fmt_size < 16, "its fmt chunk is too short"),
        (
            tf.not_equal(codec, _PCM) & tf.not_equal(codec, _FLOAT),
            tf.strings.join(
                ["its codec, number ", number(codec), ", is neither PCM nor float"]
            ),
        ),
        (channels < 1, "it has 0 channels"),
        (
            (rate < decoding.MIN_RATE_HZ) | (rate > decoding.MAX_RATE_HZ),
            tf.strings.join(["no music has ", number(rate), " samples a second"]),
        ),
        (
            ~tf.reduce_any(tf.equal(bits, tf.cast(sizes, tf.int64))),
            tf.strings.join(["it has ", number(bits), " bits a sample"]),
        ),
        (
            tf.not_equal(align, channels * bits // 8),
            tf.strings.join(
                ["its block size, ", number(align), ", does not fit its channels"]
            ),
        ),
        (start < 0, "it breaks off or is damaged before any audio"),
        (num_frames < 1, "it has a header, but no audio"),
    ]
    reason = tf.constant("")
    for is_wrong, text in reversed(reasons):
        reason = tf.where(is_wrong, text, reason)
    return tf.stack([code, channels, rate, align, start, num_frames]), reason


def _find_chunks(
    data: tf.Tensor, length: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns position and size of the first `fmt ` and `data`; -1 if there is none."""
    none = tf.constant([-1, 0], tf.int64)
    large = _large_size(data, length)

    def is_looking(
        count: tf.Tensor, at: tf.Tensor, fmt: tf.Tensor, sound: tf.Tensor
    ) -> tf.Tensor:
        is_missing = (fmt[0] < 0) | (sound[0] < 0)
        return is_missing & (at + 8 <= length) & (count < _MAX_CHUNKS)

    def look(
        count: tf.Tensor, at: tf.Tensor, fmt: tf.Tensor, sound: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        size, body = _number(_bytes(data, at + 4, 4), 0, 4), at + 8
        is_fmt = _is(data, at, b"fmt ") & (fmt[0] < 0)
        is_sound = _is(data, at, b"data") & (sound[0] < 0)
        # Who writes to a pipe states 0, or the most there is, and means: all.
        size = tf.where(is_sound & tf.equal(size, 0), length, size)
        size = tf.where(is_sound & tf.equal(size, _IN_DS64), large, size)
        found = tf.stack([body, tf.minimum(size, length - body)])
        fmt, sound = tf.where(is_fmt, found, fmt), tf.where(is_sound, found, sound)
        return count + 1, body + size + size % 2, fmt, sound

    first = tf.constant(12, tf.int64)
    _, _, fmt, sound = tf.while_loop(is_looking, look, (0, first, none, none))
    return (fmt[0], fmt[1]), (sound[0], sound[1])


def _large_size(data: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Returns the size of `data` that an RF64 file states apart, or that of all."""
    is_stated = _is(data, 0, b"RF64") & _is(data, 12, b"ds64")
    size = _number(_bytes(data, 28, 8), 0, 8)  # Negative from 2^63 on.
    return tf.where(is_stated & (size > 0) & (size < length), size, length)


def _is(data: tf.Tensor, at: Any, text: bytes) -> tf.Tensor:
    return tf.equal(_piece(data, at, len(text)), text)


def _piece(data: tf.Tensor, at: Any, num_bytes: Any) -> tf.Tensor:
    """Returns bytes of a file, as many of them as there are."""
    length = tf.strings.length(data, unit="BYTE")
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, tf.cast(length, tf.int64))
    return tf.strings.substr(data, at, tf.cast(num_bytes, tf.int64))


def _bytes(data: tf.Tensor, at: Any, num_bytes: int) -> tf.Tensor:
    """Returns bytes as int64 `[num_bytes]`, zeros beyond the end of the file."""
    found = tf.io.decode_raw(_piece(data, at, num_bytes), tf.uint8)
    found = tf.pad(found, [[0, num_bytes - tf.size(found)]])
    return tf.ensure_shape(tf.cast(found, tf.int64), [num_bytes])


def _number(values: tf.Tensor, at: int, num_bytes: int) -> tf.Tensor:
    powers = tf.constant([256**n for n in range(num_bytes)], tf.int64)
    return tf.reduce_sum(values[at : at + num_bytes] * powers)


def _waveform(data: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[samples]` of one file that was found to be fine."""
    code, channels, rate, align, start, num_frames = tf.unstack(columns)
    # Whole seconds are whole samples at both rates. One more on either side is
    # farther than the filter reaches.
    secs = tf.maximum(_BLOCK_SAMPLES // (rate * channels), 1)
    num_blocks = -(-num_frames // (secs * rate))

    def block(number: tf.Tensor) -> tf.Tensor:
        first_sec = tf.maximum(number * secs - 1, 0)
        first = first_sec * rate
        last = tf.minimum(((number + 1) * secs + 1) * rate, num_frames)
        encoded = _piece(data, start + first * align, (last - first) * align)
        samples = tf.reshape(_samples(encoded, code), tf.stack([-1, channels]))
        samples = tf.where(is_sample(samples), samples, 0.0)
        samples = decoding.resample(decoding.mono(samples), rate, params.SAMPLE_RATE_HZ)
        skipped = (number * secs - first_sec) * params.SAMPLE_RATE_HZ
        return samples[skipped : skipped + secs * params.SAMPLE_RATE_HZ]

    return _concat(block, num_blocks)


def _concat(part: Callable[[tf.Tensor], tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """Returns parts 0 to `count - 1`, float32 `[any]` each, one after the other."""
    parts = tf.TensorArray(
        tf.float32, tf.cast(count, tf.int32), infer_shape=False, element_shape=[None]
    )
    _, parts = tf.while_loop(
        lambda number, _: number < count,
        lambda number, parts: (
            number + 1,
            parts.write(tf.cast(number, tf.int32), part(number)),
        ),
        (tf.constant(0, tf.int64), parts),
        parallel_iterations=1,  # bounds the memory
    )
    return parts.concat()


def _samples(encoded: tf.Tensor, code: tf.Tensor) -> tf.Tensor:
    """Returns float32 from -1 to 1, channels interleaved."""

    def raw(dtype: tf.DType) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(encoded, dtype), tf.float32)

    def int24() -> tf.Tensor:
        low, middle, high = tf.unstack(tf.reshape(raw(tf.uint8), [-1, 3]), axis=1)
        high -= tf.where(high > 127, 256.0, 0.0)
        return (low + 256 * middle + 65536 * high) / 2**23

    return tf.switch_case(
        tf.cast(code, tf.int32),
        [
            lambda: (raw(tf.uint8) - 128) / 2**7,
            lambda: raw(tf.int16) / 2**15,
            int24,
            lambda: raw(tf.int32) / 2**31,
            lambda: raw(tf.float32),
            lambda: raw(tf.float64),
        ],
    )
