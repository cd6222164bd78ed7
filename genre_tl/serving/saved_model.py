"""A trained network, and its SavedModel.

Core TensorFlow operations and plain variables only. `docs/serving.md` describes the
signatures.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl import features, params
from genre_tl.audio import wav_graph
from genre_tl.data import datasets
from genre_tl.features import framing
from genre_tl.model import familiarity, networks
from genre_tl.serving import network_graph, runtimes, versions

# Music around each frame of a taggram.
_WINDOW_SECS = 5.0

# Inputs of the signatures. Their graphs take any rank: a server does not compare it
# with what a signature states, and so the answer to a wrong one is in words.
_WAVEFORM = tf.TensorSpec([None, None], tf.float32, "waveform")
_FILES = tf.TensorSpec([None], tf.string, "audio_bytes")
_EXAMPLES = tf.TensorSpec([None], tf.string, "inputs")
_INPUTS = {
    "serving_default": _WAVEFORM,
    "audio_bytes": _FILES,
    "classify": _EXAMPLES,
    "embedding": _WAVEFORM,
    "taggram": _WAVEFORM,
}
_PLACED = [  # a waveform, and `starts` and `padding` of `framing.segments`
    _WAVEFORM,
    tf.TensorSpec([None], tf.int32, "starts"),
    tf.TensorSpec([None], tf.float32, "padding"),
]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A tagger or classifier, its front end and the names of its scores, in order.

    `known` is the familiarity of a classifier; None leaves it out of an export.
    With `half`, an export stores weights in half precision; those of `network` must be
    so rounded (`networks.to_half`).

    Raises:
      ValueError: if the labels do not fit the network, or cannot be exported.
    """

    network: keras.Model
    frontend: params.Frontend
    labels: Sequence[str]
    half: bool = False
    known: familiarity.Familiarity | None = None

    def __post_init__(self) -> None:
        network, labels = self.network, self.labels
        if networks.HEAD not in {layer.name for layer in network.layers}:
            raise ValueError(f"{network.name!r} has no head: pass a whole network")
        num_scores = network.get_layer(networks.HEAD).units
        if not len(labels) == len(set(labels)) == num_scores:
            raise ValueError(
                f"{len(labels)} labels ({len(set(labels))} different) for {num_scores} "
                "scores: give each score its own label"
            )
        check_labels(labels)

    def facts(self) -> dict[str, Any]:
        """Returns labels and front end for the model card."""
        frontend = {
            "sample_rate_hz": params.SAMPLE_RATE_HZ,
            **dataclasses.asdict(self.frontend),
        }
        for name in ("hop_samples", "segment_samples", "segment_secs"):
            frontend[name] = getattr(self.frontend, name)
        return {"labels": list(self.labels), "frontend": frontend}


def check_labels(labels: Sequence[str]) -> None:
    """Raises `ValueError` if a label cannot be exported."""
    for label in labels:
        # Control characters, surrogates, line and paragraph separators.
        kinds = {unicodedata.category(character) for character in label}
        if kinds & {"Cc", "Cs", "Zl", "Zp"} or not label.strip():
            raise ValueError(
                f"label {label!r} is empty, not valid UTF-8 or has control "
                "characters; rename it"
            )


def window_frames(frontend: params.Frontend) -> int:
    """Returns how many frames to either side a row of a taggram is about."""
    hop = frontend.hop_samples
    return round(_WINDOW_SECS / 2 * params.SAMPLE_RATE_HZ / hop)


def save(trained: TrainedModel, folder: pathlib.Path) -> None:
    """Writes a SavedModel without checking it."""
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
    _complete_definitions(folder)


def write_labels(labels: Sequence[str], folder: pathlib.Path) -> None:
    """Writes `labels.txt`, one label per line."""
    text = "".join(f"{label}\n" for label in labels)
    (folder / "labels.txt").write_text(text, "utf-8")


