"""Decodes audio files with libsndfile, block by block, and says what is odd in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

FIRST_BYTES = frozenset(
    (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"FORM", b".snd", b"dns.", b"caff")
)
"""How the files begin that libsndfile decodes best: uncompressed ones and FLAC."""

_BLOCK_SAMPLES = 2**16  # headers may promise any length
_SYSTEM_ERROR = 2  # libsndfile's code for an error of the operating system

_NOT_RECOGNISED = "not audio, or an unsupported format (convert it to FLAC or MP3)"
_MESSAGES = {
    "Format not recognised": _NOT_RECOGNISED,
    "No 'data' chunk": "cut off in the header, before any audio",
    "SF_INFO struct incomplete": "no sample rate or no channels in the header",
    "malformed": "damaged header",
}
_WRONG_SIZE = re.compile(r"(?m)^\s*(?:RIFF|riff|Riff size)\s*: (?:[08]$|.*\()")


class _Sound(soundfile.SoundFile):
    """Is read in order only: soundfile would seek after each read."""

    def seekable(self) -> bool:
        return False


class Source:
    """An audio file, open for reading at its beginning; see `ffmpeg.Source`."""

    def __init__(self, file: BinaryIO, is_mp3: bool = False) -> None:
        try:
            self._sound = _Sound(file.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            raise _readable(error) from error
        self.codec, self.num_samples = self._sound.subtype, self._sound.frames
        if self.codec.startswith("MPEG") and not is_mp3:  # It would write to stderr.
            raise ValueError(_NOT_RECOGNISED)
        self.rate_hz = self._sound.samplerate
        self._num_read, self._is_cut_off = 0, False

    def close(self) -> None:
        """Closes the decoder, not the file."""
        self._sound.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 `[samples, channels]`, as far as they can be decoded."""
        while not self._is_cut_off and self._num_read < self._sound.frames:
            size = min(self._sound.frames - self._num_read, _BLOCK_SAMPLES)
            block = np.zeros([size, self._sound.channels], np.float32)
            try:
                samples = self._sound.read(out=block)
            except soundfile.LibsndfileError as error:
                if error.code == _SYSTEM_ERROR:
                    raise _readable(error) from error
                # What was decoded before the error is in `block`.
                heard: np.ndarray = np.flatnonzero(block.any(axis=1))
                samples = block[: heard.max(initial=-1) + 1]
            self._num_read += len(samples)
            self._is_cut_off = len(samples) < size
            yield samples

    def note(self) -> str:
        """Returns what was odd in the blocks and the header, or ""."""
        if self._is_cut_off and self._sound.frames < 2**62:  # 2**63 - 1 is unknown
            return f"damaged or {self._cut_off(self._num_read, self._sound.frames)}"
        log = self._sound.extra_info
        data = re.search(r"(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", log)
        if data and 0 < int(data[2]) < int(data[1]) < 2**31 - 1:
            num_stated = self._sound.frames * int(data[1]) // int(data[2])
            return self._cut_off(self._sound.frames, num_stated)
        if data or _WRONG_SIZE.search(log):
            return "wrong sizes in the header; all audio in the file was used"
        return ""

    def _cut_off(self, num_present: int, num_stated: int) -> str:
        present, stated = num_present / self.rate_hz, num_stated / self.rate_hz
        return f"cut off: {present:.1f} of {stated:.1f} s present"


def _readable(error: soundfile.LibsndfileError) -> Exception:
    if error.code == _SYSTEM_ERROR:
        return OSError("the system could not read the file to its end")
    text = error.error_string
    known = [words for key, words in _MESSAGES.items() if key in text]
    return ValueError(known[0] if known else f"cannot be decoded ({text.strip(' .')})")
