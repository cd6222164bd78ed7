"""Decodes WAV files inside a TensorFlow graph, with core ops that a server has.

Any sample rate and number of channels, 8 to 32-bit PCM or float, chunks in any order,
and files whose writer was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from genre_tl import params
from genre_tl.audio import resampling, streaming

MAX_CLIPS = 32  # of a batch; each costs a segment at least
MAX_BATCH_SAMPLES = 2**26  # with padding, at the model's rate: 70 minutes
# Points of the transforms that resample the beginnings of all files. 16 seconds are
# transformed if the rates have no common divisor, however short the file is.
_MAX_TRANSFORMED = 2**25
_MAX_CHUNKS = 100  # so that files of empty chunks cannot keep a server busy
_BLOCK_SAMPLES = 2**20  # of all channels, resampled at a time; at least one second
_LOUDEST = 2.0**31  # of any 32-bit integer; the square of more could overflow

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# The rest of the GUID behind the codec's number in an extensible header.
_GUID = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"

_IN_DS64 = 2**32 - 1  # as the size of `data`: the first chunk, `ds64`, has the real one


def decode(
    data: tf.Tensor, name: str = "audio_bytes", numbers: tf.Tensor | None = None
) -> tf.Tensor:
    """Decodes and resamples WAV files, channels averaged.

    Of a file that is cut off, what is there is used. Samples that are NaN or infinite
    become zero.

    Args:
      data: string `[batch]`, a whole file each.
      name: the argument's name in error messages.
      numbers: the files' numbers in error messages, int64 `[batch]`; from 0 if None.

    Returns:
      float32 `[batch, samples]` at `params.SAMPLE_RATE_HZ`, padded with zeros.

    Raises:
      tf.errors.InvalidArgumentError: if a file cannot be decoded; says which and why.
    """
    data = require_axes(data, name, "batch")
    count = tf.size(data, tf.int64)
    with tf.control_dependencies([require_room(count, 0, name)]):
        data = tf.identity(data)
    if numbers is None:
        numbers = tf.range(count)
    parsed, reasons = tf.map_fn(
        _parse, data, fn_output_signature=(tf.TensorSpec([6], tf.int64), tf.string)
    )
    # All files are checked before any is decoded.
    with tf.control_dependencies([_require_valid(reasons, name, numbers)]):
        parsed = tf.ensure_shape(parsed, [None, 6])
        _, _, rates_hz, _, _, lengths = tf.unstack(parsed, axis=1)
        lengths = -(-lengths * params.SAMPLE_RATE_HZ // rates_hz)
    longest = tf.reduce_max(tf.concat([lengths, [0]], 0))
    bounds = require_room(count, longest, name), _require_quick(rates_hz, name)
    with tf.control_dependencies(bounds):
        longest, parsed = tf.identity(longest), tf.identity(parsed)

    def row(number: tf.Tensor) -> tf.Tensor:
        samples = _waveform(data[number], parsed[number])
        return tf.pad(samples, [[0, longest - tf.size(samples, tf.int64)]])

    return tf.reshape(_concat(row, count), tf.stack([count, longest]))


def _text(*parts: Any) -> tf.Tensor:
    return tf.strings.join(
        [
            part
            if isinstance(part, str) or part.dtype == tf.string
            else tf.strings.as_string(part)
            for part in parts
        ]
    )


def _require_valid(reasons: tf.Tensor, name: str, numbers: tf.Tensor) -> tf.Operation:
    broken = tf.where(tf.not_equal(reasons, ""))[:, 0]
    number, reason = tf.gather(numbers, broken[:1]), tf.gather(reasons, broken[:1])
    text = _text(name, "[", number, "]: ", reason)
    return tf.debugging.Assert(tf.equal(tf.size(broken), 0), [text])


def require_axes(value: tf.Tensor, name: str, *axes: str) -> tf.Tensor:
    """Returns a tensor with these axes; refuses other ranks.

    Args:
      value: of any rank.
      name: the argument's name in the message.
      axes: names of the axes expected.

    Raises:
      tf.errors.InvalidArgumentError: names the shape given and the one expected.
    """
    sizes = tf.strings.as_string(tf.shape(value))
    given = tf.strings.reduce_join(sizes, separator=", ")
    text = _text(f"{name}: shape [", given, f"], expected [{', '.join(axes)}]")
    assertion = tf.debugging.Assert(tf.equal(tf.rank(value), len(axes)), [text])
    with tf.control_dependencies([assertion]):
        value = tf.identity(value)
    # Not `ensure_shape`: TensorFlow's optimizer would take the rank for granted, and
    # drop the assertion.
    value.set_shape([None] * len(axes))
    return value


def require_room(count: tf.Tensor, longest: Any, name: str) -> tf.Operation:
    """Refuses batches that would exhaust a server, before anything is computed.

    Args:
      count: number of clips, int64.
      longest: samples of the longest clip, at the model's rate, int64.
      name: the argument's name in the message.

    Raises:
      tf.errors.InvalidArgumentError: names the limit that is exceeded.
    """
    minute = 60 * params.SAMPLE_RATE_HZ
    minutes = tf.maximum(count, 1) * longest // minute
    most = f" minutes with padding, {MAX_BATCH_SAMPLES // minute} at most: "
    text = tf.where(
        count > MAX_CLIPS,
        _text(f"{name}: ", count, f" clips, {MAX_CLIPS} at most: send fewer at a time"),
        _text(f"{name}: ", minutes, most, "send fewer or shorter clips at a time"),
    )
    # The longest alone is bounded too: the product of both could overflow.
    is_right = (count <= MAX_CLIPS) & (longest <= MAX_BATCH_SAMPLES)
    is_right &= count * longest <= MAX_BATCH_SAMPLES
    return tf.debugging.Assert(is_right, [text])


def _require_quick(rates_hz: tf.Tensor, name: str) -> tf.Operation:
    sizes = tf.map_fn(
        lambda rate: resampling.transform_size(rate, params.SAMPLE_RATE_HZ), rates_hz
    )
    text = (
        f"{name}: sample rates that take too long to convert to "
        f"{params.SAMPLE_RATE_HZ} Hz: send fewer files at a time, or convert them"
    )
    return tf.debugging.Assert(tf.reduce_sum(sizes) <= _MAX_TRANSFORMED, [text])


def _parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what the header says, int64 `[6]`, and what is wrong with it, or "".

    The six are: code of the sample format, channels, rate, bytes per frame, start of
    the audio, number of frames.
    """
    length = tf.cast(tf.strings.length(data, unit="BYTE"), tf.int64)
    (fmt, fmt_size), (start, data_size) = map(
        tf.unstack, tf.unstack(_find_chunks(data, length))
    )
    fields = ((0, 2), (2, 2), (4, 4), (12, 2), (14, 2), (24, 2))
    numbers = [_number(data, fmt + at, size) for at, size in fields]
    tag, channels, rate, align, bits, codec = numbers
    is_extensible = tf.equal(tag, _EXTENSIBLE) & (fmt_size >= 40)
    codec = tf.where(is_extensible & _is(data, fmt + 26, _GUID), codec, tag)
    is_pcm, is_float = tf.equal(codec, _PCM), tf.equal(codec, _FLOAT)
    sizes = tf.cast(tf.where(is_pcm, [8, 16, 24, 32], [32, 64, 32, 64]), tf.int64)
    code = tf.where(is_pcm, bits // 8 - 1, 3 + bits // 32)
    num_frames = data_size // tf.maximum(align, 1)
    is_riff = _is(data, 0, b"RIFF") | _is(data, 0, b"RF64")
    is_rate = (rate >= streaming.MIN_RATE_HZ) & (rate <= streaming.MAX_RATE_HZ)
    problem = _first_problem(
        (length > 0, "empty file"),
        (is_riff & _is(data, 8, b"WAVE"), "no RIFF/WAVE header: send a WAV file"),
        (fmt >= 0, "no fmt chunk: the header is cut off or damaged"),
        (fmt_size >= 16, "fmt chunk too short"),
        (is_pcm | is_float, _text("codec ", codec, " is neither PCM nor float")),
        (channels > 0, "0 channels"),
        (is_rate, _text("sample rate ", rate, " Hz is outside 1-768 kHz")),
        (tf.reduce_any(tf.equal(bits, sizes)), _text("unsupported: ", bits, " bits")),
        (tf.equal(align, channels * bits // 8), _text("wrong block size ", align)),
        (start >= 0, "cut off or damaged before any audio"),
        (num_frames > 0, "no audio after the header"),
    )
    return tf.stack([code, channels, rate, align, start, num_frames]), problem


def _first_problem(*checks: tuple[tf.Tensor, Any]) -> tf.Tensor:
    problem = tf.constant("")
    for is_right, text in reversed(checks):
        problem = tf.where(is_right, problem, text)
    return problem


def _find_chunks(data: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Returns place (or -1) and size of the first `fmt ` and `data`, int64 `[2, 2]`."""
    large = _large_size(data, length)

    def is_looking(count: tf.Tensor, at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        is_missing = tf.reduce_any(found[:, 0] < 0)
        return is_missing & (at + 8 <= length) & (count < _MAX_CHUNKS)

    def look(count: tf.Tensor, at: tf.Tensor, found: tf.Tensor) -> tuple[Any, ...]:
        size, body = _number(data, at + 4, 4), at + 8
        is_new = tf.equal(_piece(data, at, 4), [b"fmt ", b"data"]) & (found[:, 0] < 0)
        # Writers to a pipe state 0, or the largest number, for "all".
        size = tf.where(is_new[1] & tf.equal(size, 0), length, size)
        size = tf.where(is_new[1] & tf.equal(size, _IN_DS64), large, size)
        chunk = tf.stack([body, tf.minimum(size, length - body)])
        found = tf.where(is_new[:, tf.newaxis], chunk, found)
        return count + 1, body + size + size % 2, found

    start = (0, tf.constant(12, tf.int64), tf.constant([[-1, 0]] * 2, tf.int64))
    return tf.while_loop(is_looking, look, start)[2]


def _large_size(data: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Returns the size of `data` that `ds64` of an RF64 file states, or the file's."""
    is_stated = _is(data, 0, b"RF64") & _is(data, 12, b"ds64")
    size = _number(data, 28, 8)  # Negative from 2^63 on.
    return tf.where(is_stated & (size > 0) & (size < length), size, length)


def _is(data: tf.Tensor, at: Any, text: bytes) -> tf.Tensor:
    return tf.equal(_piece(data, at, len(text)), text)


def _piece(data: tf.Tensor, at: Any, num_bytes: Any) -> tf.Tensor:
    length = tf.strings.length(data, unit="BYTE")
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, tf.cast(length, tf.int64))
    return tf.strings.substr(data, at, tf.cast(num_bytes, tf.int64))


def _number(data: tf.Tensor, at: Any, num_bytes: int) -> tf.Tensor:
    """Returns an unsigned number, with zeros for bytes beyond the end of the file."""
    digits = tf.cast(tf.io.decode_raw(_piece(data, at, num_bytes), tf.uint8), tf.int64)
    powers = tf.constant([256**n for n in range(num_bytes)], tf.int64)
    return tf.reduce_sum(digits * powers[: tf.size(digits)])


def _waveform(data: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    code, channels, rate, align, start, num_frames = tf.unstack(columns)
    # Whole seconds are whole samples at both rates. The resampling filter reaches less
    # than the one second that is added on either side.
    secs = tf.maximum(_BLOCK_SAMPLES // (rate * channels), 1)
    num_blocks = -(-num_frames // (secs * rate))

    def block(number: tf.Tensor) -> tf.Tensor:
        first_sec = tf.maximum(number * secs - 1, 0)
        first = first_sec * rate
        last = tf.minimum(((number + 1) * secs + 1) * rate, num_frames)
        encoded = _piece(data, start + first * align, (last - first) * align)
        samples = tf.reshape(_samples(encoded, code), tf.stack([-1, channels]))
        samples = tf.where(tf.abs(samples) < _LOUDEST, samples, 0.0)  # NaN, too
        samples = tf.reduce_mean(samples, axis=1)
        samples = resampling.resample(samples, rate, params.SAMPLE_RATE_HZ)
        skipped = (number * secs - first_sec) * params.SAMPLE_RATE_HZ
        return samples[skipped : skipped + secs * params.SAMPLE_RATE_HZ]

    return _concat(block, num_blocks)


def _concat(part: Callable[[tf.Tensor], tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """Concatenates the parts 0 to `count - 1`, float32 `[samples]` each."""
    parts = tf.TensorArray(
        tf.float32, tf.cast(count, tf.int32), infer_shape=False, element_shape=[None]
    )

    def add(number: tf.Tensor, parts: tf.TensorArray) -> tuple[Any, ...]:
        return number + 1, parts.write(tf.cast(number, tf.int32), part(number))

    start = tf.constant(0, tf.int64), parts
    # One at a time bounds the memory.
    parts = tf.while_loop(lambda n, _: n < count, add, start, parallel_iterations=1)[1]
    return parts.concat()


def _samples(encoded: tf.Tensor, code: tf.Tensor) -> tf.Tensor:
    """Returns float32 in [-1, 1], channels interleaved."""

    def raw(dtype: tf.DType) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(encoded, dtype), tf.float32)

    def int24() -> tf.Tensor:
        low, middle, high = tf.unstack(tf.reshape(raw(tf.uint8), [-1, 3]), axis=1)
        high -= tf.where(high > 127, 256.0, 0.0)
        return (low + 256 * middle + 65536 * high) / 2**23

    formats = [
        lambda: (raw(tf.uint8) - 128) / 2**7,
        lambda: raw(tf.int16) / 2**15,
        int24,
        lambda: raw(tf.int32) / 2**31,
        lambda: raw(tf.float32),
        lambda: raw(tf.float64),
    ]
    return tf.switch_case(tf.cast(code, tf.int32), formats)
