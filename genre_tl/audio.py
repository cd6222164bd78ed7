"""Audio files to mono waveforms at `params.SAMPLE_RATE_HZ`.

`read` decodes files for training and prediction; `mono` and `resample` are
core TensorFlow ops. `docs/audio.md` has measurements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from genre_tl import mp3, params, resampling

# A module of its own has it.
resample = resampling.resample

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000  # what a header is believed

_MARGIN_SECS = 0.1  # read beyond `max_secs`: there, resampling sees no edge
_MAX_SAMPLES_PER_BYTE = 64  # tensorflow-io reserves what a header promises

# Ops from encoded bytes to `[samples, channels]`, by libsndfile's format and subtype.
_Decoders = dict[tuple[str, str], Callable[[Any], Any]]


class _Stream(soundfile.SoundFile):
    """Is read in order: soundfile seeks after each read, which changes MP3."""

    def seekable(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Clip:
    """What became of one file.

    Attributes:
      index: position of the file in the sequence given to `read`.
      path: the file, as given.
      waveform: float32 `[samples]` at `params.SAMPLE_RATE_HZ`; None after an error.
      rate_hz: sample rate of the file; 0 after an error.
      note: what was odd about the file though it was used, or "".
      error: why it could not be used, or "".
      is_last: False of all pieces of a long file but the last, which alone has the
        note or the error.
    """

    index: int
    path: str
    waveform: np.ndarray | None
    rate_hz: int
    note: str = ""
    error: str = ""
    is_last: bool = True


def read(
    paths: Sequence[str], *, max_secs: float | None = None, use_tfio: bool = True
) -> Iterator[Clip]:
    """Decodes files in parallel, in order, in bounded memory.

    Args:
      paths: audio files of any format that tensorflow-io or libsndfile knows;
        their content decides, not their names.
      max_secs: keep no more than this of each file, from its beginning.
      use_tfio: False decodes everything through soundfile, as happens anyway
        where tensorflow-io does not load. The samples are the same.

    Returns:
      One `Clip` a path. A file that cannot be used is a clip with an `error`:
      none is dropped, none ends the iteration.

    Raises:
      ValueError: if `max_secs` is not positive.
    """
    if max_secs is not None and not max_secs > 0:
        raise ValueError(f"max_secs={max_secs!r} must be positive, or None for all")
    return _read(paths, max_secs, _tfio_decoders() if use_tfio else {})


def read_pieces(
    paths: Sequence[str], piece_samples: int, *, max_secs: float | None = None
) -> Iterator[Clip]:
    """Decodes files as `read` does, long ones piece by piece: hours in little memory.

    Args:
      paths: audio files.
      piece_samples: length of a piece, at `params.SAMPLE_RATE_HZ`.
      max_secs: keep no more than this of each file, from its beginning.

    Yields:
      A `Clip` for each file of up to `piece_samples` samples, as many as it takes
      for others. Pieces put together are the waveform that `read` gives, but for
      rounding: resampling sees no edge between them.

    Raises:
      ValueError: if `max_secs` or `piece_samples` is not positive.
    """
    if piece_samples <= 0:
        raise ValueError(f"piece_samples={piece_samples!r} must be positive")
    # One sample more tells that there is more; then it is read anew, in order.
    enough_secs = (piece_samples + 1) / params.SAMPLE_RATE_HZ
    first_secs = enough_secs if max_secs is None else min(enough_secs, max_secs)
    # soundfile alone: the faster one for MP3, and the one that reads in pieces.
    for clip in read(paths, max_secs=first_secs, use_tfio=False):
        if clip.waveform is None or len(clip.waveform) <= piece_samples:
            yield clip
        else:
            yield from _read_long(clip, piece_samples, max_secs)


def _read_long(
    clip: Clip, piece_samples: int, max_secs: float | None
) -> Iterator[Clip]:
    held, samples_read = None, 0

    def counted(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal samples_read
        for block in blocks:
            samples_read += len(block)
            yield block

    try:
        with _open(os.fsencode(clip.path), max_secs) as (sound, length, wanted):
            blocks, most = counted(_blocks(sound, wanted)), _most_samples(max_secs)
            rates_hz = sound.samplerate, params.SAMPLE_RATE_HZ
            for piece in resampling.stream(blocks, *rates_hz, piece_samples, most):
                if held is not None:
                    yield dataclasses.replace(clip, waveform=held, is_last=False)
                held = piece
            note = _note(sound, samples_read, length, wanted)
        if held is None:
            raise ValueError("it changed while it was read")
        yield dataclasses.replace(clip, waveform=held, note=note)
    except Exception as error:
        yield Clip(clip.index, clip.path, None, 0, error=_reason(error))


def _read(
    paths: Sequence[str], max_secs: float | None, decoders: _Decoders
) -> Iterator[Clip]:
    encoded = [os.fsencode(path) for path in paths]
    decoded = _dataset(encoded, max_secs, decoders).as_numpy_iterator()
    pending = None
    for index, path in enumerate(paths):
        pending = pending or next(decoded, None)
        if pending and pending[0] == index:
            (_, waveform, rate_hz, note, error), pending = pending, None
        else:  # tensorflow-io choked on it; soundfile reads it or knows why not
            samples, rate_hz, note, error = _decode_or_reason(encoded[index], max_secs)
            waveform = _to_model_rate(samples, rate_hz, max_secs).numpy()
        if error:
            yield Clip(index, path, None, 0, error=error.decode())
        else:
            yield Clip(index, path, waveform, int(rate_hz), note.decode())


def mono(waveform: tf.Tensor) -> tf.Tensor:
    """Mixes `[..., samples, channels]` down to `[..., samples]`, their mean."""
    return tf.reduce_mean(waveform, axis=-1)


def _to_model_rate(samples: Any, rate_hz: Any, max_secs: float | None) -> tf.Tensor:
    waveform = resample(samples, rate_hz, params.SAMPLE_RATE_HZ)
    return waveform[: _most_samples(max_secs)]


def _most_samples(max_secs: float | None) -> int | None:
    return None if max_secs is None else math.ceil(max_secs * params.SAMPLE_RATE_HZ)


@functools.cache
def _tfio_decoders() -> _Decoders:
    """Returns none where tensorflow-io is absent or does not load."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorflow_io import audio
            from tensorflow_io.python.ops import core_ops

            core_ops.io_audio_decode_mp3  # noqa: B018  this loads the library
    except (ImportError, NotImplementedError, AttributeError, tf.errors.OpError):
        return {}

    def wav(dtype: tf.DType) -> Callable[[Any], Any]:
        decode = functools.partial(audio.decode_wav, dtype=dtype)
        scale = 1.0 if dtype.is_floating else 2.0 ** (1 - 8 * dtype.size)
        return lambda data: scale * tf.cast(decode(data), tf.float32)

    # No FLAC: the op never returns if the stream ends before its stated length.
    return {
        ("MP3", "MPEG_LAYER_III"): audio.decode_mp3,
        ("OGG", "VORBIS"): audio.decode_vorbis,
        ("WAV", "PCM_16"): wav(tf.int16),
        ("WAV", "PCM_24"): wav(tf.int32),
        ("WAV", "FLOAT"): wav(tf.float32),
    }


