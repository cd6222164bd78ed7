"""Models that are compiled once and fit any number of times.

Folds of a cross-validation share a graph: tracing it takes longer than many folds.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params, storage
from genre_tl.features import augmentation, pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import heads, replicas, run_folder

Measure = Callable[[np.ndarray, np.ndarray], dict[str, Any]]
"""Targets and outputs, both `[clips, outputs]`, to metrics."""

Callbacks = Sequence[keras.callbacks.Callback]

_BATCH_SIZE = 96  # segments scored at once; a CPU reads the weights for each batch
_BLOCK = 1024  # clips whose features are in memory at a time
_WARMUP_EPOCHS = 2
_EPSILON = 1e-7  # probabilities are at least this far from 0 and 1
_VECTOR_WEIGHT = 0.2  # of target vectors in the loss, where tags have 1


class WholeNetwork:
    """Trains all layers of a network on random excerpts of clips.

    `network` is changed. `targets` are float32 `[clips, outputs]`, NaN where unknown;
    by default the labels.

    Attributes:
      model: the compiled model that is trained: `network`, or a copy of it on several
        GPUs or in mixed precision.
    """

    def __init__(
        self,
        network: keras.Model,
        data: run_folder.Data,
        training: params.Training,
        targets: np.ndarray | None = None,
    ) -> None:
        self._network, self.data, self.training = network, data, training
        self.targets = data.table.labels if targets is None else targets
        self.model = replicas.trainable(network, training)
        self._new_optimizer = _compile(self.model, training, len(data.table.vocabulary))

    @property
    def network(self) -> keras.Model:
        """The network with the trained weights, in float32 on one device."""
        if self._network is not self.model:
            run_folder.assign(self._network.variables, self.model.variables)
        return self._network

    def begin(
        self, rows: np.ndarray, seed: int, initial: keras.Model | None = None
    ) -> None:
        """Starts a new training on the clips `rows`, with a fresh optimizer.

        Weights and dropout seeds are copied from `initial`; None keeps them. `seed`
        decides the order of the clips, their random excerpts and their augmentation.
        """
        self._rows, self._seed = rows, seed
        run_folder.assign(self.model.optimizer.variables, self._new_optimizer)
        if initial is not None:
            run_folder.assign(self.model.variables, initial.variables)

    def fit(self, epochs: int, callbacks: Callbacks, initial_epoch: int = 0) -> Any:
        """Trains up to epoch `epochs`; returns the metrics by name."""
        size, frontend = self.training.batch_size, self.data.frontend
        crops = self.training.crop_frames or (frontend.segment_frames,)
        augment = None
        if self.training.augment:
            augment = augmentation.Augmentation(frontend, networks.mean(self.network))
        batches = pipeline.training_batches(
            self.data.features,
            self.targets,
            self._rows,
            pipeline.Batching(size, crops, self._seed),
            augmentation=augment,
            first_epoch=initial_epoch + 1,
        )
        return self.model.fit(
            batches,
            steps_per_epoch=pipeline.num_batches(self._rows, size),
            initial_epoch=initial_epoch,
            epochs=epochs,
            shuffle=False,  # the batches are shuffled
            callbacks=[*_schedule(self.training), _require_finite, *callbacks],
            verbose=0,
        ).history

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """Returns all outputs of clips, float32 `[rows, outputs]`."""
        return outputs(self.network, self.data, rows)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of clips, float32 `[rows, labels]`."""
        return self.outputs(rows)[:, : len(self.data.table.vocabulary)]

    def segment_scores(self, rows: np.ndarray) -> tuple[np.ndarray, pipeline.Segments]:
        """Returns the scores of all segments of clips, `[segments, labels]`."""
        return segment_outputs(self.network, self.data, rows)


