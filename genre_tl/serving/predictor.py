"""Predictions with an exported model, of waveforms and of many files."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from genre_tl import files, params
from genre_tl.audio import decoding, sound
from genre_tl.serving import model_card, runtimes, versions

GROUP_FILES = 32
"""Files scored together; the last bit of a score depends on the group's files."""

_WHOLE_FILE = 2**40

# Most samples in one padded batch, and in the pieces read before they are scored.
_BATCH_SAMPLES = runtimes.CHUNK_SEGMENTS * 30 * params.SAMPLE_RATE_HZ
_READ_SAMPLES = 2 * _BATCH_SAMPLES

_Part: TypeAlias = "sound.Piece | _File"
_Task: TypeAlias = "futures.Future[Any]"


class Taggram(NamedTuple):
    """Scores over time: seconds `[times]` from the beginning, `[times, labels]`."""

    times_secs: np.ndarray
    scores: np.ndarray


class Predictor:
    """An exported model, loaded into this process.

    Attributes:
      folder: the version that was loaded.
      runtime: what computes it: ONNX Runtime if the version has `model.onnx`, else
        TensorFlow.
      labels: names of the scores, in order.
      is_tagger: whether each score stands alone, rather than one of a sum of 1.

    Args:
      path: folder of a version, or of all versions: then the newest whole one is
        loaded, with a warning about those that are damaged.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if a file is not as it was exported, or made by another program.
    """

    def __init__(self, path: files.PathLike) -> None:
        self.folder = versions.newest_whole(pathlib.Path(path))
        self._process = os.getpid()
        self.runtime = runtimes.load(self.folder)
        self.labels = self.runtime.labels
        training = model_card.read(self.folder).get("training", {})
        self.is_tagger = training.get("kind") == "pretrain"

    def scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the scores of clips, float32 `[clips, labels]`.

        Args:
          waveforms: float `[samples]` each, at `params.SAMPLE_RATE_HZ`.

        Raises:
          ValueError: if a waveform is not one-dimensional and floating-point.
          RuntimeError: in a process forked from the one that loaded the model.
        """
        return self.score_pieces(self._whole(waveforms))[0]

    def taggram(self, waveform: np.ndarray) -> Taggram:
        """Returns the scores around each valid frame of a clip; as `scores`."""
        return self.taggram_of_piece(*self._whole([waveform]))

    def score_pieces(self, pieces: Sequence[sound.Piece]) -> list[np.ndarray]:
        """Scores parts of recordings, as `sound.pieces` yields them.

        Returns scores `[pieces, labels]`, embeddings `[pieces, units]`, the number of
        valid frames of each piece, `[pieces]`, 0 for silence, and its familiarity, 0 to
        1 `[pieces]`, NaN if the model does not know it.
        """
        answers = []
        for batch in list(_batches(pieces)) or [[]]:
            padding = np.array([piece.padding for piece in batch], np.float32)
            answer = self.runtime.score(_stack(batch), padding)
            unknown = np.full(len(batch), np.nan, np.float32)
            answers.append((*answer, unknown)[:4])
        return [np.concatenate(part) for part in zip(*answers, strict=True)]

    def taggram_of_piece(self, piece: sound.Piece) -> Taggram:
        """Returns what `taggram` does, for a part of a recording."""
        padding = np.array([piece.padding], np.float32)
        (scores,), (times,) = self.runtime.taggram(_stack([piece]), padding)
        is_frame = times != runtimes.NO_TIME
        secs = times[is_frame] + piece.start / params.SAMPLE_RATE_HZ
        return Taggram(secs.astype(np.float32), scores[is_frame])

    def require_own_process(self) -> None:
        """Raises `RuntimeError` in a process forked from that of the model."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "a Predictor does not work in a forked process, where its threads "
                "are missing: create it in the child, or start children with "
                "multiprocessing.get_context('spawn')"
            )

    def _whole(self, waveforms: Sequence[np.ndarray]) -> list[sound.Piece]:
        """Returns each waveform as a single piece."""
        self.require_own_process()
        pieces: list[sound.Piece] = []
        for number, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
                raise ValueError(
                    f"waveforms[{number}] is {waveform.dtype} {waveform.shape}: give "
                    "one channel of floating-point samples from -1 to 1"
                )
            samples = waveform if len(waveform) else np.zeros(1)
            samples = samples.astype(np.float32, copy=False)
            pieces += sound.pieces([samples], _WHOLE_FILE)
        return pieces


@dataclasses.dataclass(frozen=True)
class Result:
    """Prediction for one file, or the reason it failed.

    Attributes:
      scores: `[labels]`; None after an error.
      embedding: `[units]`; None after an error.
      taggram: scores over time, if requested.
      secs: length of the audio read.
      familiarity: share of the training music that resembles the rest of it less than
        this file does, 0 to 1; None after an error, or if the model does not know it.
      has_sound: whether the audio has any; if not, the scores mean nothing.
      note: a warning about a file that was used, or "".
      error: why the file could not be used, or "".
    """

    path: str
    scores: np.ndarray | None
    embedding: np.ndarray | None = None
    taggram: Taggram | None = None
    secs: float = 0.0
    has_sound: bool = True
    note: str = ""
    error: str = ""
    familiarity: float | None = None

    @property
    def is_unfamiliar(self) -> bool:
        """Whether the file is unlike the training music, as far as the model knows."""
        return self.familiarity is not None and self.familiarity < params.UNFAMILIAR


