"""What a SavedModel answers: scores, scores over time, embeddings.

All of TensorFlow's core operations and plain variables, so that a server needs
nothing else. `docs/serving.md` describes the signatures.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from genre_tl import features, params
from genre_tl.audio import wav_graph
from genre_tl.features import framing
from genre_tl.serving import inference_graph
from genre_tl.serving.trained_model import TrainedModel

CHUNK_SEGMENTS = 16
"""Segments that are computed at once: what bounds the memory."""

NO_TIME = -1.0
"""Stands in `times` of a taggram where a clip has no frame; the scores are 0."""

# A taggram's scores are those of this much music around each frame.
_WINDOW_SECS = 5.0

_WAVEFORM = tf.TensorSpec([None, None], tf.float32, "waveform")


def save(trained: TrainedModel, folder: str | os.PathLike[str]) -> None:
    """Writes a SavedModel without checking it.

    Args:
      trained: the network.
      folder: the folder of the SavedModel.

    Raises:
      ValueError: if the network has a layer that cannot be exported.
    """
    answers = Answers(trained)
    names = [label.encode() for label in trained.labels]
    # A plain module with plain variables: nothing in it needs Keras to load.
    module = tf.Module()
    module.network = answers.network
    module.score_and_embed, module.taggram = answers.score_and_embed, answers.taggram
    module.labels = tf.function(lambda: tf.constant(names), input_signature=[])
    with tempfile.TemporaryDirectory() as assets:
        write_labels(trained.labels, pathlib.Path(assets))
        module.labels_file = tf.saved_model.Asset(f"{assets}/labels.txt")
        tf.saved_model.save(module, str(folder), _signatures(answers, names))
    _mark_as_classification(folder)


def write_labels(labels: Sequence[str], folder: pathlib.Path) -> None:
    """Writes `labels.txt`, one label per line."""
    text = "".join(f"{label}\n" for label in labels)
    (folder / "labels.txt").write_text(text, "utf-8")


def _signatures(answers: Answers, names: Sequence[bytes]) -> dict[str, Any]:
    def scored(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, *_ = answers.score_and_embed(waveform, *_places(waveform))
        # Servers want the batch on the first axis of every output.
        classes = tf.tile(tf.constant([names]), [tf.shape(scores)[0], 1])
        return {"scores": scores, "classes": classes}

    def signature(spec: tf.TensorSpec, answer: Callable[[tf.Tensor], Any]) -> Any:
        return tf.function(answer, input_signature=[spec], autograph=False)

    def serving_default(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        return scored(waveform)

    def audio_bytes(audio_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return scored(wav_graph.decode(audio_bytes))

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return scored(_of_examples(inputs))

    def embedding(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        _, vectors, _ = answers.score_and_embed(waveform, *_places(waveform))
        return {"embedding": vectors}

    def taggram(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, times = answers.taggram(waveform, *_places(waveform))
        return {"scores": scores, "times": times}

    encoded = tf.TensorSpec([None], tf.string, "audio_bytes")
    examples = tf.TensorSpec([None], tf.string, "inputs")
    return {
        "serving_default": signature(_WAVEFORM, serving_default),
        "audio_bytes": signature(encoded, audio_bytes),
        "taggram": signature(_WAVEFORM, taggram),
        "embedding": signature(_WAVEFORM, embedding),
        "classify": signature(examples, classify),
    }


def _places(waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return framing.starts(waveform), framing.padding(waveform)


def _mark_as_classification(folder: str | os.PathLike[str]) -> None:
    """Gives `classify` the method name that a server's `:classify` looks for."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(
        str(folder)
    )
    updater.replace_method_name(
        "classify", tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME
    )
    updater.save()
    # It held a checksum of the file that was just changed; nothing needs it.
    (pathlib.Path(folder) / "fingerprint.pb").unlink(missing_ok=True)


