"""Checks that an export must pass before it is published.

A SavedModel is reloaded in this process: once its operations are known to need no
Python, another process would see nothing else.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl import features, params
from genre_tl.features import framing
from genre_tl.model import networks
from genre_tl.serving import warmup
from genre_tl.serving.saved_model import TrainedModel

TOLERANCE = 1e-5
"""Largest difference between scores that count as equal."""

# Core operations that need Python, a GPU or a compiler.
_NOT_SERVABLE = re.compile("(Eager)?PyFunc|Cudnn|Nccl|Xla|TPU")


def run(folder: pathlib.Path, trained: TrainedModel) -> Iterator[str]:
    """Checks an unpublished SavedModel; yields a line of text for each check passed.

    Raises:
      ValueError: if a check fails.
    """
    yield _check_operations(folder)
    with tf.device("CPU:0"):
        model = tf.saved_model.load(str(folder))
        clips = reference_clips(trained.frontend)
        yield _check_signatures(model, trained.labels)
        alone, others = _scores(model, clips)
    what = f"scores of {len(clips)} reference clips differ from the Keras model's"
    yield check_difference(alone, keras_scores(trained, clips), what)
    for name, scores in others.items():
        what = f"scores of a clip {name} differ from its scores alone"
        yield check_difference(scores, alone, what)


def _check_operations(folder: pathlib.Path) -> str:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    names = set()
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        functions = graph.library.function
        names |= {node.op for node in graph.node}
        names |= {node.op for function in functions for node in function.node_def}
        names -= {function.signature.name for function in functions}
    # Operations of other libraries are not in `raw_ops`, even when they are loaded.
    bad = {x for x in names if _NOT_SERVABLE.match(x) or not hasattr(tf.raw_ops, x)}
    if bad:
        raise ValueError(
            f"export refused: TensorFlow Serving lacks operations {sorted(bad)}"
        )
    return f"{len(names)} op types, all supported by TensorFlow Serving"


def _check_signatures(model: tf.Module, labels: Sequence[str]) -> str:
    names = [label.encode() for label in labels]
    requests = warmup.requests()
    if set(model.signatures) != set(requests):
        raise ValueError(f"export refused: it has signatures {set(model.signatures)}")
    for name, (argument, request) in requests.items():
        answer = model.signatures[name](**{argument: tf.constant(request)})
        for output, value in answer.items():
            if output == "classes" and value.numpy().tolist() != [names]:
                raise ValueError(f"export refused: {output} of {name} are not labels")
            if output != "classes" and not np.isfinite(value).all():
                raise ValueError(f"export refused: {output} of {name} are not finite")
    return f"{len(requests)} signatures answer their warm-up requests"


def _scores(
    model: tf.Module, clips: Sequence[np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the scores of clips alone, `[clips, labels]`, and given in other ways."""

    def scores(batch: np.ndarray) -> np.ndarray:
        answer = model.signatures["serving_default"](tf.constant(batch))
        return answer["scores"].numpy()

    wav_files = tf.constant([warmup.wav_bytes(clip) for clip in clips])
    longest = max(map(len, clips))
    by_server = padded(clips, longest + 100)
    for row, clip in zip(by_server, clips, strict=True):
        row[len(clip) :] = clip[0]
    return np.concatenate([scores(clip[np.newaxis]) for clip in clips]), {
        "in a batch": scores(padded(clips, longest)),
        "padded": scores(padded(clips, longest + len(clips[0]) + 17)),
        "padded by a server": scores(by_server),
        "as a WAV file": model.signatures["audio_bytes"](wav_files)["scores"].numpy(),
    }


def padded(clips: Sequence[np.ndarray], num_samples: int) -> np.ndarray:
    """Returns clips with zeros at their end, float32 `[clips, num_samples]`."""
    return keras.utils.pad_sequences(clips, num_samples, "float32", padding="post")


def check_difference(
    found: np.ndarray, expected: np.ndarray, what: str, tolerance: float = TOLERANCE
) -> str:
    """Returns the largest difference as text; raises `ValueError` if too large."""
    difference = float(np.max(np.abs(found - expected)))
    if not difference <= tolerance:  # also if it is NaN
        raise ValueError(
            f"export refused: {what} by {difference:.1e}, more than {tolerance:g}"
        )
    return f"{what} by {difference:.1e} at most"


def reference_clips(frontend: params.Frontend) -> list[np.ndarray]:
    """Returns clips float32 `[samples]`; the first fills one segment."""
    generator, length = np.random.default_rng(0), frontend.segment_samples
    time = np.arange(1, 2 * length + length // 3)
    bursts = 0.3 * generator.standard_normal(len(time))
    bursts *= np.sin(time * (40 / length)) > 0
    sine = 0.5 * np.sin(2 * np.pi * 440 / params.SAMPLE_RATE_HZ * time)
    clips = [
        bursts[:length],
        sine[: length // 2],
        np.zeros(length // 4),
        bursts[: frontend.hop_samples // 3],
        (bursts + sine)[::-1],
    ]
    return [clip.astype(np.float32) for clip in clips]


def keras_scores(trained: TrainedModel, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the Keras model's scores of clips, `[clips, labels]`, on the CPU."""
    scores, frontend = [], trained.frontend
    with tf.device("CPU:0"):
        network = networks.portable(trained.network)
        frames_of = features.LogScattering.from_params(frontend)
        for clip in clips:
            batch = tf.constant(clip[np.newaxis])
            places = framing.starts(batch), framing.padding(batch)
            segments = framing.segments(batch, frontend, *places)
            rows = framing.cut(batch, segments, frontend)
            frames = frames_of.of_mirrored(rows, segments.lengths)
            values = network(frames, training=False).numpy()
            scores.append(np.average(values, axis=0, weights=segments.weights))
    return np.stack(scores)