def _signatures(answers: Answers, names: Sequence[bytes]) -> dict[str, Any]:
    def call(function: Callable[..., Any], waveform: tf.Tensor) -> list[tf.Tensor]:
        return function(waveform, framing.starts(waveform), framing.padding(waveform))

    def bounded(waveform: tf.Tensor) -> tf.Tensor:
        waveform = wav_graph.require_axes(waveform, "waveform", "batch", "samples")
        count, length = tf.unstack(tf.shape(waveform, tf.int64))
        room = wav_graph.require_room(count, length, "waveform")
        with tf.control_dependencies([room]):
            return tf.identity(waveform)

    def scored(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, _, _, *known = call(answers.score_and_embed, waveform)
        # Servers want the batch on the first axis of every output.
        classes = tf.tile(tf.constant([names]), [tf.shape(scores)[0], 1])
        optional = {"familiarity": known[0]} if known else {}
        return {"scores": scores, "classes": classes, **optional}

    def classified(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = scored(waveform)  # a server refuses other outputs
        return {name: answer[name] for name in ("scores", "classes")}

    def embedding(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": call(answers.score_and_embed, bounded(waveform))[1]}

    def taggram(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, times = call(answers.taggram, bounded(waveform))
        return {"scores": scores, "times": times}

    functions = {
        "serving_default": lambda waveform: scored(bounded(waveform)),
        "audio_bytes": lambda wav: scored(wav_graph.decode(wav)),
        "classify": lambda inputs: classified(_of_examples(inputs)),
        "embedding": embedding,
        "taggram": taggram,
    }
    signatures = {}
    for name, spec in _INPUTS.items():
        of_any_rank = [tf.TensorSpec(None, spec.dtype, spec.name)]
        signatures[name] = tf.function(functions[name], of_any_rank, autograph=False)
    return signatures


def _complete_definitions(folder: pathlib.Path) -> None:
    """States shapes of inputs, and the method name that `:classify` looks for."""
    path = folder / versions.SAVED_MODEL
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    for name, spec in _INPUTS.items():
        stated = definitions[name].inputs[spec.name].tensor_shape
        stated.CopyFrom(spec.shape.as_proto())
    method_name = tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME
    definitions["classify"].method_name = method_name
    path.write_bytes(saved.SerializeToString(deterministic=True))
    # It has a checksum of the file before this change.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _of_examples(examples: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[batch, samples]` of serialized `tf.train.Example`s."""
    examples = wav_graph.require_axes(examples, "inputs", "batch")
    count = tf.size(examples, tf.int64)
    with tf.control_dependencies([wav_graph.require_room(count, 0, "inputs")]):
        examples = tf.identity(examples)
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
    text = tf.strings.format(
        "inputs{}: the Example has neither `audio` nor `waveform`", neither
    )
    assertion = tf.debugging.Assert(tf.equal(tf.size(neither), 0), [text])
    with tf.control_dependencies([assertion]):
        rows = tf.where(has_audio)[:, 0]
    decoded = wav_graph.decode(tf.gather(audio, rows), "inputs", rows)
    given_lengths = tf.cast(waveform.row_lengths(), tf.int64)
    width = tf.reduce_max(
        tf.concat([given_lengths, tf.shape(decoded, tf.int64)[1:]], 0)
    )
    with tf.control_dependencies([wav_graph.require_room(count, width, "inputs")]):
        given = waveform.to_tensor()
    given, decoded = (
        tf.pad(x, [[0, 0], [0, width - tf.shape(x, tf.int64)[1]]])
        for x in (given, decoded)
    )
    return tf.tensor_scatter_nd_update(given, rows[:, tf.newaxis], decoded)


class Answers:
    """A network with its front end: from waveforms to scores and embeddings."""

    def __init__(self, trained: TrainedModel) -> None:
        self.network = network_graph.Network(trained.network, half=trained.half)
        self._frontend = frontend = trained.frontend
        self._known, self._background = trained.known, None
        if datasets.BACKGROUND in trained.labels:
            self._background = list(trained.labels).index(datasets.BACKGROUND)
        self.frames_of = features.LogScattering.from_params(frontend)
        # One for all signatures: the larger part of what a server has to load.
        self.frames_of.build((None, frontend.segment_samples))
        rows = tf.TensorSpec([None, frontend.segment_samples], tf.float32)
        self._states = tf.function(
            lambda *cut: self.network.states(self.frames_of.of_mirrored(*cut)),
            input_signature=[rows, tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )

    def score_clip(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores `[1, labels]` and embedding `[1, units]` of `[1, samples]`.

        As `score_and_embed`, but a segment at a time, with static shapes in the loop
        over segments: TensorFlow Lite has all its operations.
        """
        size, network = self._frontend.segment_samples, self.network
        padding = framing.padding(waveform)
        clip = waveform[:, framing.starts(waveform)[0] :]
        num_samples = framing.valid_samples(clip, padding)[0]
        count = tf.maximum(-(-num_samples // size), 1)
        clip = tf.pad(clip[0, :num_samples], [[0, count * size - num_samples]])
        rows = tf.reshape(clip, [count, 1, size])

        def add(number: tf.Tensor, total: tf.Tensor, frames: tf.Tensor) -> Any:
            lengths = framing.valid_samples(rows[number], padding)
            row = framing.mirrored(rows[number], lengths)
            states = network.states(self.frames_of.of_mirrored(row, lengths))
            weights = framing.weights(lengths, self._frontend)
            answer = tf.concat(self._answer(states, weights), 1)
            # Silence between sounds does not count, a clip of silence does.
            weights = tf.where((lengths > 0) | (count == 1), weights, 0)
            total += answer * weights[:, tf.newaxis]
            return number + 1, total, frames + weights

        sizes = [network.num_labels, network.num_units]
        start = 0, tf.zeros([1, sum(sizes)]), tf.zeros([1])
        _, total, frames = tf.while_loop(lambda i, *_: i < count, add, start)
        return tf.split(total / frames[:, tf.newaxis], sizes, 1)

    def _answer(
        self, states: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self.network.scores(self.network.read_out(states, weights))

    @tf.function(input_signature=_PLACED, autograph=False)
    def score_and_embed(
        self, waveform: tf.Tensor, starts: tf.Tensor, padding: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Returns scores `[batch, labels]`, embeddings `[batch, units]`, valid frames.

        The frames are a number for each clip, float32 `[batch]`, 0 for silence. The
        familiarity `[batch]` of a model that knows it is the last.
        """
        num_clips = tf.shape(waveform)[0]
        segments = framing.segments(waveform, self._frontend, starts, padding)
        sizes = [self.network.num_labels, self.network.num_units, 1]

        def answer(states: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            scores, embedding = self._answer(states, weights)
            parts = [scores, embedding, self._log_distance(embedding)[:, tf.newaxis]]
            return tf.concat(parts, 1) * weights[:, tf.newaxis]

        weighted = self._by_chunk(waveform, segments, answer, [sum(sizes)])
        total = tf.math.unsorted_segment_sum(weighted, segments.clips, num_clips)
        num_frames = segments.frames_per_clip(num_clips)
        means = total / tf.maximum(num_frames, 1)[:, tf.newaxis]
        scores, embedding, distance = tf.split(means, sizes, 1)
        if self._known is None:
            return scores, embedding, num_frames
        is_known = self._familiarity(scores, distance[:, 0])
        is_known = tf.where(num_frames > 0, is_known, 0)
        return scores, embedding, num_frames, is_known

    def _log_distance(self, embedding: tf.Tensor) -> tf.Tensor:
        """Returns what `familiarity.Familiarity.log_distance` does; else 0."""
        if self._known is None:
            return tf.zeros_like(embedding[:, 0])
        centred = embedding - self._known.mean
        squares = tf.reduce_sum(centred**2, 1) / self._known.variance
        squares -= tf.reduce_sum(tf.matmul(centred, self._known.directions) ** 2, 1)
        segments = self._known.segments
        found = tf.reduce_sum(centred**2, 1, True) + np.sum(segments**2, 1)
        found -= 2 * tf.matmul(centred, segments, transpose_b=True)
        count = min(familiarity.NUM_NEAREST, len(segments))
        nearest = -tf.math.top_k(-found, count).values
        nearest = tf.reduce_mean(tf.sqrt(tf.maximum(nearest, 0)), 1) ** 2
        least = familiarity.LEAST_SQUARE
        both = tf.maximum(squares, least) * tf.maximum(nearest, least)
        return tf.math.log(both)

    def _familiarity(self, scores: tf.Tensor, distance: tf.Tensor) -> tf.Tensor:
        assert self._known is not None
        standard = (distance - self._known.centre) / self._known.spread
        share = 0.5 * tf.math.erfc(standard / math.sqrt(2))
        if self._background is None:
            return share
        return share * (1 - scores[:, self._background])

    @tf.function(input_signature=_PLACED, autograph=False)
    def taggram(
        self, waveform: tf.Tensor, starts: tf.Tensor, padding: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores `[batch, times, labels]` and their times in seconds.

        The times are `runtimes.NO_TIME` where a clip has no more frames.
        """
        segments = framing.segments(waveform, self._frontend, starts, padding)
        num_frames, hop = self._frontend.segment_frames, self._frontend.hop_samples
        reach = window_frames(self._frontend)

        def answer(states: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            return self.network.scores(self.network.local(states, weights, reach))[0]

        width = self.network.num_labels + 1
        scores = self._by_chunk(waveform, segments, answer, [num_frames, width - 1])
        samples = segments.starts[:, tf.newaxis] + hop * tf.range(num_frames)
        times = tf.cast(samples, tf.float32) / params.SAMPLE_RATE_HZ - runtimes.NO_TIME
        is_valid = tf.sequence_mask(segments.weights, num_frames)[:, :, tf.newaxis]
        rows = tf.concat([scores, times[:, :, tf.newaxis]], 2)
        rows = tf.where(is_valid, rows, 0.0)
        # Put where they belong in their clip; what is missing there stays 0.
        after = segments.starts - tf.gather(starts, segments.clips)
        numbers = tf.maximum(after, 0) // self._frontend.segment_samples
        count = tf.reduce_max(tf.concat([[0], numbers + 1], 0))
        num_clips = tf.shape(waveform)[0]
        places = tf.stack([segments.clips, numbers], 1)
        rows = tf.scatter_nd(places, rows, [num_clips, count, num_frames, width])
        rows = tf.reshape(rows, [num_clips, count * num_frames, width])
        return rows[:, :, :-1], rows[:, :, -1] + runtimes.NO_TIME

    def _by_chunk(
        self,
        waveform: tf.Tensor,
        segments: framing.Segments,
        answer: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        size: list[int],
    ) -> tf.Tensor:
        """Returns `answer(states, weights)` of all segments, `[segments, *size]`."""

        def answer_chunk(start: tf.Tensor) -> tf.Tensor:
            chunk = segments.select(slice(start, start + runtimes.CHUNK_SEGMENTS))
            rows = framing.cut(waveform, chunk, self._frontend)
            return answer(self._states(rows, chunk.lengths), chunk.weights)

        starts = tf.range(0, tf.size(segments.clips), runtimes.CHUNK_SEGMENTS)
        spec = tf.RaggedTensorSpec([None, *size], tf.float32, ragged_rank=0)
        # One at a time, which bounds memory.
        answers = tf.map_fn(
            answer_chunk, starts, parallel_iterations=1, fn_output_signature=spec
        )
        return tf.reshape(answers.values, [-1, *size])  # Without segments, too.
