"""Predictions with an exported model, of waveforms and of many files."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.audio import decoding
from genre_tl.features import framing
from genre_tl.serving import export, model_card, saved_model

GROUP_FILES = 32
"""Files scored together; the last bit of a score depends on the group's files."""

# Longer files are read and scored in pieces: what an export computes at once.
_PIECE_SEGMENTS = saved_model.CHUNK_SEGMENTS
_WHOLE_FILE = 2**40

# Most samples in one padded batch, and in the pieces read before they are scored.
_BATCH_SAMPLES = saved_model.CHUNK_SEGMENTS * 30 * params.SAMPLE_RATE_HZ
_READ_SAMPLES = 2 * _BATCH_SAMPLES


class Taggram(NamedTuple):
    """Scores over time."""

    times_secs: np.ndarray
    """`[times]`, from the beginning of the recording."""
    scores: np.ndarray
    """`[times, labels]`"""


class Predictor:
    """An exported model, loaded into this process.

    Attributes:
      folder: the version that was loaded.
      labels: names of the scores, in order.

    Args:
      path: folder of a version, or of all versions: then the newest is loaded.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if it is damaged, or of another program.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = _locate(pathlib.Path(path))
        self._process = os.getpid()
        try:
            self._model = tf.saved_model.load(str(self.folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"{self.folder}: damaged SavedModel: {reason}") from error
        if not all(hasattr(self._model, x) for x in ("labels", "score_and_embed")):
            raise ValueError(f"{self.folder}: a SavedModel of another program")
        self.labels = tuple(x.decode() for x in self._model.labels().numpy())

    def scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the scores of clips, float32 `[clips, labels]`.

        Args:
          waveforms: float `[samples]` each, at `params.SAMPLE_RATE_HZ`.

        Raises:
          ValueError: if a waveform is not one-dimensional and floating-point.
          RuntimeError: in a process forked from the one that loaded the model.
        """
        return self.score_pieces(self._whole(waveforms))[0]

    def embeddings(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the input of the head for clips, float32 `[clips, units]`.

        Args, Raises: as for `scores`.
        """
        return self.score_pieces(self._whole(waveforms))[1]

    def taggram(self, waveform: np.ndarray) -> Taggram:
        """Returns the scores around each valid frame of a clip.

        Args, Raises: as for `scores`.
        """
        return self.taggram_of_piece(*self._whole([waveform]))

    def score_pieces(self, pieces: Sequence[framing.Piece]) -> list[np.ndarray]:
        """Scores parts of recordings, as `framing.pieces` yields them.

        Returns:
          Scores `[pieces, labels]`, embeddings `[pieces, units]`, and the weight of
          each piece in its recording `[pieces]`: valid frames, 0 for silence.
        """
        answers = []
        for batch in list(_batches(pieces)) or [[]]:
            padding = np.array([piece.padding for piece in batch], np.float32)
            starts = np.zeros(len(batch), np.int32)
            answers.append(self._model.score_and_embed(_stack(batch), starts, padding))
        return [np.concatenate(part) for part in zip(*answers, strict=True)]

    def taggram_of_piece(self, piece: framing.Piece) -> Taggram:
        """Returns what `taggram` does, for a part of a recording."""
        scores, times = self._model.taggram(_stack([piece]), [0], [piece.padding])
        is_frame = times[0].numpy() != saved_model.NO_TIME
        secs = times[0].numpy()[is_frame] + piece.start / params.SAMPLE_RATE_HZ
        return Taggram(secs.astype(np.float32), scores[0].numpy()[is_frame])

    def require_own_process(self) -> None:
        """Raises `RuntimeError` in a process forked from that of the model."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "a Predictor does not work in a forked process, where TensorFlow "
                "would hang: create it in the child, or start children with "
                "multiprocessing.get_context('spawn')"
            )

    def _whole(self, waveforms: Sequence[np.ndarray]) -> list[framing.Piece]:
        """Returns each waveform as a single piece."""
        self.require_own_process()
        pieces: list[framing.Piece] = []
        for number, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
                raise ValueError(
                    f"waveforms[{number}] is {waveform.dtype} {waveform.shape}: give "
                    "one channel of floating-point samples from -1 to 1"
                )
            samples = waveform.astype(np.float32, copy=False)
            empty = framing.Piece(samples, 0, np.float32(0))
            pieces += (
                framing.pieces([samples], _WHOLE_FILE) if len(samples) else [empty]
            )
        return pieces