def _dataset(
    paths: Sequence[bytes], max_secs: float | None, decoders: _Decoders
) -> tf.data.Dataset:
    """Yields (index, waveform, rate, note, error), without what tfio refused."""
    plan = functools.partial(_plan, max_secs=max_secs, kinds=list(decoders))
    fallback = functools.partial(_decode_or_reason, max_secs=max_secs)
    dtypes = [tf.float32, tf.int64, tf.string, tf.string]

    def load(index: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def with_tfio(decode: Callable[[Any], Any]) -> list[tf.Tensor]:
            samples = mono(decode(tf.io.read_file(path)))
            whole = tf.equal(tf.size(samples, tf.int64), num_samples)
            finite = tf.reduce_all(tf.math.is_finite(samples))
            with tf.control_dependencies([tf.debugging.Assert(whole & finite, [path])]):
                return [tf.identity(samples), rate_hz, tf.constant(""), tf.constant("")]

        chosen, rate_hz, num_samples = tf.numpy_function(plan, [path], [tf.int64] * 3)
        branches = [functools.partial(tf.numpy_function, fallback, [path], dtypes)]
        branches += [functools.partial(with_tfio, each) for each in decoders.values()]
        chosen = tf.cast(chosen, tf.int32)
        samples, rate_hz, note, error = tf.switch_case(chosen, branches)
        samples = tf.ensure_shape(samples, [None])
        waveform = _to_model_rate(samples, tf.ensure_shape(rate_hz, []), max_secs)
        return index, waveform, rate_hz, note, error

    return (
        tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string, [len(paths)]))
        .enumerate()
        .map(load, num_parallel_calls=min(os.cpu_count() or 1, 16), deterministic=True)
        .ignore_errors()
        .prefetch(1)
    )


def _plan(
    path: bytes, max_secs: float | None, kinds: Sequence[tuple[str, str]]
) -> tuple[int, int, int]:
    """Returns the branch that decodes a file, its rate and its length.

    tensorflow-io tells neither, so libsndfile reads the header. It also decodes,
    as branch 0, what tensorflow-io does not know, what is odd, or longer than
    wanted or believable; and what fails here, since there the reason comes out.
    """
    with contextlib.suppress(Exception), _open(path, max_secs) as (sound, length, most):
        kind = (sound.format.replace("WAVEX", "WAV"), sound.subtype)
        is_sane = 0 < length == most < _MAX_SAMPLES_PER_BYTE * os.path.getsize(path)
        if kind in kinds and is_sane and not _oddity(sound):
            return 1 + kinds.index(kind), sound.samplerate, length
    return 0, 0, 0


