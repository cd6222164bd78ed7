"""Decodes audio files with FFmpeg (PyAV), packet by packet, past damage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import operator
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer

# No playlists, and nothing else that makes FFmpeg open other files or addresses.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,"
    "mpeg,mpegts,ogg,tta,voc,w64,wav,wv,xwma"
)
_UNSTATED = {"aac", "ac3", "amr", "dts", "eac3"}  # FFmpeg guesses their length
NOT_AUDIO = "not audio, damaged, or an unsupported format (convert it to FLAC or MP3)"

# Tags in an unknown encoding are no error; PyAV 19 knows that by itself.
_IS_STRICT = int(av.__version__.partition(".")[0]) < 19
_METADATA: dict[str, Any] = {"metadata_errors": "ignore"} if _IS_STRICT else {}
_BUFFER_BYTES = 2**17
_SCAN_BYTES = 2**20  # of an Ogg file
_BLOCK_SAMPLES = 2**15
_MOST_FAILURES = 100  # of reading packets
_XING = re.compile(rb"(?s)(?:Xing|Info)\0\0\0[\1\3\5\7\x09\x0b\x0d\x0f](.{4})")
_XING_BYTES = 2_000  # that hold the tag, before the first packet


class Source:
    """An audio file, open for reading at its beginning.

    Attributes:
      rate_hz: its sample rate at the beginning. Later ones are converted to it.
      codec: FFmpeg's name of the decoder.
      num_samples: its length as far as FFmpeg knows it.

    Raises:
      ValueError: if it cannot be decoded.
      OSError: if the system cannot read it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        starts, num_ends = _ogg_links(file)
        self._links, self._is_cut_off = _links(file, starts), num_ends < len(starts)
        self._container, self._stream = _opened(next(self._links))
        self.rate_hz = self._stream.codec_context.sample_rate
        self.codec = self._stream.codec_context.name
        length = 0 if self._is_cut_off else self._stream.duration or 0
        self.num_samples = round(length * (self._stream.time_base or 0) * self.rate_hz)
        self._num_read = self._num_decoded = self._num_lost = 0
        self._lost_secs, self._stated_secs, self._is_at_end = 0.0, 0.0, False

    def close(self) -> None:
        """Closes the decoder, not the file."""
        self._container.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 `[samples, channels]`, as far as they can be decoded."""
        for frame in _in_one_format(self._frames(), self.rate_hz):
            self._num_read += frame.samples
            yield frame.to_ndarray().T
        self._is_at_end = True

    def note(self) -> str:
        """Returns what was odd in the blocks, or "".

        Raises:
          ValueError: if most packets are damaged: noise looks like audio in places.
        """
        if self._num_lost > self._num_decoded:
            raise ValueError(NOT_AUDIO)
        present = self._num_read / self.rate_hz
        stated = present + self._lost_secs
        if self._is_at_end:
            stated = max(stated, self._stated_secs)
        if stated - present > 0.1 + 0.005 * stated:
            return f"damaged or cut off: {present:.1f} of {stated:.1f} s present"
        if self._num_lost:
            return f"damaged: {self._num_lost} packets could not be decoded"
        return "cut off: the end of the stream is missing" if self._is_cut_off else ""

    def _frames(self) -> Iterator[av.AudioFrame]:
        yield from self._frames_of_link()
        for link in self._links:
            self._container.close()
            try:
                self._container, self._stream = _opened(link)
            except ValueError:
                self._lose(0.0)
            else:
                yield from self._frames_of_link()

    def _frames_of_link(self) -> Iterator[av.AudioFrame]:
        stated_secs = _stated_secs(self._container, self._stream)
        for number, packet in enumerate(self._packets()):
            if not number and self._container.format.name == "mp3":
                stated_secs = min(stated_secs, self._tagged_secs(packet.pos or 0))
            self._stated_secs += 0.0 if number else stated_secs
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self._lose((packet.duration or 0) * float(packet.time_base or 0))
            else:
                self._num_decoded += bool(frames)
                yield from frames

    def _packets(self) -> Iterator[av.Packet]:
        for failure in range(_MOST_FAILURES):
            try:
                yield from self._container.demux(self._stream)
                return
            except av.FFmpegError:
                if not failure:
                    self._lose(0.0)

    def _lose(self, secs: float) -> None:
        if self._num_decoded:  # what is in front of the first frame is no audio
            self._num_lost += 1
            self._lost_secs += secs

    def _tagged_secs(self, pos: int) -> float:
        """Returns the length in the Xing tag before an MP3's first packet, or 0."""
        before = read_at(self._file, max(pos - _XING_BYTES, 0), _XING_BYTES)
        tag = _XING.search(before)
        frame = 1152 if self.rate_hz >= 32_000 else 576
        return int.from_bytes(tag[1], "big") * frame / self.rate_hz if tag else 0.0


