"""Files to scores, by an exported model: many files, and long ones, in little memory.

`predict` gives a `Result` a file, in order. What a file's scores are depends neither
on the files beside it nor on where a list of files was begun, so that a long piece
of work can be stopped and gone on with at any multiple of `GROUP_FILES`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from genre_tl import params
from genre_tl.audio import decoding
from genre_tl.serving import model_card, saved_model
from genre_tl.serving.predictor import Predictor

GROUP_FILES = 32
"""Files scored together; to the last bit, results depend on the group's files."""

# Longer files are read and scored in pieces: 8 minutes, what an export computes at
# once.
_PIECE_SEGMENTS = saved_model.CHUNK_SEGMENTS

# Most samples scored in one go, and of a file of a model whose segments are unknown.
_BATCH_SAMPLES = GROUP_FILES * 30 * params.SAMPLE_RATE_HZ
_WHOLE_FILE = 2**40

# Louder samples count as silence in an export.
_LOUDEST = 2.0**31


@dataclasses.dataclass(frozen=True)
class Taggram:
    """Scores over time.

    Attributes:
      times_secs: float `[times]`.
      scores: float32 `[times, labels]`.
    """

    times_secs: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a file.

    Attributes:
      path: the file, as given.
      scores: float32 `[labels]`; None after an error.
      embedding: float32 `[units]`, if it was wanted.
      taggram: scores over time, if they were wanted.
      secs: length of the sound that was used.
      note: what was odd about the file though it was used, or "".
      error: why it could not be used, or "".
    """

    path: str
    scores: np.ndarray | None
    embedding: np.ndarray | None = None
    taggram: Taggram | None = None
    secs: float = 0.0
    note: str = ""
    error: str = ""


def predict(
    predictor: Predictor,
    paths: Sequence[str],
    *,
    max_secs: float | None = None,
    embeddings: bool = False,
    taggrams: bool = False,
) -> Iterator[Result]:
    """Scores files in order; some are decoded while others are scored.

    A file of more than eight minutes is scored piece by piece and the pieces are put
    together as an export puts its segments together, so that hours fit in memory.

    Args:
      predictor: an exported model.
      paths: audio files.
      max_secs: use no more than this of each file, from its beginning.
      embeddings: whether to compute the embedding of each file too.
      taggrams: whether to compute scores over time too.

    Yields:
      A result a file. One that cannot be used has an error; none is left out.
    """
    frontend = model_card.read(predictor.folder).get("frontend", {})
    hop, length = frontend.get("hop_samples", 1), frontend.get("segment_samples", 0)
    piece_samples = _PIECE_SEGMENTS * length or _WHOLE_FILE
    clips = decoding.read_pieces(paths, piece_samples, max_secs=max_secs)
    segments = hop, length or _WHOLE_FILE
    scored = _scored(predictor, clips, segments, embeddings, taggrams)
    for _, of_file in itertools.groupby(scored, key=lambda piece: piece.clip.index):
        yield _together(list(of_file))


@dataclasses.dataclass(frozen=True)
class _Piece:
    clip: decoding.Clip  # without its waveform
    samples: int
    frames: int
    scores: np.ndarray | None
    embedding: np.ndarray | None
    taggram: Taggram | None


def _scored(
    predictor: Predictor,
    clips: Iterable[decoding.Clip],
    segments: tuple[int, int],
    embeddings: bool,
    taggrams: bool,
) -> Iterator[_Piece]:
    for batch in _batches(clips):
        waveforms = [clip.waveform for clip in batch if clip.waveform is not None]
        scores, vectors = _score(predictor, waveforms, embeddings)
        for clip in batch:
            waveform, light = clip.waveform, dataclasses.replace(clip, waveform=None)
            if waveform is None:
                yield _Piece(light, 0, 0, None, None, None)
                continue
            yield _Piece(
                light,
                len(waveform),
                _num_frames(waveform, *segments),
                next(scores),
                next(vectors, None),
                Taggram(*predictor.taggram(waveform)) if taggrams else None,
            )


def _score(
    predictor: Predictor, waveforms: Sequence[np.ndarray], embeddings: bool
) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Returns the scores of each clip and, if they are wanted, its embedding."""
    if not embeddings:
        return iter(predictor.scores(waveforms)), iter(())
    scores, vectors = predictor.scores_and_embeddings(waveforms)
    return iter(scores), iter(vectors)


def _batches(clips: Iterable[decoding.Clip]) -> Iterator[list[decoding.Clip]]:
    """Yields the pieces that are scored in one go: of one group of files, not many."""
    batch: list[decoding.Clip] = []
    for clip in clips:
        if batch and clip.index // GROUP_FILES != batch[0].index // GROUP_FILES:
            yield batch
            batch = []
        batch.append(clip)
        lengths = [0 if c.waveform is None else len(c.waveform) for c in batch]
        if sum(lengths) >= _BATCH_SAMPLES:
            yield batch
            batch = []
    if batch:
        yield batch


def _num_frames(waveform: np.ndarray, hop: int, length: int) -> int:
    """Returns the weight an export gives a piece: frames up to the last sound.

    That is the sum over its segments, each up to its own last sound.
    """
    end = waveform[-saved_model.MIN_TAIL :]
    is_padded = len(end) == saved_model.MIN_TAIL and (end == end[0]).all()
    is_sound = (waveform != 0) & (np.abs(waveform) < _LOUDEST)
    is_sound &= waveform != (end[0] if is_padded else 0)
    num_frames = 0
    for start in range(0, len(waveform), length):
        backwards = is_sound[start : start + length][::-1]
        silent = int(backwards.argmax())
        if backwards[silent]:
            num_frames += (len(backwards) - silent - 1) // hop + 1
    return num_frames


def _together(pieces: Sequence[_Piece]) -> Result:
    """Makes the pieces of a file one result."""
    clip = pieces[-1].clip
    if clip.error:
        return Result(clip.path, None, error=clip.error)
    weights = np.array([piece.frames for piece in pieces], float)
    if not weights.any():  # a silent recording is as one silent frame
        weights[0] = 1
    return Result(
        clip.path,
        _mean([piece.scores for piece in pieces], weights),
        _mean([piece.embedding for piece in pieces], weights),
        _in_a_row(pieces),
        sum(piece.samples for piece in pieces) / params.SAMPLE_RATE_HZ,
        clip.note,
    )


def _mean(
    vectors: Sequence[np.ndarray | None], weights: np.ndarray
) -> np.ndarray | None:
    there = [vector for vector in vectors if vector is not None]
    if len(there) <= 1:
        return there[0] if there else None
    return np.average(there, axis=0, weights=weights).astype(np.float32)


def _in_a_row(pieces: Sequence[_Piece]) -> Taggram | None:
    times, scores, start = [], [], 0
    silent = not any(piece.frames for piece in pieces)
    for piece in pieces:
        # Silence within a recording has no scores, as in an export.
        if piece.taggram is not None and (piece.frames or silent):
            times.append(piece.taggram.times_secs + start / params.SAMPLE_RATE_HZ)
            scores.append(piece.taggram.scores)
        start += piece.samples
    return Taggram(np.concatenate(times), np.concatenate(scores)) if times else None
