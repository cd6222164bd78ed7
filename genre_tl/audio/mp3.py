"""Recognises MP3s with short frames, on each of which PyAV spends too much time."""

from __future__ import annotations

import functools
import os
import re
import struct
from typing import BinaryIO

from genre_tl.audio import ffmpeg

_MOST_BYTES = 2**24  # in memory for each thread
_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def is_plain(file: BinaryIO) -> bool:
    """Returns whether libsndfile reads a file as FFmpeg does: an MP3 below 32 kHz.

    All its frames have one format. A Xing tag states their number, or all are alike.
    """
    head, start = ffmpeg.read_at(file, 0, 10), 0
    if head[:3] == b"ID3":
        start = 10 + int("0" + "".join(f"{byte:07b}" for byte in head[6:]), 2)
    header = ffmpeg.read_at(file, start, 4)
    if not re.match(rb"(?s)\xff[\xe2\xe3\xf2\xf3]..", header) or header[2] & 12 == 12:
        return False
    data = ffmpeg.read_at(file, start, _MOST_BYTES)
    is_whole = start + len(data) == os.fstat(file.fileno()).st_size
    data = data[:-128] if data[-128:-125] == b"TAG" else data
    pattern = _frame(header[1] & 0xFE, header[2] & 0x0C, header[3] >= 0xC0)
    first, *others = frames = pattern.findall(data) or [b""]
    if not is_whole or sum(map(len, frames)) != len(data):
        return False
    if re.search(b"Xing|Info|VBRI", first):
        return struct.pack(">II", len(others), len(data)) in first
    # The length is exact at these rates, and no data of an earlier frame are missing.
    return bool(header[2] & 0x0C) and len(set(map(len, frames))) == 1 and not first[4]


@functools.cache
def _frame(second: int, rate: int, is_mono: bool) -> re.Pattern[bytes]:
    """Returns the pattern of a frame; its arguments are parts of the header."""
    rate_hz = {0: 22_050, 4: 24_000, 8: 16_000}[rate] >> (second == 0xE2)
    kinds = b"|".join(
        rb"\x%02x.{%d}" % (index << 4 | rate | padding << 1, length + padding - 3)
        for index, length in enumerate((72_000 * x // rate_hz for x in _KBPS), 1)
        for padding in (0, 1)
    )
    modes = rb"\xc0-\xff" if is_mono else rb"\0-\xbf"
    begin = rb"\xff[\x%02x\x%02x](?=.[%b])" % (second, second + 1, modes)
    return re.compile(rb"(?s)%b(?:%b)" % (begin, kinds))