def _of_examples(examples: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[batch, samples]` of serialized `tf.train.Example`s."""
    features = tf.io.parse_example(
        examples,
        {
            "audio": tf.io.FixedLenFeature([], tf.string, ""),
            "waveform": tf.io.RaggedFeature(tf.float32),
        },
    )
    audio, waveform = features["audio"], features["waveform"]
    has_audio = tf.not_equal(audio, "")
    neither = tf.where(~has_audio & tf.equal(waveform.row_lengths(), 0))[:1, 0]
    where = tf.strings.as_string(neither)
    text = tf.strings.join(
        ["inputs[", where, "]: the Example has neither `audio` nor `waveform`"]
    )
    assertion = tf.debugging.Assert(tf.equal(tf.size(neither), 0), [text])
    with tf.control_dependencies([assertion]):
        rows = tf.where(has_audio)[:, 0]
    decoded = wav_graph.decode(tf.gather(audio, rows), "inputs", rows)
    given = waveform.to_tensor()
    width = tf.maximum(tf.shape(given)[1], tf.shape(decoded)[1])
    given, decoded = (
        tf.pad(x, [[0, 0], [0, width - tf.shape(x)[1]]]) for x in (given, decoded)
    )
    return tf.tensor_scatter_nd_update(given, rows[:, tf.newaxis], decoded)


class Answers:
    """A network with its front end: from waveforms to scores and embeddings.

    Both functions take waveforms float32 `[batch, samples]`, and `starts` and
    `padding` as `framing.segments` does.

    Attributes:
      network: the weights.
      frames_of: the front end.
      score_and_embed: returns scores `[batch, labels]`, embeddings `[batch, units]`
        and the number of valid frames of each clip, float32 `[batch]`, 0 for silence.
      taggram: returns scores `[batch, times, labels]` and their times in seconds
        `[batch, times]`, `NO_TIME` where a clip has no more frames.

    Args:
      trained: the network.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.network = inference_graph.Network(trained.network)
        self._frontend = frontend = trained.frontend
        self.frames_of = features.LogScattering.from_params(frontend)
        positions = tf.TensorSpec([None], tf.int32, "starts")
        places = positions, tf.TensorSpec([None], tf.float32, "padding")
        self.score_and_embed, self.taggram = (
            tf.function(each, input_signature=[_WAVEFORM, *places], autograph=False)
            for each in (self._score_and_embed, self._taggram)
        )
        # One for all signatures: the larger part of what a server has to load.
        self.frames_of.build((None, frontend.segment_samples))
        rows = tf.TensorSpec([None, frontend.segment_samples], tf.float32)
        self._states = tf.function(
            lambda *cut: self.network.states(self.frames_of.of_mirrored(*cut)),
            input_signature=[rows, tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )

    def of_segments(
        self, rows: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and embeddings of segments.

        Args:
          rows: float32 `[segments, segment_samples]`, zeros after the end of a clip.
          weights: valid frames of each, float32 `[segments]`.
        """
        return self._answer(self.network.states(self.frames_of(rows)), weights)

    def _answer(
        self, states: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        vectors = self.network.read_out(states, weights)
        return self.network.scores(vectors), vectors

    def _score_and_embed(
        self, waveform: tf.Tensor, starts: tf.Tensor, padding: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        num_clips = tf.shape(waveform)[0]
        segments = framing.segments(waveform, self._frontend, starts, padding)
        sizes = [self.network.num_labels, self.network.num_units]

        def add_chunk(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chunk = segments.select(slice(start, start + CHUNK_SEGMENTS))
            answer = self._answer(self._states_of(waveform, chunk), chunk.weights)
            weighted = tf.concat(answer, 1) * chunk.weights[:, tf.newaxis]
            added = tf.math.unsorted_segment_sum(weighted, chunk.clips, num_clips)
            total = tf.ensure_shape(total + added, [None, sum(sizes)])
            return start + CHUNK_SEGMENTS, total

        _, total = tf.while_loop(
            lambda start, _: start < tf.size(segments.clips),
            add_chunk,
            (0, tf.zeros([num_clips, sum(sizes)])),
            parallel_iterations=1,
        )
        num_frames = segments.frames_per_clip(num_clips)
        means = total / tf.maximum(num_frames, 1)[:, tf.newaxis]
        return *tf.split(means, sizes, 1), num_frames

    def _states_of(self, waveform: tf.Tensor, chunk: framing.Segments) -> tf.Tensor:
        rows = framing.cut(waveform, chunk, self._frontend)
        return self._states(rows, chunk.lengths)

    def _taggram(
        self, waveform: tf.Tensor, starts: tf.Tensor, padding: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        segments = framing.segments(waveform, self._frontend, starts, padding)
        scores = self._scores_of_frames(waveform, segments)
        num_frames, hop = self._frontend.segment_frames, self._frontend.hop_samples
        is_valid = tf.sequence_mask(segments.weights, num_frames)
        samples = segments.starts[:, tf.newaxis] + hop * tf.range(num_frames)
        times = tf.cast(samples, tf.float32) / params.SAMPLE_RATE_HZ
        times = tf.where(is_valid, times, NO_TIME)
        scores = tf.where(is_valid[:, :, tf.newaxis], scores, 0.0)
        after = segments.starts - tf.gather(starts, segments.clips)
        numbers = tf.maximum(after, 0) // self._frontend.segment_samples
        places = tf.stack([segments.clips, numbers], 1)
        return self._join(scores, times, places, tf.shape(waveform)[0])

    def _scores_of_frames(
        self, waveform: tf.Tensor, segments: framing.Segments
    ) -> tf.Tensor:
        """Returns the scores around each frame, `[segments, frames, labels]`."""
        hop_secs = self._frontend.hop_samples / params.SAMPLE_RATE_HZ
        reach = round(_WINDOW_SECS / 2 / hop_secs)
        size = [self._frontend.segment_frames, self.network.num_labels]

        def write_chunk(number: tf.Tensor, parts: tf.TensorArray) -> tuple[Any, ...]:
            start = number * CHUNK_SEGMENTS
            chunk = segments.select(slice(start, start + CHUNK_SEGMENTS))
            states = self._states_of(waveform, chunk)
            vectors = self.network.local(states, chunk.weights, reach)
            scores = tf.ensure_shape(self.network.scores(vectors), [None, *size])
            return number + 1, parts.write(number, scores)

        num_chunks = -(-tf.size(segments.clips) // CHUNK_SEGMENTS)
        parts = tf.TensorArray(
            tf.float32, num_chunks, infer_shape=False, element_shape=[None, *size]
        )
        _, parts = tf.while_loop(
            lambda number, _: number < num_chunks,
            write_chunk,
            (0, parts),
            parallel_iterations=1,
        )
        return parts.concat()

    def _join(
        self,
        scores: tf.Tensor,
        times: tf.Tensor,
        places: tf.Tensor,
        num_clips: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Concatenates the frames of each clip's segments; `places`: clip, number."""
        num_segments = tf.reduce_max(tf.concat([[0], places[:, 1] + 1], 0))
        size = [self._frontend.segment_frames, self.network.num_labels]
        shape = tf.stack([num_clips, num_segments, *size])
        scores = tf.scatter_nd(places, scores, shape)
        # Where nothing is put there is 0.
        times = tf.scatter_nd(places, times - NO_TIME, shape[:3]) + NO_TIME
        scores = tf.reshape(scores, [num_clips, num_segments * size[0], size[1]])
        return scores, tf.reshape(times, [num_clips, num_segments * size[0]])