def packet_digest(file: BinaryIO) -> str:
    """Returns the SHA-256 of the packets of the audio, which tags are no part of.

    Raises:
      ValueError: if it is not audio.
      OSError: if the system cannot read it.
    """
    sha = hashlib.sha256()
    starts, _ = _ogg_links(file)
    for link in _links(file, starts):
        container, stream = _opened(link)
        with container, contextlib.suppress(av.FFmpegError):
            for packet in container.demux(stream):
                sha.update(bytes(packet))
    return sha.hexdigest()


def tag(file: BinaryIO, name: str) -> str:
    """Returns a text tag of an audio file in any place where FFmpeg looks, or "".

    Raises:
      ValueError: if it is not audio.
      OSError: if the system cannot read it.
    """
    container, _ = _opened(file)
    with container:
        return str(container.metadata.get(name, ""))


def read_at(file: BinaryIO, start: int, num_bytes: int) -> bytes:
    """Reads bytes from a position of an open file, which stays where it is."""
    descriptor = file.fileno()  # os.pread, but on Windows too
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, start, os.SEEK_SET)
    try:
        return os.read(descriptor, num_bytes)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def _links(file: BinaryIO, starts: list[int]) -> Iterator[BinaryIO]:
    if len(starts) < 2:
        yield file
        return
    for start, stop in itertools.pairwise([*starts, os.fstat(file.fileno()).st_size]):
        yield io.BytesIO(read_at(file, start, stop - start))


def _ogg_links(file: BinaryIO) -> tuple[list[int], int]:
    """Returns where each link of an Ogg file starts, and how many ends there are."""
    starts, num_ends, was_first = [], 0, 0
    data, end = b"", 0
    while block := read_at(file, end, _SCAN_BYTES):
        if not end and block[:4] != b"OggS":
            break
        data, end = data[-5:] + block, end + len(block)
        for page in re.finditer(rb"(?s)OggS\0(.)", data):
            is_first, is_last = page[1][0] & 2, page[1][0] & 4
            if is_first and not was_first:
                starts.append(end - len(data) + page.start())
            num_ends += bool(is_last)
            was_first = is_first
    return starts, num_ends


def _opened(file: BinaryIO) -> tuple[InputContainer, av.AudioStream]:
    reason = NOT_AUDIO
    for name in (None, "mp3"):  # FFmpeg does not recognise an MP3 behind much else
        file.seek(0)
        try:
            container = av.open(
                file,
                mode="r",
                format=name,
                options={"format_whitelist": _FORMATS},
                buffer_size=_BUFFER_BYTES,
                **_METADATA,
            )
        except av.FFmpegError:
            continue
        stream = container.streams.best("audio")
        context = getattr(stream, "codec_context", None)
        if isinstance(stream, av.AudioStream) and context and context.sample_rate:
            return container, stream
        if container.streams.video and name is None:
            reason = "video without sound (convert it to FLAC or MP3)"
        container.close()
    raise ValueError(reason)


def _stated_secs(container: InputContainer, stream: av.AudioStream) -> float:
    """Returns the length that the container states, or 0."""
    if container.format.name in _UNSTATED:
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.streams.video else (container.duration or 0) / 1e6


def _in_one_format(
    frames: Iterator[av.AudioFrame], rate_hz: int
) -> Iterator[av.AudioFrame]:
    """Yields larger frames in planar float32, all at one sample rate."""
    kind = operator.attrgetter("layout.name", "rate", "format.name")
    for (layout, *_), run in itertools.groupby(frames, kind):
        resampler = av.AudioResampler("fltp", layout, rate_hz)
        for block in _joined(run):
            yield from filter(None, resampler.resample(block))


def _joined(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame | None]:
    """Yields larger frames, and None at the end."""
    fifo = av.AudioFifo()
    for frame in frames:
        frame.pts = None
        fifo.write(frame)
        if fifo.samples >= _BLOCK_SAMPLES:
            yield fifo.read()
    if fifo.samples:
        yield fifo.read()
    yield None
