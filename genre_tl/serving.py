"""Trained networks as SavedModels: built, checked, published, called.

An export goes from waveform to scores with TensorFlow's core operations alone. It
lies at `<name>/<version>/`, as TensorFlow Serving wants it; `docs/serving.md`
describes it.

    >>> folder = serving.export(network, frontend, labels, "saved_models/x", card={})
    >>> serving.Predictor(folder).scores([waveform])  # [clips, labels]
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import export_checks, models, params, scattering

CHUNK_SEGMENTS = 8
"""Segments that an export computes at once: what bounds its memory."""

CARD = pathlib.PurePath("assets.extra", "model_card.json")
"""Where the model card lies in an export; the same as Markdown beside it."""

# Louder than any 32-bit integer: no sample, and its square would overflow.
_LOUDEST = 2.0**31

# Most samples that `Predictor` pads into one batch: some 4 minutes.
_BATCH_SAMPLES = CHUNK_SEGMENTS * 30 * params.SAMPLE_RATE_HZ


def segments(
    waveform: tf.Tensor, segment_samples: int, hop: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Lists the segments of clips that hold sound.

    Zeros at the end of a clip are padding, whatever their number: they change
    nothing. A silent clip counts as one frame. Samples that are no numbers, or
    beyond 2^31, count as zero.

    Args:
      waveform: float32 `[batch, samples]`; both may be 0.
      segment_samples: length of a segment, a multiple of `hop`.
      hop: samples of a frame.

    Returns:
      Which clip each is of, int32 `[segments]`, at least one of each clip; its
      number in the clip, from 0, int32 `[segments]`; and its weight, the number
      of frames up to its last sample that is not zero, float32 `[segments]`.
    """
    num_clips, num_samples = tf.unstack(tf.shape(waveform))
    num_segments = tf.maximum(-(-num_samples // segment_samples), 1)
    # Truth values and no copy of the samples: a recording of hours fits.
    is_sound = _is_sample(waveform) & tf.not_equal(waveform, 0.0)
    missing = num_segments * segment_samples - num_samples
    is_sound = tf.pad(is_sound, [[0, 0], [0, missing]])
    shape = [num_clips, num_segments, segment_samples // hop, hop]
    has_sound = tf.reduce_any(tf.reshape(is_sound, shape), -1)
    weights = tf.reduce_max(tf.range(1, shape[2] + 1) * tf.cast(has_sound, tf.int32), 2)
    is_silent = tf.reduce_all(tf.equal(weights, 0), 1, keepdims=True)
    is_first = tf.equal(tf.range(num_segments), 0)
    weights = tf.where(is_silent & is_first, 1, weights)
    listed = tf.where(weights > 0)
    clips, numbers = tf.unstack(tf.cast(listed, tf.int32), axis=1)
    return clips, numbers, tf.cast(tf.gather_nd(weights, listed), tf.float32)


def cut(
    waveform: tf.Tensor, clips: tf.Tensor, numbers: tf.Tensor, segment_samples: int
) -> tf.Tensor:
    """Cuts segments that `segments` listed, or some of them, out of clips.

    Args:
      waveform: float32 `[batch, samples]`.
      clips: which clip each is of, int32 `[segments]`.
      numbers: its number in the clip, int32 `[segments]`.
      segment_samples: length of a segment.

    Returns:
      float32 `[segments, segment_samples]`, zeros after the end of a clip.
    """

    def row(place: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, start = place
        samples = waveform[clip, start : start + segment_samples]
        samples = tf.where(_is_sample(samples), samples, 0.0)
        return tf.pad(samples, [[0, segment_samples - tf.size(samples)]])

    spec = tf.TensorSpec([segment_samples], tf.float32)
    places = (clips, numbers * segment_samples)
    return tf.map_fn(row, places, fn_output_signature=spec)


def _is_sample(waveform: tf.Tensor) -> tf.Tensor:
    return (waveform > -_LOUDEST) & (waveform < _LOUDEST)


def export(
    network: keras.Sequential,
    frontend: params.Frontend,
    labels: Sequence[str],
    base_dir: str | os.PathLike[str],
    *,
    card: Mapping[str, Any],
    on_check: Callable[[str], None] | None = None,
) -> pathlib.Path:
    """Writes a network as the next version of a SavedModel.

    The version appears at once and whole, after it was loaded in a process of its
    own and gave the scores of the Keras model; or it does not appear.

    Args:
      network: a tagger or classifier.
      frontend: what its frames were computed with.
      labels: names of its scores, in their order.
      base_dir: the versions are folders in it: 1, 2, 3, ...
      card: facts to ship with it, fit for JSON. Labels, frontend and checks are
        added to them.
      on_check: called with a line of text for every check that was passed.

    Returns:
      The folder of the new version.

    Raises:
      ValueError: if labels and network do not fit, or a check fails.
      OSError: if the folder cannot be written.
    """
    _require_fit(network, labels)
    base = pathlib.Path(base_dir)
    base.mkdir(parents=True, exist_ok=True)
    # No integer begins with a dot: a server that polls the folder passes it over.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=base) as partial:
        folder = pathlib.Path(partial) / "model"
        _save(network, frontend, labels, folder)
        passed = []
        for text in export_checks.run(folder, network, frontend, labels):
            passed.append(text)
            if on_check:
                on_check(text)
        facts = {
            "labels": list(labels),
            "frontend": _facts(frontend),
            "checks": passed,
        }
        _write_card(folder, {**card, **facts})
        return _publish(folder, base)


def newest(base_dir: str | os.PathLike[str]) -> pathlib.Path | None:
    """Returns the folder of the highest version, or None if there is none."""
    highest = max(_versions(pathlib.Path(base_dir)), default=None)
    return None if highest is None else pathlib.Path(base_dir) / str(highest)


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the model card of an exported version; empty if it has none."""
    path = pathlib.Path(folder) / CARD
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


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
        for number, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
                raise ValueError(
                    f"waveforms[{number}] is {waveform.dtype} {waveform.shape}: give "
                    "one channel of floating-point samples from -1 to 1"
                )
        scores = np.zeros([len(waveforms), len(self.labels)], np.float32)
        for rows in _batches([len(waveform) for waveform in waveforms]):
            batch = _stack([waveforms[row] for row in rows])
            scores[rows] = self._serve(waveform=tf.constant(batch))["scores"].numpy()
        return scores


def _stack(waveforms: Sequence[np.ndarray]) -> np.ndarray:
    """Returns float32 `[clips, samples]`, the longest last, zeros after the others."""
    if len(waveforms) == 1:  # long, perhaps: no copy
        return waveforms[0][np.newaxis].astype(np.float32, copy=False)
    batch = np.zeros([len(waveforms), len(waveforms[-1])], np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields positions, shortest clips first, that go together."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[row] > _BATCH_SAMPLES:
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
    folder = newest(path)
    if folder is None or not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"{folder or path}: holds no SavedModel; give the folder of a version, or "
            "that of the versions"
        )
    return folder


def _versions(base: pathlib.Path) -> list[int]:
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    return [int(name) for name in names if re.fullmatch("[0-9]+", name)]


def _publish(folder: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    while True:
        target = base / str(max(_versions(base), default=0) + 1)
        try:
            os.rename(folder, target)
            return target
        except OSError:
            # Another export may have taken the number meanwhile.
            if not target.is_dir():
                raise


def _require_fit(network: keras.Sequential, labels: Sequence[str]) -> None:
    if network.layers[-1].name != models.HEAD:
        raise ValueError(f"{network.name!r} has no head: give a tagger or classifier")
    if len(labels) != network.output_shape[-1] or len(set(labels)) != len(labels):
        raise ValueError(
            f"{len(labels)} labels, {len(set(labels))} of them different, for "
            f"{network.output_shape[-1]} scores: give each score a name of its own"
        )
    odd = [label for label in labels if label.splitlines() != [label]]
    if odd:
        raise ValueError(f"label {odd[0]!r}: give one line of text")


def _facts(frontend: params.Frontend) -> dict[str, Any]:
    return {
        "sample_rate_hz": params.SAMPLE_RATE_HZ,
        **dataclasses.asdict(frontend),
        "hop_samples": frontend.hop_samples,
        "segment_samples": frontend.segment_samples,
        "segment_secs": frontend.segment_secs,
    }


def _save(
    network: keras.Sequential,
    frontend: params.Frontend,
    labels: Sequence[str],
    folder: pathlib.Path,
) -> None:
    network = models.portable(network)
    average = _averager(network, frontend)
    names = [label.encode() for label in labels]
    waveform = tf.TensorSpec([None, None], tf.float32, "waveform")

    @tf.function(input_signature=[waveform], autograph=False)
    def serving_default(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = average(waveform)[:, : len(names)]
        # Servers want the batch on the first axis of every output.
        classes = tf.tile(tf.constant([names]), [tf.shape(scores)[0], 1])
        return {"scores": scores, "classes": classes}

    @tf.function(input_signature=[waveform], autograph=False)
    def embedding(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": average(waveform)[:, len(names) :]}

    # A plain module with plain variables: nothing in it needs Keras to load.
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    module.labels = tf.function(lambda: tf.constant(names), input_signature=[])
    with tempfile.TemporaryDirectory() as assets:
        labels_file = pathlib.Path(assets) / "labels.txt"
        labels_file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        module.labels_file = tf.saved_model.Asset(str(labels_file))
        tf.saved_model.save(
            module,
            str(folder),
            {"serving_default": serving_default, "embedding": embedding},
        )


def _averager(
    network: keras.Sequential, frontend: params.Frontend
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns waveforms `[batch, samples]` -> `[batch, labels + units]`."""
    head = network.layers[-1]
    backbone = keras.Sequential(
        [keras.layers.Input(network.input_shape[1:]), *network.layers[:-1]]
    )
    frames_of = scattering.LogScattering.from_params(frontend)
    size = network.output_shape[-1] + backbone.output_shape[-1]

    def values(rows: tf.Tensor) -> tf.Tensor:
        vectors = backbone(frames_of(rows), training=False)
        both = [head(vectors), vectors]
        return tf.concat([tf.cast(each, tf.float32) for each in both], 1)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.float32)], autograph=False
    )
    def average(waveform: tf.Tensor) -> tf.Tensor:
        length, num_clips = frontend.segment_samples, tf.shape(waveform)[0]
        clips, numbers, weights = segments(waveform, length, frontend.hop_samples)

        def add_chunk(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chunk = slice(start, start + CHUNK_SEGMENTS)
            rows = cut(waveform, clips[chunk], numbers[chunk], length)
            weighted = values(rows) * weights[chunk, tf.newaxis]
            added = tf.math.unsorted_segment_sum(weighted, clips[chunk], num_clips)
            return chunk.stop, tf.ensure_shape(total + added, [None, size])

        _, total = tf.while_loop(
            lambda start, total: start < tf.size(clips),
            add_chunk,
            (0, tf.zeros([num_clips, size])),
            parallel_iterations=1,
        )
        weight = tf.math.unsorted_segment_sum(weights, clips, num_clips)
        return total / weight[:, tf.newaxis]

    return average


def _write_card(folder: pathlib.Path, card: Mapping[str, Any]) -> None:
    path = folder / CARD
    path.parent.mkdir()
    text = json.dumps(card, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")
    path.with_suffix(".md").write_text(_markdown(card), "utf-8")


def _markdown(card: Mapping[str, Any]) -> str:
    lines = [f"# {card.get('name', 'Model card')}"]
    for name, value in card.items():
        if name != "name" and value not in (None, "", [], {}):
            lines += ["", f"## {_title(name)}", "", *_paragraphs(value)]
    return "\n".join([*lines, ""])


def _paragraphs(value: Any, indent: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            below = isinstance(part, Mapping)
            text = "" if below else " " + "; ".join(_paragraphs(part))
            yield f"{indent}- {_title(name)}:{text}"
            if below:
                yield from _paragraphs(part, f"{indent}  ")
    elif isinstance(value, (list, tuple)) and indent == "" and _is_prose(value):
        yield from (f"- {each}" for each in value)
    elif isinstance(value, (list, tuple)):
        yield ", ".join(text for each in value for text in _paragraphs(each))
    else:
        yield f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_prose(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and " " in value for value in values)


def _title(name: str) -> str:
    return (name[:1].upper() + name[1:]).replace("_", " ")
