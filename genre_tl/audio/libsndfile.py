"""Decodes audio files with libsndfile, block by block, and says what is odd in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

FIRST_BYTES = frozenset(
    (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"FORM", b".snd", b"dns.", b"caff")
)
"""How the files begin that libsndfile decodes best: uncompressed ones and FLAC."""

_BLOCK_SAMPLES = 2**18  # headers may promise any length
_MARGIN_SECS = 0.1  # read beyond `max_secs`, so that resampling sees no edge there
_LOUDEST = 100.0  # float samples beyond it are noted
_SYSTEM_ERROR = 2  # libsndfile's code for an error of the operating system

_NOT_RECOGNISED = "not audio, or an unsupported format (convert it to FLAC or MP3)"
_MESSAGES = {
    "Format not recognised": _NOT_RECOGNISED,
    "No 'data' chunk": "cut off in the header, before any audio",
    "SF_INFO struct incomplete": "no sample rate or no channels in the header",
    "malformed": "damaged header",
}


class _Stream(soundfile.SoundFile):
    """Is read in order only: soundfile seeks after each read, which changes MP3."""

    def seekable(self) -> bool:
        return False


class Source:
    """An open audio file.

    Attributes:
      rate_hz: its sample rate.

    Args:
      file: open for reading, at its beginning. Its content decides, not its name.
      max_secs: how much will be read; None for all.

    Raises:
      ValueError: if it cannot be decoded.
      OSError: if the system cannot read it.
    """

    def __init__(self, file: BinaryIO, max_secs: float | None) -> None:
        try:
            self._sound = _Stream(file.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            raise _readable(error) from error
        if self._sound.subtype.startswith("MPEG"):  # It would write to stderr.
            raise ValueError(_NOT_RECOGNISED)
        self.rate_hz = self._sound.samplerate
        secs = math.inf if max_secs is None else max_secs + _MARGIN_SECS
        self._num_wanted = math.ceil(min(self._sound.frames, secs * self.rate_hz))
        self._num_read, self._peak = 0, 0.0

    def close(self) -> None:
        """Closes the decoder, not the file."""
        self._sound.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 `[samples]`, channels averaged, as far as they can be decoded.

        Raises:
          ValueError: if a sample is NaN or infinite.
          OSError: if the system cannot read the file.
        """
        is_complete = True
        while is_complete and self._num_read < self._num_wanted:
            size = min(self._num_wanted - self._num_read, _BLOCK_SAMPLES)
            block = np.zeros([size, self._sound.channels], np.float32)
            try:
                samples = self._sound.read(out=block)
            except soundfile.LibsndfileError as error:
                if error.code == _SYSTEM_ERROR:
                    raise _readable(error) from error
                # What was decoded before the error is in `block`.
                samples = block[: np.flatnonzero(block.any(axis=1)).max(initial=-1) + 1]
            peak = np.abs(samples).max(initial=0)  # NaN if a sample is NaN
            if not np.isfinite(peak):
                raise ValueError("samples that are NaN or infinite")
            self._peak = max(self._peak, peak)
            self._num_read += len(samples)
            is_complete = len(samples) == size
            yield samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]

    def note(self) -> str:
        """Returns what was odd about the file, once `blocks` has been read, or ""."""
        is_known = self._sound.frames < 2**62  # "unknown" is 2**63 - 1.
        if self._num_read < self._num_wanted and is_known:
            return f"damaged or {self._cut_off(self._num_read, self._sound.frames)}"
        if self._peak > _LOUDEST:
            return (
                f"samples up to {self._peak:.0f}, where 1 is full scale: integers that "
                "were not scaled?"
            )
        return self._header_note()

    def _header_note(self) -> str:
        """Returns what libsndfile's log finds wrong with the header, or ""."""
        log = self._sound.extra_info
        data = re.search(r"(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", log)
        if data and 0 < int(data[2]) < int(data[1]) < 2**31 - 1:
            num_stated = self._sound.frames * int(data[1]) // int(data[2])
            return self._cut_off(self._sound.frames, num_stated)
        if data or re.search(
            r"(?m)^\s*(?:RIFF|riff|Riff size)\s*: (?:[08]$|.*\()", log
        ):
            return "wrong sizes in the header; all audio in the file was used"
        return ""

    def _cut_off(self, num_present: int, num_stated: int) -> str:
        present, stated = num_present / self.rate_hz, num_stated / self.rate_hz
        return f"cut off: {present:.1f} of {stated:.1f} s present"


def _readable(error: soundfile.LibsndfileError) -> Exception:
    """Returns an error with the reason in words."""
    if error.code == _SYSTEM_ERROR:
        return OSError("the system could not read the file to its end")
    text = error.error_string
    known = [words for key, words in _MESSAGES.items() if key in text]
    return ValueError(known[0] if known else f"cannot be decoded ({text.strip(' .')})")
