"""Models that are compiled once and fit any number of times.

Folds of a cross-validation share a graph: tracing it takes longer than many folds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.features import pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import run_folder

Measure = Callable[[np.ndarray, np.ndarray], dict[str, Any]]
"""Labels and scores, both `[clips, labels]`, to metrics."""

Callbacks = Sequence[keras.callbacks.Callback]

_BATCH_SIZE = 96  # segments scored at once; a CPU reads the weights for each batch

# Means of saturated units hardly differ between clips. Scaled up to a deviation of 1
# they drown the others (70 GTZAN clips: 76 % accuracy instead of 81 %).
_MIN_STDDEV = 1.0


class WholeNetwork:
    """Trains all layers of a network on random excerpts of clips.

    `model` is compiled and changed.
    """

    def __init__(
        self, model: keras.Model, data: run_folder.Data, training: params.Training
    ) -> None:
        self.model, self.data, self.training = model, data, training
        rate, clip_norm = training.learning_rate, training.clip_norm
        self._new_optimizer = _compile(model, rate, clip_norm)

    def begin(
        self, rows: np.ndarray, seed: int, initial: keras.Model | None = None
    ) -> None:
        """Starts a new training on the clips `rows`, with a fresh optimizer.

        Weights and dropout seeds are copied from `initial`; None keeps them. `seed`
        decides the order of the clips and their random excerpts.
        """
        self._rows, self._seed = rows, seed
        run_folder.assign(self.model.optimizer.variables, self._new_optimizer)
        if initial is not None:
            run_folder.assign(self.model.variables, initial.variables)

    def fit(self, epochs: int, callbacks: Callbacks, initial_epoch: int = 0) -> Any:
        """Trains up to epoch `epochs`; returns the metrics by name."""
        size = self.training.batch_size
        num_frames = self.training.crop_frames or self.data.segment_frames
        batching = pipeline.Batching(size, num_frames, self._seed)
        arguments = self.data.features, self.data.table.labels, self._rows, batching
        batches = pipeline.training_batches(*arguments, first_epoch=initial_epoch + 1)
        return self.model.fit(
            batches,
            steps_per_epoch=pipeline.num_batches(self._rows, size),
            initial_epoch=initial_epoch,
            epochs=epochs,
            callbacks=[_require_finite, *callbacks],
            verbose=0,
        ).history

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of clips, float32 `[rows, labels]`."""
        return scores(self.model, self.data, rows)