def predict(
    model: Predictor,
    paths: Sequence[str],
    *,
    max_secs: float | None = None,
    taggrams: bool = False,
) -> Iterator[Result]:
    """Yields a result for each file, in order and in bounded memory.

    Files of more than eight minutes are scored in pieces. Results do not depend on
    where a list of files begins, if it is cut at a multiple of `GROUP_FILES`. With
    `max_secs`, only the first seconds of each file are used.
    """
    model.require_own_process()
    segment = model_card.read(model.folder).get("frontend", {}).get("segment_samples")
    piece_samples = segment * runtimes.CHUNK_SEGMENTS if segment else _WHOLE_FILE
    clips = decoding.read(paths, piece_samples=piece_samples, max_secs=max_secs)
    scored: list[tuple[Any, ...]] = []
    for part, answer in _answered(model, _read_ahead(clips, piece_samples), taggrams):
        if isinstance(part, _File):
            yield _combined(part, scored)
            scored = []
        else:
            scored.append(answer)


def _answered(
    model: Predictor, groups: Iterator[list[_Part]], taggrams: bool
) -> Iterator[tuple[_Part, tuple[Any, ...]]]:
    """Yields each part with its answer: scores, embedding, frames, taggram or None.

    While batches of one group are computed, the next group is read.
    """
    pool = futures.ThreadPoolExecutor(model.runtime.num_parallel)
    waiting: collections.deque[tuple[list[_Part], list[_Task], list[_Task]]]
    waiting = collections.deque()
    try:
        for parts in itertools.chain(groups, [[]]):
            pieces = [part for part in parts if isinstance(part, sound.Piece)]
            tasks = [pool.submit(model.score_pieces, x) for x in _batches(pieces)]
            over_time = pieces if taggrams else []
            more = [pool.submit(model.taggram_of_piece, piece) for piece in over_time]
            waiting.append((parts, tasks, more))
            while len(waiting) > (1 if parts else 0):
                yield from _with_answers(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _with_answers(
    parts: Sequence[_Part], scores: Sequence[_Task], taggrams: Sequence[_Task]
) -> Iterator[tuple[_Part, tuple[Any, ...]]]:
    rows = (row for task in scores for row in zip(*task.result(), strict=True))
    over_time = (task.result() for task in taggrams)
    for part in parts:
        is_piece = isinstance(part, sound.Piece)
        yield part, (*next(rows), next(over_time, None)) if is_piece else ()


class _File:
    """Iterates over the waveforms of a file; then knows its last clip and length."""

    def __init__(self, clips: Iterable[decoding.Clip]) -> None:
        self._clips, self.num_samples = clips, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for clip in self._clips:
            self.clip = clip
            if clip.waveform is not None:
                self.num_samples += len(clip.waveform)
                yield clip.waveform


def _read_ahead(
    clips: Iterable[decoding.Clip], piece_samples: int
) -> Iterator[list[_Part]]:
    """Yields the pieces of files, each file after its own: a group, or fewer."""
    parts: list[_Part] = []
    num_samples = 0
    for index, of_file in itertools.groupby(clips, key=lambda clip: clip.index):
        file = _File(of_file)
        for piece in sound.pieces(file, piece_samples):
            parts.append(piece)
            num_samples += len(piece.waveform)
            if num_samples >= _READ_SAMPLES:
                yield parts
                parts, num_samples = [], 0
        parts.append(file)
        if index % GROUP_FILES == GROUP_FILES - 1:
            yield parts
            parts, num_samples = [], 0
    yield parts


def _combined(file: _File, scored: Sequence[tuple[Any, ...]]) -> Result:
    """Returns the result of a file from those of its pieces.

    A piece has scores, an embedding, a number of valid frames, a familiarity and a
    taggram or None.
    """
    clip = file.clip
    if clip.error:
        return Result(clip.path, None, error=clip.error)
    # Silence within a file has no weight.
    sounding = [piece for piece in scored if piece[2]]
    scores, vectors, frames, known, taggrams = zip(*(sounding or scored), strict=True)
    weights = np.maximum(frames, 1)
    over_time = zip(*(x for x in taggrams if x is not None), strict=True)
    taggram = [np.concatenate(part) for part in over_time]
    silence = "" if sounding else "no sound"
    return Result(
        clip.path,
        np.average(scores, axis=0, weights=weights).astype(np.float32),
        np.average(vectors, axis=0, weights=weights).astype(np.float32),
        Taggram(*taggram) if taggram else None,
        file.num_samples / params.SAMPLE_RATE_HZ,
        bool(sounding),
        "; ".join(filter(None, (clip.note, silence))),
        familiarity=_mean_familiarity(known, weights),
    )


def _mean_familiarity(known: Sequence[float], weights: np.ndarray) -> float | None:
    mean = float(np.average(known, weights=weights))
    return None if np.isnan(mean) else mean


def _stack(pieces: Sequence[sound.Piece]) -> np.ndarray:
    """Returns float32 `[pieces, samples]`, padded with zeros."""
    if len(pieces) == 1:  # may be long: no copy
        return pieces[0].waveform[np.newaxis]
    rows = [piece.waveform for piece in pieces]
    stacked = np.zeros([len(rows), max(map(len, rows), default=0)], np.float32)
    for row, waveform in zip(stacked, rows, strict=True):
        row[: len(waveform)] = waveform
    return stacked


def _batches(pieces: Sequence[sound.Piece]) -> Iterator[list[sound.Piece]]:
    """Yields the pieces to score together, in order."""
    batch: list[sound.Piece] = []
    longest = 0
    for piece in pieces:
        longest = max(longest, len(piece.waveform))
        is_full = len(batch) == runtimes.CHUNK_SEGMENTS
        if batch and (is_full or (len(batch) + 1) * longest > _BATCH_SAMPLES):
            yield batch
            batch, longest = [], len(piece.waveform)
        batch.append(piece)
    if batch:
        yield batch
