"""Reads audio files as mono waveforms at `params.SAMPLE_RATE_HZ`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import BinaryIO, TypeAlias

import numpy as np
import soundfile

from genre_tl import params, storage
from genre_tl.audio import ffmpeg, libsndfile, mp3, streaming, tensorflow_io_decoder

_Source: TypeAlias = libsndfile.Source | ffmpeg.Source

_FILES_AHEAD = 8  # decoded while another is used
_WHOLE_FILE = 2**40  # samples, more than any file has
_LOUDEST = 100.0
_FLAC = b"fLaC\0\0\0\x22"  # the beginning of a file
_LOUD = "samples up to {:.0f}, where 1 is full scale: integers that were not scaled?"


@dataclasses.dataclass(frozen=True)
class Clip:
    """The waveform of a file, or of a piece of it, or the reason for having none.

    Attributes:
      index: position of the file in the sequence given to `read`.
      path: the file, as given.
      waveform: float32 `[samples]` at `params.SAMPLE_RATE_HZ`; None after an error.
      rate_hz: sample rate of the file; 0 after an error.
      note: what was odd about a file that was used, or "".
      error: why the file could not be used, or "".
      is_last: whether this is the last piece. It alone has the note or the error.
      is_system_error: whether the operating system failed, and not the file.
    """

    index: int
    path: str
    waveform: np.ndarray | None
    rate_hz: int
    note: str = ""
    error: str = ""
    is_last: bool = True
    is_system_error: bool = False


def read(
    paths: Sequence[str],
    *,
    piece_samples: int | None = None,
    max_secs: float | None = None,
    use_tfio: bool = False,
) -> Iterator[Clip]:
    """Decodes files in parallel, in order, a few at a time.

    Args:
      paths: audio files. Their content decides the format, not their names.
      piece_samples: length of a piece, at `params.SAMPLE_RATE_HZ`. Memory does not
        grow with the length of a file then. None reads each file in one piece.
      max_secs: keep only the first seconds of each file; None keeps all.
      use_tfio: decode with tensorflow-io where possible. The samples are the same.

    Returns:
      The clips of each path: one for each piece, at least one. The pieces together
      equal the waveform of the file up to rounding: resampling adds no edges.
    """
    for name, value in (("piece_samples", piece_samples), ("max_secs", max_secs)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be positive")
    piece_samples = piece_samples or _WHOLE_FILE
    return _in_order(
        _pieces(index, path, piece_samples, max_secs or math.inf, use_tfio)
        for index, path in enumerate(paths)
    )


def write_wav(path: str, target: str | os.PathLike[str]) -> None:
    """Writes an audio file as 16-bit WAV, at its sample rate and in all channels.

    Raises:
      ValueError: if it cannot be decoded.
      OSError: if a file cannot be read or written.
    """
    with _open(path) as source, open(target, "wb") as file:
        blocks = source.blocks()
        if (first := next(blocks, None)) is None:
            raise ValueError("no audio after the header")
        form = {"samplerate": source.rate_hz, "channels": first.shape[1]}
        with soundfile.SoundFile(
            file, "w", format="WAV", subtype="PCM_16", **form
        ) as sound:
            for block in itertools.chain([first], blocks):
                if block.shape[1] != first.shape[1]:  # changed within the file
                    block = np.repeat(_mono(block)[:, np.newaxis], first.shape[1], 1)
                sound.write(block)


def _in_order(files: Iterator[Iterator[Clip]]) -> Iterator[Clip]:
    # The decoders and TensorFlow release the interpreter's lock.
    num_threads = min(os.cpu_count() or 1, 16)
    pool = futures.ThreadPoolExecutor(num_threads)
    pending: collections.deque[tuple[Iterator[Clip], futures.Future[Clip]]]
    pending = collections.deque()
    try:
        while True:
            room = max(_FILES_AHEAD, num_threads) - len(pending)
            for file in itertools.islice(files, room):
                pending.append((file, pool.submit(next, file)))
            if not pending:
                return
            file, piece = pending.popleft()
            while not (clip := piece.result()).is_last:
                piece = pool.submit(next, file)
                yield clip
            yield clip
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(
    index: int, path: str, piece_samples: int, max_secs: float, use_tfio: bool
) -> Iterator[Clip]:
    """Yields the pieces of a file; whatever goes wrong is the error of the last one."""
    held, peak = None, 0.0
    most = math.ceil(min(max_secs * params.SAMPLE_RATE_HZ, _WHOLE_FILE))
    try:
        with storage.content(path) as place, _open(here := str(place)) as source:
            decoded = use_tfio and tensorflow_io_decoder.blocks(here, source, max_secs)
            blocks = map(_mono, decoded or source.blocks())
            rates_hz = rate_hz, _ = source.rate_hz, params.SAMPLE_RATE_HZ
            for piece in streaming.stream(blocks, *rates_hz, piece_samples, most):
                peak = max(peak, _peak(piece))
                if held is not None:
                    yield Clip(index, path, held, rate_hz, is_last=False)
                held = piece
            note = source.note()
        if held is None:
            raise ValueError("no audio after the header")
        if peak > _LOUDEST:
            note = _LOUD.format(peak)
        yield Clip(index, path, held, rate_hz, note)
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        is_system = isinstance(error, OSError)
        yield Clip(index, path, None, 0, error=reason, is_system_error=is_system)


def _mono(block: np.ndarray) -> np.ndarray:
    # Faster than `mean` over an axis of length 2.
    return sum(block.T) / block.shape[1] if block.shape[1] > 1 else block[:, 0]


def _peak(waveform: np.ndarray) -> float:
    peak = float(np.abs(waveform).max())  # NaN if a sample is NaN
    if not math.isfinite(peak):
        raise ValueError("samples that are NaN or infinite")
    return peak


@contextlib.contextmanager
def _open(path: str) -> Iterator[_Source]:
    # For folders, `open` has the better message.
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError("not a regular file")
    with open(path, "rb") as file, contextlib.closing(_source(file)) as source:
        if not streaming.MIN_RATE_HZ <= source.rate_hz <= streaming.MAX_RATE_HZ:
            raise ValueError(f"sample rate {source.rate_hz} Hz is outside 1-768 kHz")
        yield source


def _is_joined_flac(file: BinaryIO, first_bytes: bytes) -> bool:
    """Whether FLAC files follow each other, of which libsndfile reads the first."""
    if first_bytes != _FLAC[:4]:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_FLAC, 4) > 0


def _source(file: BinaryIO) -> _Source:
    """Opens a file with the decoder for its content, or else with the other one."""
    first_bytes = ffmpeg.read_at(file, 0, 4)
    if not first_bytes:
        raise ValueError("empty file")
    is_mp3 = mp3.is_plain(file)
    is_known = is_mp3 or first_bytes in libsndfile.FIRST_BYTES
    decoders: list[Callable[[BinaryIO], _Source]]
    decoders = [functools.partial(libsndfile.Source, is_mp3=is_mp3), ffmpeg.Source]
    if not is_known or _is_joined_flac(file, first_bytes):
        decoders.reverse()
    try:
        return decoders[0](file)
    except ValueError:
        file.seek(0)
        with contextlib.suppress(ValueError):
            return decoders[1](file)
        raise