class LinearProbe:
    """Trains a softmax regression on the vectors of a frozen backbone.

    The vectors of all clips are computed once, centred on the clips to train on, and
    divided by deviations above 1. An epoch is one step on all of them.
    """

    def __init__(
        self, network: keras.Model, data: run_folder.Data, training: params.FineTuning
    ) -> None:
        backbone, rows = transfer.backbone(network), np.arange(len(data.table))
        self.data = data
        self._vectors, self._segments = _predict(backbone, data, rows)
        sizes = self._vectors.shape[1], len(data.table.vocabulary)
        self.model = transfer.probe(*sizes, l2=training.head_l2)
        self._new_optimizer = _compile(self.model, training.head_learning_rate)

    def begin(self, rows: np.ndarray) -> None:
        """Resets the optimizer, and the head to zeros, for training on `rows`."""
        clips, frames = self._segments
        weights = frames / np.bincount(clips, frames)[clips]  # Clips count the same.
        weights *= np.isin(clips, rows)
        self._mean = np.average(self._vectors, axis=0, weights=weights)
        centred = self._vectors - self._mean
        variance = np.average(centred**2, axis=0, weights=weights)
        self._stddev = np.maximum(np.sqrt(variance), _MIN_STDDEV)
        self._inputs = (centred / self._stddev).astype(np.float32)
        self._weights = (weights / len(rows)).astype(np.float32)
        run_folder.assign(self.model.optimizer.variables, self._new_optimizer)
        self.model.set_weights([np.zeros(w.shape) for w in self.model.weights])

    def fit(self, epochs: int, callbacks: Callbacks) -> Any:
        """Trains for `epochs`; returns the metrics by name."""
        picked = self._weights > 0
        labels = self.data.table.labels[self._segments.clips[picked]].astype(np.float32)
        weights = self._weights[picked] * len(labels)
        batch = self._inputs[picked], labels, weights
        # `batch` leaves the number of rows open, so that folds share one graph.
        batches = tf.data.Dataset.from_tensor_slices(batch).batch(len(labels))
        return self.model.fit(
            batches.cache().repeat(),
            steps_per_epoch=1,
            epochs=epochs,
            callbacks=[_require_finite, *callbacks],
            verbose=0,
        ).history

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of clips, float32 `[rows, labels]`."""
        found = self.model(self._inputs, training=False).numpy()
        return pipeline.mean_scores(found, self._segments)[rows]

    def give_head(self, network: keras.Model) -> None:
        """Sets the head of a network that has the same backbone."""
        transfer.set_head(network, self.model, self._mean, self._stddev)


Stage = WholeNetwork | LinearProbe


def validation(
    stage: Stage, rows: np.ndarray, measure: Measure, prefix: str = "val"
) -> Callbacks:
    """Returns callbacks that add the loss and metrics of `rows`, if any, to the logs.

    Keras validates by batches of segments; a clip's score is the mean over its
    segments, and an AUC needs all clips at once.
    """
    labels, loss = stage.data.table.labels[rows], keras.losses.get(stage.model.loss)

    def add(epoch: int, logs: dict[str, float]) -> None:
        found = stage.scores(rows)
        mean_loss = float(np.mean(loss(labels.astype(np.float32), found)))
        metrics = {"loss": mean_loss} | measure(labels, found)
        shown = {k: v for k, v in metrics.items() if isinstance(v, float)}
        logs |= {f"{prefix}_{name}": value for name, value in shown.items()}

    return [keras.callbacks.LambdaCallback(on_epoch_end=add)] if len(rows) else []


def fit_best(
    stage: Stage, epochs: int, callbacks: Callbacks, *, valid: bool
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
    if importlib.util.find_spec("tensorboard"):
        logs = run.folder / "logs"
        callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
    if (done := len(run.history)) > run.first:
        run.restore(stage.model, done)
    if not run.has_ended(stage.training):
        stage.fit(run.first + stage.training.max_epochs, callbacks, initial_epoch=done)
    run.restore(stage.model, run.best_epoch)


def scores(network: keras.Model, data: run_folder.Data, rows: np.ndarray) -> np.ndarray:
    """Returns scores `[rows, labels]` of clips, each the mean over its segments."""
    return pipeline.mean_scores(*_predict(network, data, rows))


def _predict(
    network: keras.Model, data: run_folder.Data, rows: np.ndarray
) -> tuple[np.ndarray, pipeline.Segments]:
    sizes = {"batch_size": _BATCH_SIZE, "segment_frames": data.segment_frames}
    batches, segments = pipeline.evaluation_batches(data.features, rows, **sizes)
    steps = -(-len(segments.clips) // _BATCH_SIZE)
    return network.predict(batches, steps=steps, verbose=0), segments


def _compile(model: keras.Model, rate: float, clip_norm: float = 0) -> list[Any]:
    """Compiles a model and returns the variables of its new optimizer."""
    activation = model.get_layer(networks.HEAD).activation
    is_genre = activation is keras.activations.softmax
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip_norm or None)
    model.compile(
        optimizer,
        "categorical_crossentropy" if is_genre else "binary_crossentropy",
        metrics=["accuracy"] if is_genre else [],  # Of tags it says nothing.
        jit_compile=False,  # On a CPU, XLA is slower for a recurrence.
    )
    optimizer.build(model.trainable_variables)
    return [variable.numpy() for variable in optimizer.variables]


def _check_loss(epoch: int, logs: Mapping[str, float]) -> None:
    if not np.isfinite(logs["loss"]):
        raise ValueError(
            f"the loss of epoch {epoch + 1} is {logs['loss']}: lower --learning_rate, "
            "and give another --run_dir"
        )


# `keras.callbacks.TerminateOnNaN` ends training without an error.
_require_finite = keras.callbacks.LambdaCallback(on_epoch_end=_check_loss)
