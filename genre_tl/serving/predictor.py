"""An exported model in this process."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.features import framing
from genre_tl.serving import export, saved_model

# Most samples that `Predictor` pads into one batch: some 8 minutes.
_BATCH_SAMPLES = saved_model.CHUNK_SEGMENTS * 30 * params.SAMPLE_RATE_HZ


class Predictor:
    """An exported model in this process.

    Attributes:
      folder: the version that was loaded.
      labels: names of the scores, in their order.

    Args:
      path: a version's folder, or the folder of its versions: then the newest.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if it is damaged, or not an export of this package.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = _locate(pathlib.Path(path))
        try:
            # The functions live as long as the model does.
            self._model = tf.saved_model.load(str(self.folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"{self.folder}: damaged SavedModel: {reason}") from error
        signature = self._model.signatures.get("serving_default")
        outputs = set(signature.structured_outputs) if signature else set()
        if not {"scores", "classes"} <= outputs or not hasattr(self._model, "labels"):
            raise ValueError(f"{self.folder}: a SavedModel, but not of this package")
        self._serve = signature
        names = self._model.labels().numpy()
        self.labels = tuple(name.decode() for name in names)

    def scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Scores clips of any lengths.

        Args:
          waveforms: float `[samples]` each, at `params.SAMPLE_RATE_HZ`.

        Returns:
          float32 `[clips, labels]`.

        Raises:
          ValueError: if a waveform is not one-dimensional and floating-point.
        """
        (scores,) = _rows(lambda x, _: [self._serve(waveform=x)["scores"]], waveforms)
        return scores

    def embeddings(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Returns what the head reads of clips, float32 `[clips, units]`.

        Args and Raises are those of `scores`.
        """
        return self.scores_and_embeddings(waveforms)[1]

    def scores_and_embeddings(
        self, waveforms: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns both, at the cost of one of them.

        Args and Raises are those of `scores`.
        """

        def answer(batch: tf.Tensor, rows: list[int]) -> Sequence[tf.Tensor]:
            places = framing.starts(batch), framing.padding(batch)
            return self._model.score_and_embed(batch, *places)[:2]

        scores, vectors = _rows(answer, waveforms)
        return scores, vectors

    def score_pieces(self, pieces: Sequence[framing.Piece]) -> list[np.ndarray]:
        """Scores parts of recordings.

        Args:
          pieces: as `framing.pieces` yields them.

        Returns:
          Scores float32 `[pieces, labels]`, embeddings `[pieces, units]` and the
          number of valid frames of each, its weight among the pieces of a recording:
          float32 `[pieces]`, 0 for silence.
        """
        padding = np.array([piece.padding for piece in pieces], np.float32)

        def answer(batch: tf.Tensor, rows: list[int]) -> Sequence[tf.Tensor]:
            starts = np.zeros(len(rows), np.int32)
            return self._model.score_and_embed(batch, starts, padding[rows])

        return _rows(answer, [piece.waveform for piece in pieces])

    def taggram_of_piece(self, piece: framing.Piece) -> tuple[np.ndarray, np.ndarray]:
        """Scores a part of a recording over time, as `taggram` does.

        Times count from the beginning of the recording.
        """
        batch = tf.constant(_stack([piece.waveform]))
        scores, times = self._model.taggram(batch, [0], [piece.padding])
        is_frame = times[0].numpy() != saved_model.NO_TIME
        times = times[0].numpy()[is_frame] + piece.start / params.SAMPLE_RATE_HZ
        return times, scores[0].numpy()[is_frame]

    def taggram(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores a clip over time.

        Args:
          waveform: float `[samples]` at `params.SAMPLE_RATE_HZ`.

        Returns:
          Times in seconds, float32 `[times]`, one a frame that holds sound; and the
          scores around them, float32 `[times, labels]`.

        Raises:
          ValueError: if the waveform is not one-dimensional and floating-point.
        """
        _require_waveforms([waveform])
        answer = self._model.signatures["taggram"](waveform=_stack([waveform]))
        times, scores = answer["times"].numpy()[0], answer["scores"].numpy()[0]
        is_frame = times != saved_model.NO_TIME
        return times[is_frame], scores[is_frame]


def _rows(
    answer: Callable[[tf.Tensor, list[int]], Sequence[tf.Tensor]],
    waveforms: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Returns the answers for clips, in their order, asked for in batches."""
    _require_waveforms(waveforms)
    lengths = [len(waveform) for waveform in waveforms]
    order, parts = [], []
    for rows in list(_batches(lengths)) or [[]]:
        batch = _stack([waveforms[row] for row in rows])
        parts.append(answer(tf.constant(batch), rows))
        order += rows
    results = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return [result[np.argsort(np.array(order, int))] for result in results]


def _require_waveforms(waveforms: Sequence[np.ndarray]) -> None:
    for number, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(
                f"waveforms[{number}] is {waveform.dtype} {waveform.shape}: give "
                "one channel of floating-point samples from -1 to 1"
            )


def _stack(waveforms: Sequence[np.ndarray]) -> np.ndarray:
    """Returns float32 `[clips, samples]`, zeros after the end of a clip."""
    if len(waveforms) == 1:  # long, perhaps: no copy
        return waveforms[0][np.newaxis].astype(np.float32, copy=False)
    longest = max(map(len, waveforms), default=0)
    batch = np.zeros([len(waveforms), longest], np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields positions, shortest clips first, that go together."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        # An export computes so many segments at once: of nine, the last one alone.
        is_full = len(batch) == saved_model.CHUNK_SEGMENTS
        is_large = (len(batch) + 1) * lengths[row] > _BATCH_SAMPLES
        if batch and (is_full or is_large):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _locate(path: pathlib.Path) -> pathlib.Path:
    if (path / "saved_model.pb").is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; export a model first")
    folder = export.newest(path)
    if folder is None or not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{folder or path}: holds no SavedModel; give the folder of a version, or "
            "that of the versions"
        )
    return folder
