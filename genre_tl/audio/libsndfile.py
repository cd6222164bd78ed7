"""Decodes audio files with libsndfile, block by block, and says what is odd in them."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from genre_tl.audio import mp3

_BLOCK_SAMPLES = 2**18  # headers may promise any length
_MARGIN_SECS = 0.1  # read beyond `max_secs`, so that resampling sees no edge there
_SYSTEM_ERROR = 2  # libsndfile's code for an error of the operating system

_MESSAGES = {
    "Format not recognised": "not audio, or an unsupported format (convert it to FLAC "
    "or MP3)",
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
      kind: libsndfile's names of its format and subtype.
      num_samples: its length, as far as it is known.
      num_wanted: how many samples `blocks` reads at most.
    """

    def __init__(
        self, sound: soundfile.SoundFile, num_samples: int, max_secs: float | None
    ) -> None:
        self._sound, self._num_read = sound, 0
        self.rate_hz = sound.samplerate
        self.kind = (sound.format, sound.subtype)
        self.num_samples = num_samples
        secs = math.inf if max_secs is None else max_secs + _MARGIN_SECS
        self.num_wanted = math.ceil(min(num_samples, secs * self.rate_hz))

    def blocks(self, decoded: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yields float32 `[samples]`, channels averaged, as far as they can be decoded.

        Args:
          decoded: all samples, if another decoder has decoded them already.

        Raises:
          ValueError: if a sample is NaN or infinite.
        """
        if decoded is not None:
            self._num_read = len(decoded)
            yield decoded
        is_complete = True
        while is_complete and self._num_read < self.num_wanted:
            size = min(self.num_wanted - self._num_read, _BLOCK_SAMPLES)
            block = np.zeros([size, self._sound.channels], np.float32)
            try:
                samples = self._sound.read(out=block)
            except soundfile.LibsndfileError as error:
                if error.code == _SYSTEM_ERROR:
                    raise
                # What was decoded before the error is in `block`.
                samples = block[: np.flatnonzero(block.any(axis=1)).max(initial=-1) + 1]
            if not np.isfinite(samples).all():
                raise ValueError("samples that are NaN or infinite")
            self._num_read += len(samples)
            is_complete = len(samples) == size
            yield samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]

    def note(self) -> str:
        """Returns what was odd about the file, once `blocks` has been read, or ""."""
        is_known = self.num_samples < 2**62  # "unknown" is 2**63 - 1.
        if self._num_read < self.num_wanted and is_known:
            return f"damaged or {self._cut_off(self._num_read, self.num_samples)}"
        return self.header_note()

    def header_note(self) -> str:
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
        if "lacks an end-of-stream" in log:
            return "cut off: the end of the stream is missing"
        return ""

    def _cut_off(self, num_present: int, num_stated: int) -> str:
        present, stated = num_present / self.rate_hz, num_stated / self.rate_hz
        return f"cut off: {present:.1f} of {stated:.1f} s present"


@contextlib.contextmanager
def opened(file: BinaryIO, max_secs: float | None) -> Iterator[Source]:
    """Opens a file by its content, not its name.

    Args:
      file: open for reading, at its beginning.
      max_secs: how much will be read; None for all.

    Raises:
      ValueError: if it cannot be decoded, also while blocks are read.
      OSError: if the system cannot read it.
    """
    copy, num_samples = mp3.repaired(file, max_secs) or (file, 0)
    try:
        with _Stream(copy.fileno(), closefd=False) as sound:
            yield Source(sound, num_samples or sound.frames, max_secs)
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM_ERROR:
            raise OSError("the system could not read the file to its end") from error
        text = error.error_string
        known = [words for key, words in _MESSAGES.items() if key in text]
        raise ValueError(
            known[0] if known else f"cannot be decoded ({text.strip(' .')})"
        ) from error
    finally:
        if copy is not file:
            copy.close()
