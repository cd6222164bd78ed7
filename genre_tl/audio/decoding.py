"""Audio files to mono waveforms at `params.SAMPLE_RATE_HZ`.

`read` decodes files for training and prediction; `mono` and `resample` are
core TensorFlow ops. `docs/audio.md` has measurements.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, BinaryIO

import numpy as np
import soundfile
import tensorflow as tf

from genre_tl import params
from genre_tl.audio import mp3, resampling

# A module of its own has it.
resample = resampling.resample

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000  # what a header is believed

_FILES_AHEAD = 8  # decoded or being decoded while another is used
_WHOLE_FILE = 2**40  # samples: more than there are
_MOST_IN_MEMORY = 2**25  # bytes of an encoded file
_MARGIN_SECS = 0.1  # read beyond `max_secs`: there, resampling sees no edge
_SYSTEM_ERROR = 2  # libsndfile's number for what the system reports
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
      was_disturbed: whether the error is the system's: the file may well be fine.
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
    was_disturbed: bool = False


def read(
    paths: Sequence[str], *, max_secs: float | None = None, use_tfio: bool = False
) -> Iterator[Clip]:
    """Decodes files in parallel, in order, in bounded memory.

    Args:
      paths: audio files of any format that libsndfile knows; their content
        decides, not their names.
      max_secs: keep no more than this of each file, from its beginning.
      use_tfio: decode what tensorflow-io can with that, inside `tf.data`, where it
        loads. The samples are the same, but it takes longer.

    Returns:
      One `Clip` a path. A file that cannot be used is a clip with an `error`:
      none is dropped, none ends the iteration.

    Raises:
      ValueError: if `max_secs` is not positive.
    """
    decoders = _tfio_decoders() if use_tfio else {}
    if decoders:
        return _read_with_tfio(paths, _positive(max_secs), decoders)
    return _read(paths, _WHOLE_FILE, _positive(max_secs))


def read_pieces(
    paths: Sequence[str], piece_samples: int, *, max_secs: float | None = None
) -> Iterator[Clip]:
    """Decodes files as `read` does, long ones piece by piece: hours in little memory.

    Args:
      paths: audio files.
      piece_samples: length of a piece, at `params.SAMPLE_RATE_HZ`.
      max_secs: keep no more than this of each file, from its beginning.

    Returns:
      A `Clip` for each file of up to `piece_samples` samples, as many as it takes
      for others. Pieces put together are the waveform that `read` gives, but for
      rounding: resampling sees no edge between them.

    Raises:
      ValueError: if `max_secs` or `piece_samples` is not positive.
    """
    if piece_samples <= 0:
        raise ValueError(f"piece_samples={piece_samples!r} must be positive")
    return _read(paths, piece_samples, _positive(max_secs))


def _positive(max_secs: float | None) -> float | None:
    if max_secs is not None and not max_secs > 0:
        raise ValueError(f"max_secs={max_secs!r} must be positive, or None for all")
    return max_secs


def _read(
    paths: Sequence[str], piece_samples: int, max_secs: float | None
) -> Iterator[Clip]:
    """Yields the pieces of files, of which some are decoded ahead in threads."""
    # Threads serve: libsndfile and TensorFlow compute without Python's lock.
    num_threads = min(os.cpu_count() or 1, 16)
    pool = futures.ThreadPoolExecutor(num_threads)
    files = (
        _pieces(index, path, piece_samples, max_secs)
        for index, path in enumerate(paths)
    )
    begun: collections.deque[tuple[Iterator[Clip], futures.Future[Clip]]]
    begun = collections.deque()
    try:
        while True:
            room = max(_FILES_AHEAD, num_threads) - len(begun)
            for file in itertools.islice(files, room):
                begun.append((file, pool.submit(next, file)))
            if not begun:
                return
            file, piece = begun.popleft()
            while not (clip := piece.result()).is_last:
                piece = pool.submit(next, file)
                yield clip
            yield clip
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(
    index: int, path: str, piece_samples: int, max_secs: float | None
) -> Iterator[Clip]:
    """Yields the pieces of a file; the last one has the note or the error."""
    held, num_read = None, 0

    def counted(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal num_read
        for block in blocks:
            num_read += len(block)
            yield block

    # Whatever one file provokes must not end the reading of the others.
    try:
        with _open(os.fsencode(path), max_secs) as (sound, length, wanted):
            rate_hz, most = sound.samplerate, _most_samples(max_secs)
            blocks = counted(_blocks(sound, wanted))
            rates_hz = rate_hz, params.SAMPLE_RATE_HZ
            for piece in resampling.stream(blocks, *rates_hz, piece_samples, most):
                if held is not None:
                    yield Clip(index, path, held, rate_hz, is_last=False)
                held = piece
            if held is None:
                raise ValueError("it has a header, but no audio")
            collections.deque(blocks, maxlen=0)  # what is behind the last sample
            note = _note(sound, num_read, length, wanted)
        yield Clip(index, path, held, rate_hz, note)
    except Exception as error:
        reason, is_passing = _reason(error), _is_of_system(error)
        yield Clip(index, path, None, 0, error=reason, was_disturbed=is_passing)


def _read_with_tfio(
    paths: Sequence[str], max_secs: float | None, decoders: _Decoders
) -> Iterator[Clip]:
    encoded = [os.fsencode(path) for path in paths]
    decoded = _dataset(encoded, max_secs, decoders).as_numpy_iterator()
    pending = None
    for index, path in enumerate(paths):
        pending = pending or next(decoded, None)
        if pending and pending[0] == index:
            (_, waveform, rate_hz), pending = pending, None
            yield Clip(index, path, waveform, int(rate_hz))
        else:  # not for tensorflow-io; soundfile reads it or knows why not
            yield next(_pieces(index, path, _WHOLE_FILE, max_secs))


def mono(waveform: tf.Tensor) -> tf.Tensor:
    """Mixes `[..., samples, channels]` down to `[..., samples]`, their mean."""
    return tf.reduce_mean(waveform, axis=-1)


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
    """Yields (index, waveform, rate), without the files that are not for tfio."""
    plan = functools.partial(_plan, max_secs=max_secs, kinds=list(decoders))

    def load(index: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def decoded(decode: Callable[[Any], Any]) -> tf.Tensor:
            return tf.ensure_shape(mono(decode(tf.io.read_file(path))), [None])

        chosen, rate_hz, num_samples = tf.numpy_function(plan, [path], [tf.int64] * 3)
        is_known = tf.debugging.Assert(chosen >= 0, [path])
        branches = [functools.partial(decoded, each) for each in decoders.values()]
        with tf.control_dependencies([is_known]):
            samples = tf.switch_case(tf.cast(chosen, tf.int32), branches)
        whole = tf.equal(tf.size(samples, tf.int64), num_samples)
        finite = tf.reduce_all(tf.math.is_finite(samples))
        with tf.control_dependencies([tf.debugging.Assert(whole & finite, [path])]):
            rate_hz = tf.ensure_shape(rate_hz, [])
        waveform = resample(samples, rate_hz, params.SAMPLE_RATE_HZ)
        return index, waveform[: _most_samples(max_secs)], rate_hz

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

    tensorflow-io tells neither, so libsndfile reads the header. It is left, with
    branch -1, what tensorflow-io does not know, what is odd, or longer than wanted
    or believable; and what fails here, since there the reason comes out.
    """
    with contextlib.suppress(Exception), _open(path, max_secs) as (sound, length, most):
        kind = (sound.format.replace("WAVEX", "WAV"), sound.subtype)
        is_sane = 0 < length == most < _MAX_SAMPLES_PER_BYTE * os.path.getsize(path)
        if kind in kinds and is_sane and not _oddity(sound):
            return kinds.index(kind), sound.samplerate, length
    return -1, 0, 0


