"""Checks that an export must pass before it is published.

A SavedModel is reloaded in this process: once its operations are known to need no
Python, another process would see nothing else.
"""

from __future__ import annotations

import pathlib
import re
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl import features, params
from genre_tl.features import framing
from genre_tl.model import networks
from genre_tl.serving import warmup
from genre_tl.serving.trained_model import TrainedModel

TOLERANCE = 1e-5
"""Largest difference between scores that count as equal."""

# Core operations that need Python, a GPU or a compiler.
_NOT_SERVABLE = re.compile("(Eager)?PyFunc|Cudnn|Nccl|Xla|TPU")

_SAME_SCORES = ("in a batch", "padded", "padded by a server", "as a WAV file")


def run(folder: pathlib.Path, trained: TrainedModel) -> Iterator[str]:
    """Checks a SavedModel that is not yet published.

    Args:
      folder: the SavedModel.
      trained: what it was made of.

    Yields:
      A line of text for each check passed.

    Raises:
      ValueError: if a check fails.
    """
    yield _check_operations(folder)
    with tf.device("CPU:0"):
        start = time.monotonic()
        model = _load(folder)
        loaded = time.monotonic()
        clips = reference_clips(trained.frontend)
        model.signatures["serving_default"](tf.constant(_batch(clips[:1])))
        answered = time.monotonic()
        yield _check_signatures(model, trained.labels)
        scores = _scores(model, clips)
    what = f"scores of {len(clips)} reference clips differ from the Keras model's"
    yield check_difference(scores["alone"], keras_scores(trained, clips), what)
    for name in _SAME_SCORES:
        what = f"scores of a clip {name} differ from its scores alone"
        yield check_difference(scores[name], scores["alone"], what)
    yield (
        f"loaded in {loaded - start:.1f} s, first answer in {answered - loaded:.1f} s "
        f"({trained.frontend.segment_secs:.1f} s of audio)"
    )


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


def _load(folder: pathlib.Path) -> tf.Module:
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"export refused: it cannot be loaded: {error}") from error


def _check_signatures(model: tf.Module, labels: Sequence[str]) -> str:
    names = [label.encode() for label in labels]
    requests = warmup.requests()
    if set(model.signatures) != set(requests):
        raise ValueError(f"export refused: it has signatures {set(model.signatures)}")
    for name, (argument, request) in requests.items():
        answer = model.signatures[name](**{argument: tf.constant(request)})
        for output, value in answer.items():
            if output == "classes" and value.numpy().tolist() != [names]:
                raise ValueError(
                    f"export refused: classes of {name} are not the labels"
                )
            if output != "classes" and not np.isfinite(value).all():
                raise ValueError(f"export refused: {output} of {name} are not finite")
    return f"{len(requests)} signatures answer their warm-up requests"


def _scores(model: tf.Module, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the scores of clips, `[clips, labels]`, given in different ways."""

    def scores(batch: np.ndarray) -> np.ndarray:
        answer = model.signatures["serving_default"](tf.constant(batch))
        return answer["scores"].numpy()

    wav_files = tf.constant([warmup.wav_bytes(clip) for clip in clips])
    first = np.array([[clip[0]] for clip in clips])
    ends = np.arange(max(map(len, clips)) + 100) >= [[len(clip)] for clip in clips]
    return {
        "alone": np.concatenate([scores(clip[np.newaxis]) for clip in clips]),
        "in a batch": scores(_batch(clips)),
        "padded": scores(_batch(clips, len(clips[0]) + 17)),
        "padded by a server": scores(np.where(ends, first, _batch(clips, 100))),
        "as a WAV file": model.signatures["audio_bytes"](wav_files)["scores"].numpy(),
    }


def _batch(clips: Sequence[np.ndarray], padding: int = 0) -> np.ndarray:
    longest = max(map(len, clips)) + padding
    return np.stack([np.pad(clip, [0, longest - len(clip)]) for clip in clips])


def check_difference(
    found: np.ndarray, expected: np.ndarray, what: str, tolerance: float = TOLERANCE
) -> str:
    """Returns a text with the largest difference.

    Raises:
      ValueError: if it is more than `tolerance`.
    """
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


def one_segment(clip: np.ndarray, frontend: params.Frontend) -> np.ndarray:
    """Returns a clip as one segment, float32 `[1, segment_samples]`."""
    return np.pad(clip, [0, frontend.segment_samples - len(clip)])[np.newaxis]