@dataclasses.dataclass(frozen=True)
class Result:
    """Prediction for one file, or the reason it failed.

    Attributes:
      path: the file, as given.
      scores: `[labels]`; None after an error.
      embedding: `[units]`, if requested.
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


def predict(
    model: Predictor,
    paths: Sequence[str],
    *,
    max_secs: float | None = None,
    embeddings: bool = False,
    taggrams: bool = False,
) -> Iterator[Result]:
    """Yields a result for each file, in order and in bounded memory.

    Files of more than eight minutes are scored in pieces. Results do not depend on
    where a list of files begins, if it is cut at a multiple of `GROUP_FILES`.

    Args:
      model: an exported model.
      paths: audio files; one that cannot be used has an error.
      max_secs: use at most this much of each file, from its beginning.
      embeddings: whether to return embeddings.
      taggrams: whether to compute scores over time.
    """
    model.require_own_process()
    frontend = model_card.read(model.folder).get("frontend", {})
    piece_samples = _PIECE_SEGMENTS * frontend.get("segment_samples", 0) or _WHOLE_FILE
    clips = decoding.read(paths, piece_samples=piece_samples, max_secs=max_secs)
    scored: list[_Scored] = []
    for parts in _read_ahead(clips, piece_samples):
        pieces = [part for part in parts if isinstance(part, framing.Piece)]
        answers = zip(*(model.score_pieces(pieces) if pieces else ()), strict=True)
        for part in parts:
            if isinstance(part, framing.Piece):
                over_time = model.taggram_of_piece(part) if taggrams else None
                scored.append(_Scored(next(answers), over_time))
            else:
                yield _combined(part, scored, embeddings)
                scored = []


class _Scored(NamedTuple):
    answer: tuple[np.ndarray, np.ndarray, float]  # scores, embedding, valid frames
    taggram: Taggram | None


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
) -> Iterator[list[framing.Piece | _File]]:
    """Yields the pieces of files, each file after its own: a group, or fewer."""
    parts: list[framing.Piece | _File] = []
    num_samples = 0
    for index, of_file in itertools.groupby(clips, key=lambda clip: clip.index):
        file = _File(of_file)
        for piece in framing.pieces(file, piece_samples):
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


def _combined(file: _File, scored: Sequence[_Scored], embeddings: bool) -> Result:
    """Returns the result of a file from those of its pieces."""
    clip = file.clip
    if clip.error:
        return Result(clip.path, None, error=clip.error)
    has_sound = any(num_frames for (_, _, num_frames), _ in scored)
    # Silence within a file has no weight.
    scored = [piece for piece in scored if piece.answer[2] or not has_sound]
    scores, vectors, num_frames = zip(*(x.answer for x in scored), strict=True)
    weights = np.maximum(num_frames, 1)
    over_time = zip(*(x.taggram for x in scored if x.taggram), strict=True)
    taggram = [np.concatenate(part) for part in over_time]
    silence = "" if has_sound else "no sound: the scores mean nothing"
    return Result(
        clip.path,
        np.average(scores, axis=0, weights=weights).astype(np.float32),
        np.average(vectors, axis=0, weights=weights).astype(np.float32)
        if embeddings
        else None,
        Taggram(*taggram) if taggram else None,
        file.num_samples / params.SAMPLE_RATE_HZ,
        "; ".join(filter(None, (clip.note, silence))),
    )


def _locate(path: pathlib.Path) -> pathlib.Path:
    if (path / "saved_model.pb").is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; export a model first")
    folder = export.newest(path)
    if folder is None or not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{folder or path}: has no SavedModel; give the folder of a version, or "
            "of all versions"
        )
    return folder


def _stack(pieces: Sequence[framing.Piece]) -> tf.Tensor:
    """Returns float32 `[pieces, samples]`, padded with zeros."""
    if len(pieces) == 1:  # may be long: no copy
        return tf.constant(pieces[0].waveform[np.newaxis])
    longest = max((len(piece.waveform) for piece in pieces), default=0)
    batch = np.zeros([len(pieces), longest], np.float32)
    for row, piece in zip(batch, pieces, strict=True):
        row[: len(piece.waveform)] = piece.waveform
    return tf.constant(batch)


def _batches(pieces: Sequence[framing.Piece]) -> Iterator[list[framing.Piece]]:
    """Yields the pieces to score together, in order."""
    batch: list[framing.Piece] = []
    longest = 0
    for piece in pieces:
        longest = max(longest, len(piece.waveform))
        is_full = len(batch) == saved_model.CHUNK_SEGMENTS
        if batch and (is_full or (len(batch) + 1) * longest > _BATCH_SAMPLES):
            yield batch
            batch, longest = [], len(piece.waveform)
        batch.append(piece)
    if batch:
        yield batch