def _decode_or_reason(
    path: bytes, max_secs: float | None
) -> tuple[np.ndarray, int, bytes, bytes]:
    """Returns samples, rate, note and, if these are not to be had, the reason."""
    try:
        samples, rate_hz, note = _decode(path, max_secs)
        return samples, rate_hz, note.encode(), b""
    # Whatever one file provokes must not end the reading of the others.
    except Exception as error:
        reason = _reason(error).encode()
        return np.zeros([0], np.float32), params.SAMPLE_RATE_HZ, b"", reason


def _reason(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        return _in_words(error.error_string)
    return getattr(error, "strerror", None) or str(error) or repr(error)


def _decode(path: bytes, max_secs: float | None) -> tuple[np.ndarray, int, str]:
    """Decodes the beginning of a file with soundfile: mono samples, rate, note."""
    with _open(path, max_secs) as (sound, length, wanted):
        nothing = np.zeros([0], np.float32)
        waveform = np.concatenate([nothing, *_blocks(sound, wanted)])
        if not len(waveform):
            raise ValueError("it has a header, but no audio")
        note = _note(sound, len(waveform), length, wanted)
        return waveform, sound.samplerate, note


def _blocks(sound: soundfile.SoundFile, wanted: int) -> Iterator[np.ndarray]:
    """Yields up to `wanted` samples, mono, as far as they can be decoded."""
    while wanted > 0:
        # Headers may promise any length, so no more is reserved at a time.
        block = np.zeros([min(wanted, 2**18), sound.channels], np.float32)
        try:
            samples = sound.read(out=block)
        except soundfile.LibsndfileError:  # before it, some may have been decoded
            samples = block[: np.flatnonzero(block.any(axis=1)).max(initial=-1) + 1]
        if not np.isfinite(samples).all():
            raise ValueError("it holds samples that are NaN or infinite")
        yield samples.mean(axis=1)
        wanted -= len(samples) if len(samples) == len(block) else wanted


def _note(
    sound: soundfile.SoundFile, num_samples: int, length: int, wanted: int
) -> str:
    if num_samples < wanted and length < 2**62:  # "unknown" is 2**63 - 1
        return f"damaged or {_cut_off(num_samples, length, sound.samplerate)}"
    return _oddity(sound)


@contextlib.contextmanager
def _open(
    path: bytes, max_secs: float | None
) -> Iterator[tuple[soundfile.SoundFile, int, int]]:
    """Opens a file by its content; yields its samples and how many are wanted too."""
    name = os.fsdecode(path)
    if os.path.exists(name) and not os.path.isfile(name):
        raise ValueError("it is not a file")
    with open(name, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("it is empty (0 bytes)")
        stream, length = mp3.mended(file, max_secs) or (None, 0)
        with _Stream(stream or file.fileno(), closefd=False) as sound:
            if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
                raise ValueError(f"no music has {sound.samplerate} samples a second")
            length = length or sound.frames
            secs = math.inf if max_secs is None else max_secs + _MARGIN_SECS
            yield sound, length, math.ceil(min(length, secs * sound.samplerate))


def _oddity(sound: soundfile.SoundFile) -> str:
    """Returns what libsndfile's log finds wrong with the header, or ""."""
    log = sound.extra_info
    data = re.search(r"(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", log)
    if data and 0 < int(data[2]) < int(data[1]) < 2**31 - 1:
        num_stated = sound.frames * int(data[1]) // int(data[2])
        return _cut_off(sound.frames, num_stated, sound.samplerate)
    if data or re.search(r"(?m)^\s*(?:RIFF|riff|Riff size)\s*: (?:[08]$|.*\()", log):
        return "sizes in its header are wrong; all that is there was used"
    if "lacks an end-of-stream" in log:
        return "cut off: the end of the stream is missing"
    return ""


def _cut_off(num_present: int, num_stated: int, rate_hz: int) -> str:
    return (
        f"cut off: {num_present / rate_hz:.1f} of {num_stated / rate_hz:.1f} s present"
    )


def _in_words(message: str) -> str:
    known = {
        "Format not recognised": "it is not audio, or of an unknown format",
        "No 'data' chunk": "it breaks off in the header, before any audio",
        "SF_INFO struct incomplete": "its header states no sample rate or channels",
        "malformed": "its header is damaged",
    }
    words = [known[jargon] for jargon in known if jargon in message]
    return words[0] if words else f"it cannot be decoded ({message.strip(' .')})"
