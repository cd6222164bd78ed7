"""Audio files to mono waveforms at `params.SAMPLE_RATE_HZ`.

`read` decodes files for training and prediction; `mono` and `resample` are
core TensorFlow ops. `docs/audio.md` has measurements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import soundfile
import tensorflow as tf

from genre_tl import params

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000  # what a header is believed

# The low-pass of `resample` falls from 1 to 0 like the integral of a Gaussian, five
# standard deviations to either side: from 0.95 to 1 of the lower Nyquist frequency.
# Its impulse response has faded to 1e-7 after 361 samples of the lower rate.
_CUTOFF, _CUTOFF_SD, _GUARD_SAMPLES = 0.975, 0.005, 400

_MARGIN_SECS = 0.1  # read beyond `max_secs`: there, resampling sees no edge
_MAX_SAMPLES_PER_BYTE = 64  # tensorflow-io reserves what a header promises

# MPEG Layer III: bit rates by index, and the four bytes that a frame begins with.
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MP3_HEADER = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][%b]."
    % re.escape(bytes(b for b in range(0x10, 0xF0) if b & 0x0C != 0x0C)),
    re.DOTALL,
)
_MP3_SEARCH_BYTES = 65_536  # how much junk may stand before the first frame

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
    """

    index: int
    path: str
    waveform: np.ndarray | None
    rate_hz: int
    note: str = ""
    error: str = ""


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