class FrozenBackbone:
    """Fits heads to the features of clips, which are computed once.

    The features are in temporary files, so that a collection need not fit in memory.

    `network` gives the features: frames to `[clips, features]`.
    """

    def __init__(self, network: keras.Model, data: run_folder.Data) -> None:
        self.network, self.data = network, data
        batches, segments = _batches(data, np.arange(len(data.table)))
        self._frames, size = segments.frames, network.output_shape[-1]
        starts = np.arange(len(data.table) + 1)
        self._starts = np.searchsorted(segments.clips, starts)  # of each clip
        found = (network.predict_on_batch(batch) for batch in batches)
        self._vectors = _on_disk(found, size)
        self._clips = _on_disk(self._means(starts[:-1], np.asarray), size)

    def fit(self, rows: np.ndarray, *, kernel: bool) -> transfer.Head:
        """Returns a head for the clips `rows`, with a Gaussian kernel or linear."""
        table = self.data.table
        return heads.fit(
            heads.Derived(self._clips, rows, lambda x: x.astype(np.float64)),
            table.classes[rows],
            [table.groups[row] for row in rows],
            num_genres=len(table.vocabulary),
            block_sizes=transfer.block_sizes(self.network),
            kernel=kernel,
        )

    def scores(self, head: transfer.Head, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of clips, `[rows, labels]`."""
        return np.concatenate([*self._means(rows, head.scores)])

    def segment_scores(
        self, head: transfer.Head, rows: np.ndarray
    ) -> tuple[np.ndarray, pipeline.Segments]:
        """Returns scores of the segments of rows, `[segments, labels]`."""
        found, clips, frames, begin = [], [], [], 0
        for vectors, segments in self._segments(rows):
            found.append(head.scores(vectors))
            clips.append(segments.clips + begin)
            frames.append(segments.frames)
            begin += int(segments.clips[-1]) + 1
        segments = pipeline.Segments(np.concatenate(clips), np.concatenate(frames))
        return np.concatenate(found), segments

    def _segments(
        self, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, pipeline.Segments]]:
        """Yields the features of the segments of clips, for some of them at a time."""
        for some in np.array_split(rows, -(-len(rows) // _BLOCK)):
            begins = self._starts[some]
            sizes = self._starts[some + 1] - begins
            clips = np.repeat(np.arange(len(some)), sizes)
            places = np.arange(len(clips)) + (begins - np.cumsum(sizes) + sizes)[clips]
            yield self._vectors[places], pipeline.Segments(clips, self._frames[places])

    def _means(
        self, rows: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yields the means of a function over the segments of each clip of `rows`."""
        for vectors, segments in self._segments(rows):
            yield pipeline.mean_scores(function(vectors), segments)


def _on_disk(parts: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Returns float32 rows of `size` values in a file that is deleted with the array.

    They are written, not mapped, so that a full disk is an error and not a crash.
    """
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).tobytes())
        file.flush()
        return np.memmap(file, np.float32, "r").reshape(-1, size)


def validation(
    stage: WholeNetwork, rows: np.ndarray, measure: Measure, prefix: str = "val"
) -> Callbacks:
    """Returns callbacks that add the loss and metrics of `rows`, if any, to the logs.

    Keras validates by batches of segments; a clip's score is the mean over its
    segments, and an AUC needs all clips at once.
    """
    targets = stage.targets[rows].astype(np.float32)

    def add(epoch: int, logs: dict[str, float]) -> None:
        found = stage.outputs(rows)
        loss = float(np.mean(stage.model.loss(targets, found)))
        metrics = {"loss": loss} | measure(targets, found)
        shown = {k: v for k, v in metrics.items() if isinstance(v, float)}
        logs |= {f"{prefix}_{name}": value for name, value in shown.items()}

    return [keras.callbacks.LambdaCallback(on_epoch_end=add)] if len(rows) else []


def fit_best(
    stage: WholeNetwork, epochs: int, callbacks: Callbacks, *, valid: bool
) -> tuple[run_folder.History, int]:
    """Trains; keeps the best epoch if `callbacks` validate (`valid`), else the last.

    Returns the history and the number (from 1) of the epoch that is kept.
    """
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, mode="max", restore_best_weights=True
    )
    columns = stage.fit(epochs, [*callbacks, best] if valid else callbacks)
    rows = zip(*columns.values(), strict=True)
    history = [dict(zip(columns, values, strict=True)) for values in rows]
    return history, best.best_epoch + 1 if valid else epochs


def train_in_folder(
    run: run_folder.Run, stage: WholeNetwork, callbacks: Callbacks
) -> None:
    """Trains until the run has ended, after its last finished epoch; keeps the best.

    `keras.callbacks.BackupAndRestore` does not resume dropout, nor the history.
    """

    def commit(epoch: int, logs: dict[str, float]) -> None:
        run.commit(stage.model, logs)
        stage.model.stop_training = run.has_ended(stage.training)

    callbacks = [*callbacks, keras.callbacks.LambdaCallback(on_epoch_end=commit)]
    is_here = not storage.url(run.folder)  # What it writes is not put elsewhere.
    if is_here and importlib.util.find_spec("tensorboard"):
        logs = run.folder / "logs"
        callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
    if done := len(run.history):
        run.restore(stage.model, done)
    if not run.has_ended(stage.training):
        stage.fit(stage.training.max_epochs, callbacks, initial_epoch=done)
    run.restore(stage.model, run.best_epoch)


def outputs(
    network: keras.Model, data: run_folder.Data, rows: np.ndarray
) -> np.ndarray:
    """Returns outputs `[rows, outputs]` of clips, each the mean over its segments."""
    return pipeline.mean_scores(*segment_outputs(network, data, rows))


def segment_outputs(
    network: keras.Model, data: run_folder.Data, rows: np.ndarray
) -> tuple[np.ndarray, pipeline.Segments]:
    """Returns outputs of all segments of clips, `[segments, outputs]`."""
    batches, segments = _batches(data, rows)
    steps = -(-len(segments.clips) // _BATCH_SIZE)
    return network.predict(batches, steps=steps, verbose=0), segments


def _batches(
    data: run_folder.Data, rows: np.ndarray
) -> tuple[tf.data.Dataset, pipeline.Segments]:
    sizes = {"batch_size": _BATCH_SIZE, "segment_frames": data.frontend.segment_frames}
    return pipeline.evaluation_batches(data.features, rows, **sizes)


def _compile(
    model: keras.Model, training: params.Training, num_labels: int
) -> list[Any]:
    """Compiles a model and returns the variables of its new optimizer."""
    activation = model.get_layer(networks.HEAD).activation
    is_genre = activation is keras.activations.softmax
    replicas.compile(
        model,
        training,
        loss=keras.losses.categorical_crossentropy
        if is_genre
        else TaggerLoss(num_labels),
        metrics=["accuracy"] if is_genre else [],  # Of tags it says nothing.
    )
    return [variable.numpy() for variable in model.optimizer.variables]


@keras.saving.register_keras_serializable(package="genre_tl")
class TaggerLoss(keras.losses.Loss):
    """Mean over the targets that are not NaN.

    Binary cross-entropy of the first `num_tags` outputs; plus, for the others, a
    fifth of the mean squared error.
    """

    def __init__(self, num_tags: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_tags = num_tags

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss, a scalar, of `[batch, outputs]`."""
        is_known = tf.math.is_finite(y_true)
        targets = tf.where(is_known, y_true, 0)
        tags = tf.clip_by_value(y_pred[:, : self.num_tags], _EPSILON, 1 - _EPSILON)
        wanted = targets[:, : self.num_tags]
        terms = wanted * tf.math.log(tags) + (1 - wanted) * tf.math.log(1 - tags)
        total = -replicas.mean(terms, is_known[:, : self.num_tags])
        if y_pred.shape[1] > self.num_tags:
            errors = (targets[:, self.num_tags :] - y_pred[:, self.num_tags :]) ** 2
            total += _VECTOR_WEIGHT * replicas.mean(
                errors, is_known[:, self.num_tags :]
            )
        return total

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return super().get_config() | {"num_tags": self.num_tags}


def _schedule(training: params.Training) -> Callbacks:
    """Returns the callback that sets the learning rate of each epoch, if it varies."""

    def rate(epoch: int, _: float) -> float:
        middle = epoch + 0.5
        warmup = min(1.0, middle / _WARMUP_EPOCHS)
        cosine = 0.5 + 0.5 * math.cos(math.pi * middle / training.max_epochs)
        return training.learning_rate * warmup * cosine

    if training.schedule == "constant":
        return []
    return [keras.callbacks.LearningRateScheduler(rate)]


def _check_loss(epoch: int, logs: Mapping[str, float]) -> None:
    if not np.isfinite(logs["loss"]):
        raise ValueError(
            f"the loss of epoch {epoch + 1} is {logs['loss']}: lower --learning_rate "
            "or train in --precision=float32, and give another --run_dir"
        )


# `keras.callbacks.TerminateOnNaN` ends training without an error.
_require_finite = keras.callbacks.LambdaCallback(on_epoch_end=_check_loss)
