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

import keras
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.audio import wav_graph
from genre_tl.serving import inference_graph

CHUNK_SEGMENTS = 16
"""Segments that are computed at once: what bounds the memory."""

NO_TIME = -1.0
"""Stands in `times` of a taggram where a clip has no frame; the scores are 0."""

MIN_TAIL = 64
"""So many equal samples at the end of a clip are padding."""

# A taggram's scores are those of this much music around each frame.
_WINDOW_SECS = 5.0

_WAVEFORM = tf.TensorSpec([None, None], tf.float32, "waveform")


def segments(
    waveform: tf.Tensor, segment_samples: int, hop: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Lists the segments of clips that hold sound.

    Zeros at the end of a clip are padding, whatever their number: they change
    nothing. So is any other value that a clip ends in, if it is repeated 64 times or
    more: TensorFlow Serving pads with the first sample. A silent clip counts as one
    frame. Samples that are no numbers, or beyond 2^31, count as zero.

    Args:
      waveform: float32 `[batch, samples]`; both may be 0.
      segment_samples: length of a segment, a multiple of `hop`.
      hop: samples of a frame.

    Returns:
      Which clip each is of, int32 `[segments]`, at least one of each clip; its
      number in the clip, from 0, int32 `[segments]`; and its weight, the number
      of frames up to its last sample of sound, float32 `[segments]`.
    """
    num_clips, num_samples = tf.unstack(tf.shape(waveform))
    num_segments = tf.maximum(-(-num_samples // segment_samples), 1)
    tail = _tail(waveform)
    shape = [num_clips, segment_samples // hop, hop]

    def count_frames(number: tf.Tensor) -> tf.Tensor:
        start = number * segment_samples
        is_sound = _is_sound(waveform[:, start : start + segment_samples], tail)
        missing = segment_samples - tf.shape(is_sound)[1]
        is_sound = tf.reshape(tf.pad(is_sound, [[0, 0], [0, missing]]), shape)
        has_sound = tf.cast(tf.reduce_any(is_sound, 2), tf.int32)
        return tf.reduce_max(tf.range(1, shape[1] + 1) * has_sound, 1)

    # One segment of all clips at a time: a recording of hours fits.
    weights = tf.map_fn(
        count_frames,
        tf.range(num_segments),
        fn_output_signature=tf.TensorSpec([None], tf.int32),
        parallel_iterations=1,
    )
    weights = tf.transpose(weights)
    is_silent = tf.reduce_all(tf.equal(weights, 0), 1, keepdims=True)
    is_first = tf.equal(tf.range(num_segments), 0)
    weights = tf.where(is_silent & is_first, 1, weights)
    listed = tf.where(weights > 0)
    clips, numbers = tf.unstack(tf.cast(listed, tf.int32), axis=1)
    return clips, numbers, tf.cast(tf.gather_nd(weights, listed), tf.float32)


def cut(
    waveform: tf.Tensor, clips: tf.Tensor, numbers: tf.Tensor, segment_samples: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts segments that `segments` listed, or some of them, out of clips.

    They are mirrored as `LogScattering` would do it: here that costs little.

    Args:
      waveform: float32 `[batch, samples]`.
      clips: which clip each is of, int32 `[segments]`.
      numbers: its number in the clip, int32 `[segments]`.
      segment_samples: length of a segment.

    Returns:
      float32 `[segments, segment_samples]`, for `LogScattering.of_mirrored`, and the
      samples up to the last sound of each, int32 `[segments]`, at least 1.
    """
    tail = _tail(waveform)

    def row(place: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        clip, start = place
        samples = waveform[clip, start : start + segment_samples]
        positions = tf.range(1, tf.size(samples) + 1)
        is_sound = _is_sound(samples, tail[clip])
        end = tf.reduce_max(tf.concat([[0], tf.where(is_sound, positions, 0)], 0))
        samples = tf.where(wav_graph.is_sample(samples), samples, 0.0)[:end]
        samples = tf.cond(end > 0, lambda: samples, lambda: tf.zeros([1]))
        return _mirrored(samples, segment_samples), tf.maximum(end, 1)

    specs = tf.TensorSpec([segment_samples], tf.float32), tf.TensorSpec([], tf.int32)
    places = (clips, numbers * segment_samples)
    return tf.map_fn(row, places, fn_output_signature=specs)


def _mirrored(samples: tf.Tensor, length: int) -> tf.Tensor:
    """Goes on with samples, mirrored at the last and at the first: `[length]`."""
    last = tf.size(samples) - 1
    # There and, as far as it is needed, back.
    back = samples[tf.maximum(last - (length - last - 1), 1) : last][::-1]
    period = tf.concat([samples, back], 0)
    rounds = -(-length // tf.size(period))
    return tf.ensure_shape(tf.tile(period, [rounds])[:length], [length])


def _tail(waveform: tf.Tensor) -> tf.Tensor:
    """Returns the value that each clip is padded with, `[batch, 1]`."""
    end = waveform[:, -MIN_TAIL:]
    is_constant = tf.reduce_all(tf.equal(end, end[:, :1]), 1, keepdims=True)
    is_constant &= tf.shape(waveform)[1] >= MIN_TAIL
    return tf.where(is_constant, tf.reduce_max(end, 1, keepdims=True), 0.0)


def _is_sound(samples: tf.Tensor, tail: tf.Tensor) -> tf.Tensor:
    differs = tf.not_equal(samples, 0.0) & tf.not_equal(samples, tail)
    return wav_graph.is_sample(samples) & differs


def save(
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: str | os.PathLike[str],
) -> None:
    """Writes a SavedModel that is neither checked nor published.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
      labels: names of its scores, in their order.
      folder: is made.

    Raises:
      ValueError: if the network is not one of `models`.
    """
    answers = Answers(network, frontend)
    names = [label.encode() for label in labels]
    # A plain module with plain variables: nothing in it needs Keras to load.
    module = tf.Module()
    module.network = answers.network
    module.score_and_embed = answers.score_and_embed
    module.labels = tf.function(lambda: tf.constant(names), input_signature=[])
    with tempfile.TemporaryDirectory() as assets:
        labels_file = pathlib.Path(assets) / "labels.txt"
        labels_file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        module.labels_file = tf.saved_model.Asset(str(labels_file))
        tf.saved_model.save(module, str(folder), _signatures(answers, names))
    _mark_as_classification(folder)


def write_labels(labels: Sequence[str], folder: pathlib.Path) -> None:
    """Writes `labels.txt`, a label a line."""
    text = "".join(f"{label}\n" for label in labels)
    (folder / "labels.txt").write_text(text, "utf-8")


def _signatures(answers: Answers, names: Sequence[bytes]) -> dict[str, Any]:
    def scored(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, _ = answers.score_and_embed(waveform)
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
        return {"embedding": answers.score_and_embed(waveform)[1]}

    def taggram(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, times = answers.taggram(waveform)
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
    """A network with its front end: from waveforms to what is known about them.

    Attributes:
      network: the weights.
      frames_of: the front end.
      score_and_embed: waveforms `[batch, samples]` -> scores `[batch, labels]` and
        embeddings `[batch, units]`.
      taggram: waveforms -> scores `[batch, times, labels]` and their times in
        seconds `[batch, times]`, `NO_TIME` where a clip has no more frames.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
    """

    def __init__(self, network: keras.Model, frontend: params.Frontend) -> None:
        self.network = inference_graph.Network(network)
        self._frontend = frontend
        self.frames_of = scattering.LogScattering.from_params(frontend)
        functions = (self._score_and_embed, self._taggram)
        self.score_and_embed, self.taggram = (
            tf.function(each, input_signature=[_WAVEFORM], autograph=False)
            for each in functions
        )
        # One for all signatures: the larger part of what a server has to load.
        self.frames_of.build((None, frontend.segment_samples))
        segments = (
            tf.TensorSpec([None, frontend.segment_samples], tf.float32),
            tf.TensorSpec([None], tf.int32),
        )
        self._states = tf.function(
            lambda *cut: self.network.states(self.frames_of.of_mirrored(*cut)),
            input_signature=segments,
            autograph=False,
        )

    def of_segments(
        self, rows: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and embeddings of segments, cut to length.

        Args:
          rows: float32 `[segments, segment_samples]`, zeros after the end of a clip.
          weights: frames of each that are not padding, float32 `[segments]`.
        """
        return self._answer(self.network.states(self.frames_of(rows)), weights)

    def _answer(
        self, states: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        vectors = self.network.read_out(states, weights)
        return self.network.scores(vectors), vectors

    def _score_and_embed(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        num_clips = tf.shape(waveform)[0]
        clips, numbers, weights = self._segments(waveform)
        sizes = [self.network.num_labels, self.network.num_units]

        def add_chunk(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chunk = slice(start, start + CHUNK_SEGMENTS)
            states = self._states(*self._cut(waveform, clips[chunk], numbers[chunk]))
            answer = self._answer(states, weights[chunk])
            both = tf.concat(answer, 1)
            weighted = both * weights[chunk, tf.newaxis]
            added = tf.math.unsorted_segment_sum(weighted, clips[chunk], num_clips)
            return chunk.stop, tf.ensure_shape(total + added, [None, sum(sizes)])

        _, total = tf.while_loop(
            lambda start, _: start < tf.size(clips),
            add_chunk,
            (0, tf.zeros([num_clips, sum(sizes)])),
            parallel_iterations=1,
        )
        weight = tf.math.unsorted_segment_sum(weights, clips, num_clips)
        scores, vectors = tf.split(total / weight[:, tf.newaxis], sizes, 1)
        return scores, vectors

    def _taggram(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        clips, numbers, weights = self._segments(waveform)
        hop_secs = self._frontend.hop_samples / params.SAMPLE_RATE_HZ
        reach = round(_WINDOW_SECS / 2 / hop_secs)
        size = [self._frontend.segment_frames, self.network.num_labels]

        def write_chunk(number: tf.Tensor, parts: tf.TensorArray) -> tuple[Any, ...]:
            start = number * CHUNK_SEGMENTS
            chunk = slice(start, start + CHUNK_SEGMENTS)
            states = self._states(*self._cut(waveform, clips[chunk], numbers[chunk]))
            vectors = self.network.local(states, weights[chunk], reach)
            scores = tf.ensure_shape(self.network.scores(vectors), [None, *size])
            return number + 1, parts.write(number, scores)

        num_chunks = -(-tf.size(clips) // CHUNK_SEGMENTS)
        parts = tf.TensorArray(
            tf.float32, num_chunks, infer_shape=False, element_shape=[None, *size]
        )
        _, parts = tf.while_loop(
            lambda number, _: number < num_chunks,
            write_chunk,
            (0, parts),
            parallel_iterations=1,
        )
        is_valid = tf.sequence_mask(weights, size[0])
        frames = numbers[:, tf.newaxis] * size[0] + tf.range(size[0])
        times = tf.where(is_valid, tf.cast(frames, tf.float32) * hop_secs, NO_TIME)
        scores = tf.where(is_valid[:, :, tf.newaxis], parts.concat(), 0.0)
        return self._join(scores, times, clips, numbers, tf.shape(waveform)[0])

    def _join(
        self,
        scores: tf.Tensor,
        times: tf.Tensor,
        clips: tf.Tensor,
        numbers: tf.Tensor,
        num_clips: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Puts the frames of segments one after the other, clip by clip."""
        num_segments = tf.reduce_max(tf.concat([[0], numbers + 1], 0))
        size = [self._frontend.segment_frames, self.network.num_labels]
        places = tf.stack([clips, numbers], 1)
        shape = tf.stack([num_clips, num_segments, *size])
        scores = tf.scatter_nd(places, scores, shape)
        # Where nothing is put there is 0.
        times = tf.scatter_nd(places, times - NO_TIME, shape[:3]) + NO_TIME
        scores = tf.reshape(scores, [num_clips, num_segments * size[0], size[1]])
        return scores, tf.reshape(times, [num_clips, num_segments * size[0]])

    def _segments(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        length, hop = self._frontend.segment_samples, self._frontend.hop_samples
        return segments(waveform, length, hop)

    def _cut(
        self, waveform: tf.Tensor, clips: tf.Tensor, numbers: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return cut(waveform, clips, numbers, self._frontend.segment_samples)