def resample(waveform: Any, rate_in_hz: Any, rate_out_hz: Any) -> tf.Tensor:
    """Changes the sample rate, band-limited and without any shift in time.

    Sample `k` of the result is the waveform at `k / rate_out_hz` seconds, silence
    around it. Up to 0.95 of the lower Nyquist frequency the gain is 1 within 1e-6;
    what is above that frequency is down by 120 dB or more (measured: 133). With
    Python-int rates and a static length all shapes are static, and XLA compiles it.

    Overlapping blocks, of whole numbers of samples at both rates, are transformed,
    filtered, and transformed back at the new length (overlap-save).

    Args:
      waveform: float `[..., samples]`.
      rate_in_hz: its rate, a Python int or an integer scalar tensor.
      rate_out_hz: the rate wanted, likewise.

    Returns:
      float32 `[..., ceil(samples * rate_out_hz / rate_in_hz)]`; `waveform`
      itself if the rates are equal.

    Raises:
      ValueError: if a Python-int rate is not positive.
    """
    waveform = tf.cast(waveform, tf.float32)
    if isinstance(rate_in_hz, int) and isinstance(rate_out_hz, int):
        if min(rate_in_hz, rate_out_hz) <= 0:
            raise ValueError(f"{rate_in_hz=}, {rate_out_hz=}: rates must be positive")
        if rate_in_hz == rate_out_hz:
            return waveform
        divisor = math.gcd(rate_in_hz, rate_out_hz)
        return _convert(waveform, rate_in_hz // divisor, rate_out_hz // divisor)
    rate_in_hz = tf.cast(rate_in_hz, tf.int64)
    rate_out_hz = tf.cast(rate_out_hz, tf.int64)
    divisor, _ = tf.while_loop(
        lambda a, b: b > 0, lambda a, b: (b, a % b), (rate_in_hz, rate_out_hz)
    )
    return tf.cond(
        tf.equal(rate_in_hz, rate_out_hz),
        lambda: waveform,
        lambda: _convert(waveform, rate_in_hz // divisor, rate_out_hz // divisor),
    )


def _convert(waveform: tf.Tensor, num_in: Any, num_out: Any) -> tf.Tensor:
    """Turns every `num_in` samples into `num_out`; both int, or int64 tensors."""
    samples = waveform.shape[-1]
    if samples is None:
        samples = tf.shape(waveform, tf.int64)[-1]
    lower = (min if isinstance(num_in, int) else tf.minimum)(num_in, num_out)
    # Lengths in groups of `num_in` input or `num_out` output samples.
    guard = -(-_GUARD_SAMPLES // lower)
    step, half_block = 14 * guard, 8 * guard
    num_blocks = samples // (step * num_in) + 1
    lead = tf.shape(waveform, tf.int64)[:-1]
    padded = _pad(waveform, -1, 0, num_blocks * step * num_in - samples)
    blocks = tf.reshape(padded, tf.concat([lead, [num_blocks, step * num_in]], 0))
    before = _pad(blocks[..., :-1, -guard * num_in :], -2, 1, 0)
    after = _pad(blocks[..., 1:, : guard * num_in], -2, 0, 1)
    blocks = tf.concat([before, blocks, after], -1)

    num_bins = half_block * lower + 1
    spectrum = tf.signal.rfft(blocks, [tf.cast(2 * half_block * num_in, tf.int32)])
    frequency = tf.linspace(0.0, 1.0, num_bins)  # of the lower Nyquist frequency
    gain = 0.5 * tf.math.erfc((frequency - _CUTOFF) / (_CUTOFF_SD * math.sqrt(2)))
    gain *= tf.cast(num_out / num_in, tf.float32)
    spectrum = spectrum[..., :num_bins] * tf.cast(gain, tf.complex64)
    blocks = tf.signal.irfft(spectrum, [tf.cast(2 * half_block * num_out, tf.int32)])

    kept = blocks[..., guard * num_out : (guard + step) * num_out]
    length = -(-samples * num_out // num_in)
    result = tf.reshape(kept, tf.concat([lead, [num_blocks * step * num_out]], 0))
    static = length if isinstance(length, int) else None
    return tf.ensure_shape(result[..., :length], waveform.shape[:-1] + [static])


def _pad(tensor: tf.Tensor, axis: int, before: Any, after: Any) -> tf.Tensor:
    paddings: list[list[Any]] = [[0, 0]] * tensor.shape.rank
    paddings[axis] = [before, after]
    return tf.pad(tensor, paddings)


def _to_model_rate(samples: Any, rate_hz: Any, max_secs: float | None) -> tf.Tensor:
    most = None if max_secs is None else math.ceil(max_secs * params.SAMPLE_RATE_HZ)
    return resample(samples, rate_hz, params.SAMPLE_RATE_HZ)[:most]


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
    except soundfile.LibsndfileError as error:
        reason = _in_words(error.error_string)
    # Whatever one file provokes must not end the reading of the others.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
    return np.zeros([0], np.float32), params.SAMPLE_RATE_HZ, b"", reason.encode()


def _decode(path: bytes, max_secs: float | None) -> tuple[np.ndarray, int, str]:
    """Decodes the beginning of a file with soundfile: mono samples, rate, note."""
    with _open(path, max_secs) as (sound, length, wanted):
        waveform, note = _read_on(sound, wanted), _oddity(sound)
        if not len(waveform):
            raise ValueError("it has a header, but no audio")
        if len(waveform) < wanted < 2**62:  # libsndfile's "unknown" is 2**63 - 1
            note = f"damaged or {_cut_off(len(waveform), length, sound.samplerate)}"
        if not np.isfinite(waveform).all():
            raise ValueError("it holds samples that are NaN or infinite")
        return waveform, sound.samplerate, note


def _read_on(sound: soundfile.SoundFile, wanted: int) -> np.ndarray:
    """Reads up to `wanted` samples, mono, as far as they can be decoded."""
    pieces = [np.zeros([0], np.float32)]
    while wanted > 0:
        # Headers may promise any length, so no more is reserved at a time.
        piece = np.zeros([min(wanted, 2**18), sound.channels], np.float32)
        try:
            samples = sound.read(out=piece)
        except soundfile.LibsndfileError:  # before it, some may have been decoded
            samples = piece[: np.flatnonzero(piece.any(axis=1)).max(initial=-1) + 1]
        pieces.append(samples.mean(axis=1))
        wanted -= len(samples) if len(samples) == len(piece) else wanted
    return np.concatenate(pieces)


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
        mp3, length = _mended_mp3(file, max_secs)
        source = io.BytesIO(mp3) if mp3 else file.fileno()
        with _Stream(source, closefd=False) as sound:
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


def _mended_mp3(file: BinaryIO, max_secs: float | None) -> tuple[bytes, int]:
    """Returns an MP3 stream fit for libsndfile; nothing if the file is none.

    libmpg123 writes to stderr about damage and about a Xing tag that does not fit
    the file: only whole frames are kept, and the tag is corrected. Without a tag
    libsndfile ends where the first frame's size lets libmpg123 expect the end: the
    stream is made longer and the true length in samples returned, otherwise 0.
    """
    start = _skip_id3(file)
    # Two headers in step are found by chance in one of some thousand PCM files.
    if len(_mp3_frames(file.read(2 * _MP3_SEARCH_BYTES))) < 3:
        file.seek(0)
        return b"", 0
    file.seek(start)
    most = -1 if max_secs is None else 40_000 * math.ceil(max_secs + 3)  # 320 kbit/s
    frames = _mp3_frames(file.read(most))
    stream, first = b"".join(frames), frames[0]
    is_mpeg1, is_mono = bool(first[1] & 8), first[3] >> 6 == 3
    at = 4 + ((32, 17) if is_mpeg1 else (17, 9))[is_mono]
    if first[at : at + 4] not in (b"Xing", b"Info"):
        padding = bytes(max(0, (len(frames) + 1) * len(first) - len(stream)))
        return stream + padding, len(frames) * (1152 if is_mpeg1 else 576)
    if first[at + 7] & 2:  # the tag has the size, behind the count if it has that
        at += 8 + 4 * (first[at + 7] & 1)
        stream = stream[:at] + len(stream).to_bytes(4, "big") + stream[at + 4 :]
    return stream, 0


def _skip_id3(file: BinaryIO) -> int:
    """Seeks past any ID3v2 tags and returns the position."""
    start = 0
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        size = functools.reduce(lambda size, byte: size << 7 | byte & 127, head[6:], 0)
        start = file.seek(start + 10 + size)
    return file.seek(start)


def _mp3_frames(data: bytes) -> list[bytes]:
    """Returns the whole Layer III frames of one stream, without what is between."""
    frames: list[bytes] = []
    stream, at = None, 0
    while found := _MP3_HEADER.search(data, at):
        start, (num_bytes, this) = found.start(), _mp3_frame(found[0])
        if not frames and start > _MP3_SEARCH_BYTES:
            break
        end = start + num_bytes
        # Out of step, one header may be chance: ask for a second behind it.
        second = _MP3_HEADER.match(data, end)
        follows = end == len(data) or (second and _mp3_frame(second[0])[1] == this)
        in_step = bool(frames) and start == at and end <= len(data)
        if stream in (None, this) and (in_step or follows):
            frames.append(data[start:end])
            stream, at = this, end
        else:
            at = start + 1
    return frames


@functools.lru_cache(maxsize=4096)
def _mp3_frame(header: bytes) -> tuple[int, tuple[int, int]]:
    """Returns a frame's length and what it shares with all others of its stream."""
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    rate_hz = (44_100, 48_000, 32_000)[rate] >> (2, 0, 1, 0)[version]
    bytes_kbps = 144 * _MPEG1_KBPS[kbps] if version == 3 else 72 * _MPEG2_KBPS[kbps]
    return 1000 * bytes_kbps // rate_hz + (header[2] >> 1 & 1), (version, rate)
