"""What computes an export's answers: ONNX Runtime or TensorFlow.

Either is imported only when an export needs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from genre_tl.serving import versions

CHUNK_SEGMENTS = 16
"""Segments computed at a time, which bounds memory."""

NO_TIME = -1.0
"""Value in `times` of a taggram where a clip has no frame; its scores are 0."""


class Runtime(Protocol):
    """A loaded export.

    The clips of a batch are float32 `[batch, samples]` and begin with their first
    segment; `padding` is a value that is not sound, float32 `[batch]`
    (`framing.segments`).

    Attributes:
      labels: names of the scores, in order.
      num_parallel: batches to compute at a time, so that all processors are busy.
    """

    labels: tuple[str, ...]
    num_parallel: int

    def score(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """Returns scores `[batch, labels]`, embeddings, and numbers of valid frames.

        The familiarity, `[batch]`, is the last if the model knows it.
        """

    def taggram(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """Returns scores `[batch, times, labels]` and times, seconds or `NO_TIME`."""


def load(folder: pathlib.Path) -> Runtime:
    """Loads a version: its ONNX file if it has one, else its SavedModel.

    If it has both, and ONNX Runtime is not installed, the SavedModel is loaded.

    Raises:
      ValueError: if it cannot be loaded, or is of another program.
    """
    path = folder / versions.ONNX
    can_run = importlib.util.find_spec("onnxruntime") is not None
    if path.is_file() and (can_run or not (folder / versions.SAVED_MODEL).is_file()):
        return OnnxRuntime(path)
    return TensorFlowRuntime(folder)


class OnnxRuntime:
    """A `model.onnx`, computed by ONNX Runtime on the CPU."""

    _SCORE = "scores", "embedding", "valid_frames"
    _OPTIONAL = "familiarity"
    _TAGGRAM = "scores_over_time", "times"

    def __init__(self, path: pathlib.Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"{path}: needs ONNX Runtime; `pip install onnxruntime`"
            ) from error
        options = onnxruntime.SessionOptions()
        # Batches side by side keep processors busier than the threads of one.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # Inputs with default values are on purpose.
        self.num_parallel = os.cpu_count() or 1
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # They have no class in common.
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: damaged ONNX file: {reason}") from error
        facts = self._session.get_modelmeta().custom_metadata_map
        outputs = {output.name for output in self._session.get_outputs()}
        if "labels" not in facts or not outputs.issuperset(self._SCORE + self._TAGGRAM):
            raise ValueError(f"{path}: an ONNX file of another program")
        self.labels = tuple(json.loads(facts["labels"]))
        self._score = self._SCORE + (self._OPTIONAL,) * (self._OPTIONAL in outputs)

    def score(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """See `Runtime`."""
        return self._run(self._score, _placed(waveform, padding))

    def taggram(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """See `Runtime`."""
        return self._run(self._TAGGRAM, _placed(waveform, padding))

    def answers(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """Returns all outputs for a batch of whole clips, which begin anywhere."""
        names = self._score + self._TAGGRAM
        values = self._run(names, {"waveform": waveform})
        return dict(zip(names, values, strict=True))

    def _run(
        self, outputs: Sequence[str], given: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        if not len(given["waveform"]):  # The graph takes at least one clip.
            silent = {"waveform": np.zeros([1, 1], np.float32)}
            return [values[:0] for values in self._run(outputs, silent)]
        return self._session.run(outputs, given, self._options)


def _placed(waveform: np.ndarray, padding: np.ndarray) -> dict[str, np.ndarray]:
    starts = np.zeros(len(waveform), np.int64)
    # NaN would be "not given"; no sound is zero.
    return {"waveform": waveform, "starts": starts, "padding": np.nan_to_num(padding)}


class TensorFlowRuntime:
    """A SavedModel, computed by TensorFlow.

    Attributes:
      model: the loaded SavedModel.
    """

    num_parallel = 2  # TensorFlow has threads of its own.

    def __init__(self, folder: pathlib.Path) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            has_onnx = (folder / versions.ONNX).is_file()
            other = "install onnxruntime" if has_onnx else "export it again"
            raise ValueError(
                f"{folder}: a SavedModel needs TensorFlow; install it, or {other}"
            ) from error
        try:
            self.model: Any = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"{folder}: damaged SavedModel: {reason}") from error
        if not all(hasattr(self.model, x) for x in ("labels", "score_and_embed")):
            raise ValueError(f"{folder}: a SavedModel of another program")
        self.labels = tuple(x.decode() for x in self.model.labels().numpy())

    def score(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """See `Runtime`."""
        starts = np.zeros(len(waveform), np.int32)
        answer = self.model.score_and_embed(waveform, starts, padding)
        return [part.numpy() for part in answer]

    def taggram(self, waveform: np.ndarray, padding: np.ndarray) -> list[np.ndarray]:
        """See `Runtime`."""
        starts = np.zeros(len(waveform), np.int32)
        return [x.numpy() for x in self.model.taggram(waveform, starts, padding)]
