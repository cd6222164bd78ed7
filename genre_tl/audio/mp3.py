"""MP3 files as streams that libsndfile reads to their end, without a word.

libmpg123 writes to stderr about damage and about a Xing tag that does not fit the
file, so only whole frames are handed to it and the tag is corrected. Of a file, only
as much is in memory as is being read.
"""

from __future__ import annotations

import bisect
import functools
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

# MPEG Layer III: bit rates by index, and the four bytes that a frame begins with.
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HEADER = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][%b]."
    % re.escape(bytes(b for b in range(0x10, 0xF0) if b & 0x0C != 0x0C)),
    re.DOTALL,
)
_HEADER_BYTES, _LONGEST_FRAME = 4, 1_441
_SEARCH_BYTES = 65_536  # how much junk may stand before the first frame
_BLOCK_BYTES = 2**20
_BUFFER_BYTES = 2**16  # of mended stream, read at once


def mended(
    file: BinaryIO, max_secs: float | None = None
) -> tuple[io.BufferedReader, int] | None:
    """Returns an MP3 stream fit for libsndfile; None if the file is none.

    Of joined files libsndfile would read the first one alone, as its tag says.
    Without a Xing tag libsndfile ends where the first frame's size lets libmpg123
    expect the end: the stream is made longer, and the true length returned.

    Args:
      file: open for reading, at its beginning; to be kept open.
      max_secs: how much will be read, if not all.

    Returns:
      The stream, and its samples if libsndfile would not know them, otherwise 0.
    """
    start = _skip_id3(file)
    # Two headers in step are found by chance in one of some thousand PCM files.
    if len(list(itertools.islice(_frames(file, 2 * _SEARCH_BYTES), 3))) < 3:
        file.seek(0)
        return None
    file.seek(start)
    most = None if max_secs is None else 40_000 * math.ceil(max_secs + 3)  # 320 kbit/s
    parts, num_frames, first = _splice(_frames(file, most))
    length = sum(size for _, size in parts)
    is_mpeg1, is_mono = bool(first[1] & 8), first[3] >> 6 == 3
    at = 4 + ((32, 17) if is_mpeg1 else (17, 9))[is_mono]
    if first[at : at + 4] not in (b"Xing", b"Info"):
        zeros = max(0, (num_frames + 1) * len(first) - length)
        stream = _Spliced(file, [*parts, (None, zeros)])
        num_samples = num_frames * (1152 if is_mpeg1 else 576)
        return io.BufferedReader(stream, _BUFFER_BYTES), num_samples
    tagged = _corrected(first, at, num_frames - 1, length)
    (begin, size), *others = parts
    rest = (begin + len(first), size - len(first))
    parts = [(tagged, len(first)), rest, *others]
    return io.BufferedReader(_Spliced(file, parts), _BUFFER_BYTES), 0


def require_undisturbed(stream: io.BufferedReader) -> None:
    """Raises what the system reported when a mended stream was read.

    Raises:
      OSError: if it did: the stream seemed to end there.
    """
    if isinstance(stream.raw, _Spliced) and stream.raw.error:
        raise stream.raw.error


def _corrected(first: bytes, at: int, num_frames: int, num_bytes: int) -> bytes:
    """Returns the frame with a Xing tag, made true of the stream.

    The size is set. The count stays if it is larger, so that the end which is missing
    is missed, and is raised where files were joined, of which it counts the first.
    """
    has_count, has_size = first[at + 7] & 1, first[at + 7] & 2
    tag = bytearray(first)
    if has_count:
        stated = int.from_bytes(first[at + 8 : at + 12], "big")
        tag[at + 8 : at + 12] = max(stated, num_frames).to_bytes(4, "big")
    if has_size:  # behind the count, if there is one
        at += 8 + 4 * has_count
        tag[at : at + 4] = num_bytes.to_bytes(4, "big")
    return bytes(tag)


