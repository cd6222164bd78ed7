"""Models that are compiled once and fit any number of times.

`WholeNetwork` trains all layers on excerpts of clips, `LinearProbe` only the head.
Both have `begin`, `fit` and `scores`, so that the folds of a cross-validation share
one compiled graph: tracing it takes longer than many folds train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.features import pipeline
from genre_tl.model import networks, transfer
from genre_tl.training import run_folder

Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]
"""Labels and scores, both `[clips, labels]`, to metrics."""

Callbacks = Sequence[keras.callbacks.Callback]

# Segments scored at once. A CPU reads the weights for each frame of a batch.
_BATCH_SIZE = 96

# Means of saturated units hardly differ between clips. Scaled up to a deviation of 1
# they drown the others (70 GTZAN clips: 76 % accuracy instead of 81 %).
_MIN_STDDEV = 1.0


class WholeNetwork:
    """Trains all layers of a network on random excerpts of clips.

    Attributes:
      model: the compiled network.

    Args:
      network: a tagger or classifier; compiled and changed.
      data: features and labels of all clips.
      training: learning rate, batch size, excerpts.
      segment_frames: frames of the model's input.
    """

    def __init__(
        self,
        network: keras.Model,
        data: run_folder.Data,
        training: params.Training,
        segment_frames: int,
    ) -> None:
        self.model, self._data, self._training = network, data, training
        self._segment_frames = segment_frames
        rate, norm = training.learning_rate, training.clip_norm
        self._new_optimizer = _compile(network, rate, norm)

    def begin(
        self, rows: np.ndarray, seed: int, initial: keras.Model | None = None
    ) -> None:
        """Prepares for training on some clips, with a seed of order and excerpts.

        Weights and dropout seeds are copied from `initial`, an equal network.
        """
        self._rows, self._seed = rows, seed
        _assign(self.model.optimizer.variables, self._new_optimizer)
        if initial is not None:
            _assign(self.model.variables, initial.variables)

    def fit(self, epochs: int, callbacks: Callbacks, initial_epoch: int = 0) -> Any:
        """Trains up to epoch `epochs`; returns the metrics by name."""
        size = self._training.batch_size
        num_frames = self._training.crop_frames or self._segment_frames
        batches = pipeline.training_batches(
            self._data.features,
            self._data.table.labels,
            self._rows,
            pipeline.Batching(size, num_frames, self._seed),
            first_epoch=initial_epoch + 1,
        )
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
        return scores(self.model, self._data, rows, self._segment_frames)


class LinearProbe:
    """Trains a softmax regression on the vectors of a frozen backbone.

    The vectors of all clips are computed once, centred on the clips to train on, and
    divided by deviations above 1. An epoch is one step on all of them.

    Attributes:
      model: the compiled head.

    Args:
      network: a tagger or classifier; only its backbone is used.
      data: features and genres of all clips.
      training: learning rate and penalty of the head.
      segment_frames: frames of the network's input.
    """

    def __init__(
        self,
        network: keras.Model,
        data: run_folder.Data,
        training: params.FineTuning,
        segment_frames: int,
    ) -> None:
        backbone, self._labels = transfer.backbone(network), data.table.labels
        rows = np.arange(len(self._labels))
        self._vectors, self._segments = _predict(backbone, data, rows, segment_frames)
        sizes = self._vectors.shape[1], self._labels.shape[1]
        self.model = transfer.probe(*sizes, l2=training.head_l2)
        self._new_optimizer = _compile(self.model, training.head_learning_rate)

    def begin(self, rows: np.ndarray) -> None:
        """Prepares for training on some clips, with a head of zeros."""
        clips, frames = self._segments
        weights = frames / np.bincount(clips, frames)[clips]  # Clips count the same.
        weights *= np.isin(clips, rows)
        self._mean = np.average(self._vectors, axis=0, weights=weights)
        centred = self._vectors - self._mean
        variance = np.average(centred**2, axis=0, weights=weights)
        self._stddev = np.maximum(np.sqrt(variance), _MIN_STDDEV)
        self._inputs = (centred / self._stddev).astype(np.float32)
        self._weights = (weights / len(rows)).astype(np.float32)
        _assign(self.model.optimizer.variables, self._new_optimizer)
        self.model.set_weights([np.zeros(w.shape) for w in self.model.weights])

    def fit(self, epochs: int, callbacks: Callbacks) -> Any:
        """Trains for some epochs; returns the metrics by name."""
        picked = self._weights > 0
        labels = self._labels[self._segments.clips[picked]].astype(np.float32)
        weights = self._weights[picked] * picked.sum()
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
        """Returns the scores of clips, float32 `[rows, genres]`."""
        found = self.model(self._inputs, training=False).numpy()
        return pipeline.mean_scores(found, self._segments)[rows]

    def give_head(self, network: keras.Model) -> None:
        """Sets the head of a network with the same backbone."""
        transfer.set_head(network, self.model, self._mean, self._stddev)


Stage = WholeNetwork | LinearProbe


def validation(stage: Stage, data: run_folder.Data, measure: Measure) -> Callbacks:
    """Returns callbacks that add `val_loss` and the metrics of `measure` to the logs.

    Keras validates by batches of segments; a clip's score is the mean over its
    segments, and an AUC needs all clips at once.
    """
    rows = data.parts["valid"]
    labels, loss = data.table.labels[rows], keras.losses.get(stage.model.loss)

    def add(epoch: int, logs: dict[str, float]) -> None:
        found = stage.scores(rows)
        logs["val_loss"] = float(np.mean(loss(labels.astype(np.float32), found)))
        metrics = measure(labels, found).items()
        logs |= {f"val_{k}": value for k, value in metrics if isinstance(value, float)}

    return [keras.callbacks.LambdaCallback(on_epoch_end=add)] if len(rows) else []


def fit_best(
    stage: Stage, epochs: int, callbacks: Callbacks, *, valid: bool
) -> tuple[run_folder.History, int]:
    """Trains, and keeps the best epoch if `callbacks` validate, or else the last.

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
    run: run_folder.Run,
    stage: WholeNetwork,
    training: params.Training,
    callbacks: Callbacks,
) -> None:
    """Trains until the run has ended, from where its folder stands; keeps the best.

    `keras.callbacks.BackupAndRestore` does not resume dropout, nor the history.
    """

    def commit(epoch: int, logs: dict[str, float]) -> None:
        run.commit(stage.model, logs)
        stage.model.stop_training = run.has_ended(training)

    if len(run.history) > run.first:
        run.restore(stage.model, len(run.history))
    if not run.has_ended(training):
        committing = keras.callbacks.LambdaCallback(on_epoch_end=commit)
        stage.fit(
            run.first + training.max_epochs,
            [*callbacks, committing, *run.tensorboard()],
            initial_epoch=len(run.history),
        )
    run.restore(stage.model, run.best_epoch)


def scores(
    network: keras.Model, data: run_folder.Data, rows: np.ndarray, segment_frames: int
) -> np.ndarray:
    """Returns scores `[rows, labels]` of clips, each the mean over its segments."""
    return pipeline.mean_scores(*_predict(network, data, rows, segment_frames))


def _predict(
    network: keras.Model, data: run_folder.Data, rows: np.ndarray, segment_frames: int
) -> tuple[np.ndarray, pipeline.Segments]:
    batches, segments = pipeline.evaluation_batches(
        data.features, rows, batch_size=_BATCH_SIZE, segment_frames=segment_frames
    )
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


def _assign(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _check_loss(epoch: int, logs: Mapping[str, float]) -> None:
    if not np.isfinite(logs["loss"]):
        raise ValueError(
            f"the loss of epoch {epoch + 1} is {logs['loss']}: lower --learning_rate, "
            "and give another --run_dir"
        )


# `keras.callbacks.TerminateOnNaN` would end training as if all were well.
_require_finite = keras.callbacks.LambdaCallback(on_epoch_end=_check_loss)
