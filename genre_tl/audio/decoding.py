"""Reads audio files as mono waveforms at `params.SAMPLE_RATE_HZ`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import BinaryIO, TypeAlias

import numpy as np

from genre_tl import params
from genre_tl.audio import ffmpeg, libsndfile, resampling, tensorflow_io_decoder

_Source: TypeAlias = libsndfile.Source | ffmpeg.Source

_FILES_AHEAD = 8  # decoded while another is used
_WHOLE_FILE = 2**40  # samples, more than any file has


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

    Raises:
      ValueError: if `piece_samples` or `max_secs` is not positive.
    """
    for name, value in (("piece_samples", piece_samples), ("max_secs", max_secs)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be positive")
    return _in_order(
        _pieces(index, path, piece_samples or _WHOLE_FILE, max_secs, use_tfio)
        for index, path in enumerate(paths)
    )


def _in_order(files: Iterator[Iterator[Clip]]) -> Iterator[Clip]:
    """Yields the pieces of files, while the next files are decoded in threads."""
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
    index: int, path: str, piece_samples: int, max_secs: float | None, use_tfio: bool
) -> Iterator[Clip]:
    """Yields the pieces of a file; whatever goes wrong is the error of the last one."""
    held, most = None, None
    if max_secs is not None:
        most = math.ceil(max_secs * params.SAMPLE_RATE_HZ)
    try:
        with _open(path, max_secs) as source:
            decoded = tensorflow_io_decoder.decode(path, source) if use_tfio else None
            blocks = source.blocks() if decoded is None else iter([decoded])
            rates_hz = rate_hz, _ = source.rate_hz, params.SAMPLE_RATE_HZ
            for piece in resampling.stream(blocks, *rates_hz, piece_samples, most):
                if held is not None:
                    yield Clip(index, path, held, rate_hz, is_last=False)
                held = piece
            if held is None:
                raise ValueError("no audio after the header")
            collections.deque(blocks, maxlen=0)  # The rest may be damaged, too.
            note = source.note() if decoded is None else ""
        yield Clip(index, path, held, rate_hz, note)
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        is_system = isinstance(error, OSError)
        yield Clip(index, path, None, 0, error=reason, is_system_error=is_system)


@contextlib.contextmanager
def _open(path: str, max_secs: float | None) -> Iterator[_Source]:
    # For folders, `open` has the better message.
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("empty file")
        with contextlib.closing(_source(file, max_secs)) as source:
            lowest, highest = resampling.MIN_RATE_HZ, resampling.MAX_RATE_HZ
            if not lowest <= source.rate_hz <= highest:
                raise ValueError(
                    f"sample rate {source.rate_hz} Hz is outside 1-768 kHz"
                )
            yield source


def _source(file: BinaryIO, max_secs: float | None) -> _Source:
    """Opens a file with the decoder for its content, or else with the other one."""
    first: Callable[..., _Source] = libsndfile.Source
    second: Callable[..., _Source] = ffmpeg.Source
    if os.pread(file.fileno(), 4, 0) not in libsndfile.FIRST_BYTES:
        first, second = second, first
    try:
        return first(file, max_secs)
    except ValueError as error:
        file.seek(0)
        try:
            return second(file, max_secs)
        except ValueError:
            raise error from None