class _Spliced(io.RawIOBase):
    """Parts of a file, and bytes from elsewhere, as one stream.

    Args:
      file: open for reading.
      parts: `(source, size)`: a position in the file, bytes, or None for zeros.

    Attributes:
      error: what the system last reported when the file was read, if anything.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[tuple[Any, int]]) -> None:
        self._file = file
        self._parts = [part for part in parts if part[1]]
        self._ends = list(itertools.accumulate(size for _, size in self._parts))
        self._at = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}
        self._at = max(0, origin[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer), 0
        while done < len(view) and self._at < self._ends[-1]:
            piece = self._read_part(len(view) - done)
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
        return done

    def _read_part(self, most: int) -> bytes:
        """Returns what is left of the part at the present position, or some of it."""
        index = bisect.bisect_right(self._ends, self._at)
        (source, size), left = self._parts[index], self._ends[index] - self._at
        offset, num_bytes = size - left, min(left, most)
        if source is None:
            return bytes(num_bytes)
        if isinstance(source, bytes):
            return source[offset : offset + num_bytes]
        try:
            self._file.seek(source + offset)
            return self._file.read(num_bytes)
        except OSError as error:  # through libsndfile no exception finds its way
            self.error = error
            return b""


def _splice(
    frames: Iterator[tuple[int, bytes]],
) -> tuple[list[tuple[Any, int]], int, bytes]:
    """Returns the runs of adjacent frames, how many frames there are, the first one."""
    begin, first = next(frames)
    parts: list[tuple[Any, int]] = []
    num_frames, end = 1, begin + len(first)
    for start, frame in frames:
        if start != end:
            parts.append((begin, end - begin))
            begin = start
        num_frames, end = num_frames + 1, start + len(frame)
    return [*parts, (begin, end - begin)], num_frames, first


def _skip_id3(file: BinaryIO) -> int:
    """Seeks past any ID3v2 tags and returns the position."""
    start = 0
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        size = functools.reduce(lambda size, byte: size << 7 | byte & 127, head[6:], 0)
        start = file.seek(start + 10 + size)
    return file.seek(start)


def _frames(file: BinaryIO, most: int | None) -> Iterator[tuple[int, bytes]]:
    """Yields position and bytes of the whole frames of one stream, without the rest.

    Args:
      file: is read from where it stands.
      most: how many bytes of it, if not all.
    """
    begin = base = file.tell()  # `base` is where `data` begins
    data, at, expected, stream = b"", 0, -1, None
    while True:
        left = _BLOCK_BYTES if most is None else begin + most - base - len(data)
        block = file.read(min(_BLOCK_BYTES, left))
        data, base, at = data[at:] + block, base + at, 0
        sure = len(data) - _LONGEST_FRAME - _HEADER_BYTES if block else len(data)
        while (found := _HEADER.search(data, at)) and found.start() < sure:
            start, (num_bytes, this) = found.start(), _frame(found[0])
            if stream is None and base + start - begin > _SEARCH_BYTES:
                return
            end = start + num_bytes
            in_step = base + start == expected and end <= len(data)
            if stream in (None, this) and (in_step or _is_followed(data, end, this)):
                yield base + start, data[start:end]
                stream, at, expected = this, end, base + end
            else:
                at = start + 1
        if not block:
            return
        at = found.start() if found else max(at, len(data) - _HEADER_BYTES + 1)


def _is_followed(data: bytes, end: int, this: tuple[int, int]) -> bool:
    """Whether the data end behind a frame, or another of its stream is there.

    Out of step, one header may be chance.
    """
    second = _HEADER.match(data, end)
    return end == len(data) or (second is not None and _frame(second[0])[1] == this)


@functools.lru_cache(maxsize=4096)
def _frame(header: bytes) -> tuple[int, tuple[int, int]]:
    """Returns a frame's length and what it shares with all others of its stream."""
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    rate_hz = (44_100, 48_000, 32_000)[rate] >> (2, 0, 1, 0)[version]
    bytes_kbps = 144 * _MPEG1_KBPS[kbps] if version == 3 else 72 * _MPEG2_KBPS[kbps]
    return 1000 * bytes_kbps // rate_hz + (header[2] >> 1 & 1), (version, rate)
