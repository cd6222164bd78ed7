"""Batch prediction with an exported model, in bounded memory.

`predict` yields one `Result` per file, in order. The scores of a file do not depend
on where a list of files begins, as long as it is cut at a multiple of `GROUP_FILES`:
a long list can be resumed there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from genre_tl import params
from genre_tl.audio import decoding
from genre_tl.features import framing
from genre_tl.serving import model_card, predictor, saved_model

GROUP_FILES = 32
"""Files scored together; the last bit of a score depends on the group's files."""

# Longer files are read and scored in pieces: 8 minutes, what an export computes at
# once.
_PIECE_SEGMENTS = saved_model.CHUNK_SEGMENTS

# Most samples scored in one go, and in a file if the model's segments are unknown.
_BATCH_SAMPLES = GROUP_FILES * 30 * params.SAMPLE_RATE_HZ
_WHOLE_FILE = 2**40


@dataclasses.dataclass(frozen=True)
class Taggram:
    """Scores over time.

    Attributes:
      times_secs: float `[times]`, from the beginning of the file.
      scores: float32 `[times, labels]`.
    """

    times_secs: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """Prediction for one file, or the reason it failed.

    Attributes:
      path: the file, as given.
      scores: float32 `[labels]`; None after an error.
      embedding: float32 `[units]`, if requested.
      taggram: scores over time, if requested.
      secs: length of the audio read.
      note: a warning about a file that was used, or "".
      error: why the file could not be used, or "".
    """

    path: str
    scores: np.ndarray | None
    embedding: np.ndarray | None = None
    taggram: Taggram | None = None
    secs: float = 0.0
    note: str = ""
    error: str = ""


class _Scored(NamedTuple):
    scores: np.ndarray
    embedding: np.ndarray
    num_frames: float
    taggram: Taggram | None


def predict(
    model: predictor.Predictor,
    paths: Sequence[str],
    *,
    max_secs: float | None = None,
    embeddings: bool = False,
    taggrams: bool = False,
) -> Iterator[Result]:
    """Scores files in order, decoding some while others are scored.

    A file of more than eight minutes is scored in pieces. Their scores are averaged,
    weighted by valid frames, as an export averages its segments.

    Args:
      model: an exported model.
      paths: audio files.
      max_secs: use at most this much of each file, from its beginning.
      embeddings: whether to return the embedding of each file.
      taggrams: whether to compute scores over time.

    Yields:
      One result per file; a file that cannot be used has an error.
    """
    frontend = model_card.read(model.folder).get("frontend", {})
    piece_samples = _PIECE_SEGMENTS * frontend.get("segment_samples", 0) or _WHOLE_FILE
    clips = decoding.read_pieces(paths, piece_samples, max_secs=max_secs)
    scored: list[_Scored] = []
    for batch in _batches(_parts(clips, piece_samples)):
        results = _score(model, batch, taggrams)
        for part in batch:
            if isinstance(part, framing.Piece):
                scored.append(next(results))
            else:
                yield _combined(part, scored, embeddings)
                scored = []


class _File:
    """Waveforms of a file; then, what is known of the whole file.

    Attributes:
      clip: the last piece that was decoded.
      num_samples: samples decoded so far.
    """

    def __init__(self, clips: Iterable[decoding.Clip]) -> None:
        self._clips, self.num_samples = clips, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for clip in self._clips:
            self.clip = clip
            if clip.waveform is not None:
                self.num_samples += len(clip.waveform)
                yield clip.waveform


_Part = framing.Piece | _File


def _parts(clips: Iterable[decoding.Clip], piece_samples: int) -> Iterator[_Part]:
    """Yields the pieces of each file, then the file."""
    for _, of_file in itertools.groupby(clips, key=lambda clip: clip.index):
        file = _File(of_file)
        yield from framing.pieces(file, piece_samples)
        yield file


def _batches(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Yields what is scored in one go: parts of one group of files, not too long."""
    batch: list[_Part] = []
    num_samples = 0
    for part in parts:
        batch.append(part)
        if isinstance(part, framing.Piece):
            num_samples += len(part.waveform)
            is_full = num_samples >= _BATCH_SAMPLES
        else:
            is_full = part.clip.index % GROUP_FILES == GROUP_FILES - 1
        if is_full:
            yield batch
            batch, num_samples = [], 0
    if batch:
        yield batch


def _score(
    model: predictor.Predictor, parts: Sequence[_Part], taggrams: bool
) -> Iterator[_Scored]:
    pieces = [part for part in parts if isinstance(part, framing.Piece)]
    if not pieces:
        return
    for piece, *answer in zip(pieces, *model.score_pieces(pieces), strict=True):
        taggram = Taggram(*model.taggram_of_piece(piece)) if taggrams else None
        yield _Scored(*answer, taggram)


def _combined(file: _File, scored: Sequence[_Scored], embeddings: bool) -> Result:
    """Returns the result of a file from those of its pieces."""
    clip = file.clip
    if clip.error:
        return Result(clip.path, None, error=clip.error)
    # A file without sound has one silent piece; silence inside a file has no weight.
    scored = [piece for piece in scored if piece.num_frames] or scored[:1]
    weights = [max(piece.num_frames, 1) for piece in scored]
    taggrams = [piece.taggram for piece in scored if piece.taggram]
    return Result(
        clip.path,
        _mean([piece.scores for piece in scored], weights),
        _mean([piece.embedding for piece in scored], weights) if embeddings else None,
        Taggram(
            np.concatenate([each.times_secs for each in taggrams]),
            np.concatenate([each.scores for each in taggrams]),
        )
        if taggrams
        else None,
        file.num_samples / params.SAMPLE_RATE_HZ,
        clip.note,
    )


def _mean(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    return np.average(vectors, axis=0, weights=weights).astype(np.float32)
