"""How to get a file back from a copy that differs in its tags: a short description.

A change of tags inserts or removes bytes, so the audio is the same bytes at the same
distance from the beginning of the file, or from its end. A description is a list of
`[start, stop]`, a range of bytes of the changed copy, and of strings: bytes that are
no longer there, compressed, in base 64. It fits into JSON.
"""

from __future__ import annotations

import base64
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

Description = list[list[int] | str]

_BLOCK_BYTES = 2**22
_LEAST_RUN = 64
"""Fewer equal bytes are stored rather than referred to."""


def describe(old: pathlib.Path, new: pathlib.Path) -> Description:
    """Returns how to get the bytes of `old` from those of `new`."""
    pieces: list[list[int] | bytes] = []
    shifts = sorted({0, new.stat().st_size - old.stat().st_size}, key=abs)
    with open(old, "rb") as source, open(new, "rb") as changed:
        start = 0
        while block := source.read(_BLOCK_BYTES):
            for piece in _pieces(block, start, changed, shifts):
                _append(pieces, piece)
            start += len(block)
    return [_packed(x) if isinstance(x, bytes) else x for x in pieces]


def restored(description: Description, new: pathlib.Path) -> Iterator[bytes]:
    """Yields the bytes that are described, in blocks.

    Raises:
      ValueError: if `new` is too short, or the description is damaged.
    """
    with open(new, "rb") as file:
        for piece in description:
            if isinstance(piece, str):
                try:
                    yield zlib.decompress(base64.b64decode(piece))
                except zlib.error as error:
                    raise ValueError(f"damaged undo file ({error})") from error
                continue
            first, stop = piece
            for start in range(first, stop, _BLOCK_BYTES):
                size = min(_BLOCK_BYTES, stop - start)
                block = _read(file, start, size)
                if len(block) != size:
                    raise ValueError(f"{new}: shorter than when it was written")
                yield block


def _pieces(
    block: bytes, start: int, changed: BinaryIO, shifts: Sequence[int]
) -> Iterator[list[int] | bytes]:
    """Yields the pieces of a block that begins at `start` of the old file."""
    data = np.frombuffer(block, np.uint8)
    is_taken = np.zeros(len(data), bool)
    runs = []
    for shift in shifts:
        skipped = max(-start - shift, 0)
        there = _read(changed, start + shift + skipped, max(len(block) - skipped, 0))
        is_same = np.zeros(len(data), bool)
        stop = skipped + len(there)
        is_same[skipped:stop] = data[skipped:stop] == np.frombuffer(there, np.uint8)
        for begin, end in _long_runs(is_same & ~is_taken):
            is_taken[begin:end] = True
            runs.append((begin, end, shift))
    position = 0
    for begin, end, shift in sorted(runs):
        yield block[position:begin]
        yield [start + begin + shift, start + end + shift]
        position = end
    yield block[position:]


def _long_runs(is_same: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(is_same, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    is_long = ends - begins >= _LEAST_RUN
    return list(zip(begins[is_long].tolist(), ends[is_long].tolist(), strict=True))


def _append(pieces: list[list[int] | bytes], piece: list[int] | bytes) -> None:
    """Appends a piece, as a part of the last one where it continues that."""
    last = pieces[-1] if pieces else None
    if isinstance(piece, bytes):
        if not piece:
            return
        if isinstance(last, bytes):
            pieces[-1] = last + piece
            return
    elif isinstance(last, list) and last[1] == piece[0]:
        last[1] = piece[1]
        return
    pieces.append(piece)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start, os.SEEK_SET)
    return file.read(size)