def _reason(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        return _in_words(error.error_string)
    return getattr(error, "strerror", None) or str(error) or repr(error)


def _is_of_system(error: Exception) -> bool:
    if isinstance(error, soundfile.LibsndfileError):
        return bool(error.code == _SYSTEM_ERROR)
    return isinstance(error, OSError)


def _blocks(sound: soundfile.SoundFile, wanted: int) -> Iterator[np.ndarray]:
    """Yields up to `wanted` samples, mono, as far as they can be decoded."""
    while wanted > 0:
        # Headers may promise any length, so no more is reserved at a time.
        block = np.zeros([min(wanted, 2**18), sound.channels], np.float32)
        try:
            samples = sound.read(out=block)
        except soundfile.LibsndfileError as error:
            if _is_of_system(error):
                raise
            # Before it, some may have been decoded.
            samples = block[: np.flatnonzero(block.any(axis=1)).max(initial=-1) + 1]
        if not np.isfinite(samples).all():
            raise ValueError("it holds samples that are NaN or infinite")
        yield samples.mean(axis=1) if sound.channels > 1 else samples[:, 0]
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
    # Of a folder, opening it says more: that it is one, or closed.
    if os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)):
        raise ValueError("it is not a file")
    with open(name, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("it is empty (0 bytes)")
        stream, length = mp3.mended(file, max_secs) or (None, 0)
        source = _in_memory(stream) if stream else file
        with source, _Stream(_handle(source), closefd=False) as sound:
            if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
                raise ValueError(f"no music has {sound.samplerate} samples a second")
            length = length or sound.frames
            secs = math.inf if max_secs is None else max_secs + _MARGIN_SECS
            yield sound, length, math.ceil(min(length, secs * sound.samplerate))
        if stream:
            mp3.require_undisturbed(stream)


def _in_memory(stream: io.BufferedReader) -> BinaryIO:
    """Returns a stream as a file without a name, or as it is if it is long.

    From a file libsndfile reads by itself. Of a stream it asks Python for each half
    of a frame: threads that do so wait for one another's lock, twice as long as
    decoding takes.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > _MOST_IN_MEMORY or not hasattr(os, "memfd_create"):
        return stream
    file = os.fdopen(os.memfd_create("mp3"), "w+b")
    file.write(stream.read())
    mp3.require_undisturbed(stream)
    file.seek(0)
    return file


def _handle(source: BinaryIO) -> BinaryIO | int:
    """Returns what libsndfile opens."""
    try:
        return source.fileno()
    except OSError:  # a stream of our own
        return source


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
        "System error": "the system could not read it to its end",
    }
    words = [known[jargon] for jargon in known if jargon in message]
    return words[0] if words else f"it cannot be decoded ({message.strip(' .')})"
