"""Repairs MP3 streams, so that libsndfile reads them silently and to their end.

libmpg123, which libsndfile uses, writes to stderr about damage, and ends where a wrong
or missing Xing tag makes it expect the end. It gets whole frames only, with a correct
tag.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

# MPEG Layer III: bit rates by index, and the four bytes that start a frame.
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HEADER = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][%b]."
    % re.escape(bytes(b for b in range(0x10, 0xF0) if b & 0x0C != 0x0C)),
    re.DOTALL,
)
_HEADER_BYTES, _LONGEST_FRAME = 4, 1_441
_SEARCH_BYTES = 65_536  # most junk before the first frame
_BLOCK_BYTES = 2**20
_MOST_IN_MEMORY = 2**25  # bytes; longer copies are written to a temporary file


def repaired(
    file: BinaryIO, max_secs: float | None = None
) -> tuple[BinaryIO, int] | None:
    """Returns a repaired copy of an MP3 file, or None if it is not an MP3.

    Joined MP3 files become one stream.

    Args:
      file: open for reading, at its beginning. It is returned there.
      max_secs: how much of it is needed; None for all.

    Returns:
      A file to be closed by the caller, and its number of samples if the stream does
      not state it, otherwise 0.

    Raises:
      OSError: if the file cannot be read, or the copy not written.
    """
    start = _skip_id3(file)
    # Two headers in a row occur by chance in one of some thousand PCM files.
    if len(list(itertools.islice(_frames(file, 2 * _SEARCH_BYTES), 3))) < 3:
        file.seek(0)
        return None
    file.seek(start)
    most = os.fstat(file.fileno()).st_size
    if max_secs is not None:
        most = min(most, 40_000 * math.ceil(max_secs + 3))  # 320 kbit/s
    copy, first, num_frames = _scratch_file(most), b"", 0
    for frame in _frames(file, most):
        first = first or frame
        num_frames += 1
        copy.write(frame)
    num_samples = _correct_length(copy, first, num_frames)
    copy.seek(0)
    return copy, num_samples


def _scratch_file(num_bytes: int) -> BinaryIO:
    # libsndfile reads files by itself. From a Python stream it would read in tiny
    # steps that need the interpreter's lock, which takes twice as long as decoding.
    if num_bytes <= _MOST_IN_MEMORY and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("mp3"), "w+b")
    return tempfile.TemporaryFile()


def _correct_length(copy: BinaryIO, first: bytes, num_frames: int) -> int:
    """Corrects the length that libsndfile will find; returns it if there is no tag.

    The tag's size is set. Its count of frames is kept if it is larger, to show that
    the end is missing, and raised if files were joined: it is that of the first.
    """
    num_bytes, tag = copy.tell(), bytearray(first)
    is_mpeg1, is_mono = bool(first[1] & 8), first[3] >> 6 == 3
    at = 4 + ((32, 17) if is_mpeg1 else (17, 9))[is_mono]
    if first[at : at + 4] not in (b"Xing", b"Info"):
        # libmpg123 computes the length from the size of the first frame.
        copy.truncate(max(num_bytes, (num_frames + 1) * len(first)))
        return num_frames * (1152 if is_mpeg1 else 576)
    has_count, has_size = tag[at + 7] & 1, tag[at + 7] & 2
    at += 8
    if has_count:
        stated = int.from_bytes(tag[at : at + 4], "big")
        tag[at : at + 4] = max(stated, num_frames - 1).to_bytes(4, "big")
        at += 4
    if has_size:
        tag[at : at + 4] = num_bytes.to_bytes(4, "big")
    copy.seek(0)
    copy.write(tag)
    return 0


def _skip_id3(file: BinaryIO) -> int:
    """Seeks past any ID3v2 tags and returns the position."""
    start = 0
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        size = functools.reduce(lambda size, byte: size << 7 | byte & 127, head[6:], 0)
        start = file.seek(start + 10 + size)
    return file.seek(start)


def _frames(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yields the whole frames of one stream in the next `most` bytes of a file."""
    begin = base = file.tell()  # `base` is the position of `data` in the file.
    data, at, expected, stream = b"", 0, -1, None
    while True:
        block = file.read(min(_BLOCK_BYTES, begin + most - base - len(data)))
        data, base, at = data[at:] + block, base + at, 0
        sure = len(data) - _LONGEST_FRAME - _HEADER_BYTES if block else len(data)
        while (found := _HEADER.search(data, at)) and found.start() < sure:
            start, (num_bytes, this) = found.start(), _frame(found[0])
            if stream is None and base + start - begin > _SEARCH_BYTES:
                return
            end = start + num_bytes
            in_step = base + start == expected and end <= len(data)
            if stream in (None, this) and (in_step or _is_followed(data, end, this)):
                yield data[start:end]
                stream, at, expected = this, end, base + end
            else:
                at = start + 1
        if not block:
            return
        at = found.start() if found else max(at, len(data) - _HEADER_BYTES + 1)


def _is_followed(data: bytes, end: int, this: tuple[int, int]) -> bool:
    """Returns whether another frame of the stream, or the end, is behind a frame."""
    second = _HEADER.match(data, end)
    return end == len(data) or (second is not None and _frame(second[0])[1] == this)


@functools.lru_cache(maxsize=4096)
def _frame(header: bytes) -> tuple[int, tuple[int, int]]:
    """Returns a frame's length, and what all frames of a stream have in common."""
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    rate_hz = (44_100, 48_000, 32_000)[rate] >> (2, 0, 1, 0)[version]
    bytes_kbps = 144 * _MPEG1_KBPS[kbps] if version == 3 else 72 * _MPEG2_KBPS[kbps]
    return 1000 * bytes_kbps // rate_hz + (header[2] >> 1 & 1), (version, rate)
