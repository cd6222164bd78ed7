"""How hard a head is held to where it begins: chosen on inner folds.

The tags of a source that is close to the target are better than what a few clips
teach; those of a distant one are not. The training clips can tell: heads that are
pulled differently learn from some of them, and are asked for the others. No group of
clips is divided, or each would know the clips it is asked for by their kin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.data import datasets, splits
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import learning

OnEpoch = Callable[[int, int], None]

_MOST_FOLDS = 5


class Chooser:
    """Trains the heads of all inner folds and pulls at once, as a single wide one.

    They learn as the real head does, for `max_epochs`, but that their gradients are
    clipped together.

    Args:
      head: from what fixed layers give to genres, compiled; it is not changed.
      training: `head_pulls` are what there is to choose from.
    """

    def __init__(self, head: keras.Model, training: params.Training) -> None:
        self._training = training
        self._shape = _MOST_FOLDS, len(training.head_pulls), head.output_shape[-1]
        hidden = vectors = keras.layers.Input(head.input_shape[1:])
        for layer in head.layers[1:-1]:
            hidden = layer(hidden)
        heads = keras.layers.Dense(math.prod(self._shape), name=networks.HEAD)
        logits = keras.layers.Reshape(self._shape)(heads(hidden))
        self._network = keras.Model(vectors, keras.layers.Softmax()(logits))
        pulls = np.tile(np.repeat(training.head_pulls, self._shape[-1]), _MOST_FOLDS)
        optimizer = learning.adam(training, head.optimizer.num_inputs, pulls)
        optimizer.begin(self._network)
        learning.compile_with(self._network, optimizer, _cross_entropy)
        self._steps = learning.all_steps(self._network)
        self._scores = learning.scorer(self._network)

    def choose(
        self,
        vectors: pipeline.Features,
        segments: pipeline.Segments,
        table: datasets.Dataset,
        *,
        begins: list[np.ndarray],
        opinion: np.ndarray,
        seed: int,
        on_epoch: OnEpoch = lambda done, total: None,
    ) -> float | None:
        """Returns the pull whose heads tell clips best that they have not learned.

        Best is the least log loss that a single slope of the logits can give.

        Args:
          vectors: what the fixed layers give of the training clips.
          segments: which clip each is of, and how long.
          table: the training clips.
          begins: the head's kernel and bias. That it is calibrated on all the clips
            is undone: each inner head is, on those it learns from.
          opinion: what the head says of the clips as it begins, `[clips, genres]`.
          seed: of folds, order and dropout.
          on_epoch: whom to tell, with the epochs done and all.

        Returns:
          One of `head_pulls`; None where no genre has two groups of clips.

        Raises:
          ValueError: if a loss is not finite.
        """
        folds = _folds(table, seed)
        if not folds:
            return None
        fold_of = np.zeros(len(table), np.int64)
        # From labels that are all zero, as for folds there are not, nothing is learned.
        labels = np.zeros([len(table), *self._shape], np.float32)
        weights = [np.zeros([*w.shape[:-1], *self._shape], np.float32) for w in begins]
        for number, held_out in enumerate(folds):
            fold_of[held_out] = number
            labels[:, number] = table.labels[:, np.newaxis]
            labels[held_out, number] = 0
            learned = np.delete(np.arange(len(table)), held_out)
            begin = networks.calibrated(begins, opinion[learned], table.labels[learned])
            for wide, narrow in zip(weights, begin, strict=True):
                wide[..., number, :, :] = narrow[..., np.newaxis, :]
        weights = [w.reshape(*w.shape[:-3], -1) for w in weights]
        self._train(weights, vectors, labels, seed, on_epoch)
        scores = self._scores(vectors.frames).numpy()
        scores = pipeline.mean_scores(scores.reshape(len(scores), -1), segments)
        rows = np.concatenate(folds)
        held = scores.reshape(-1, *self._shape)[rows, fold_of[rows]]
        return self._best(held, table.labels[rows])

    def _best(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Chooses by `[clips, pulls, genres]`, from clips that were held out."""
        # A head that is right but too sure of it would lose by the loss as it is.
        losses = [
            networks.likeliest_slope(np.log(np.maximum(of_pull, 1e-7)), labels)[1]
            for of_pull in np.moveaxis(scores, 1, 0)
        ]
        if not np.isfinite(losses).all():
            raise ValueError(
                f"the losses of the head pulls {self._training.head_pulls} on inner "
                f"folds are {losses}: lower --learning_rate, or give --head_pull"
            )
        return self._training.head_pulls[int(np.argmin(losses))]

    def _train(
        self,
        weights: list[np.ndarray],
        vectors: pipeline.Features,
        labels: np.ndarray,
        seed: int,
        on_epoch: OnEpoch,
    ) -> None:
        network, training = self._network, self._training
        network.get_layer(networks.HEAD).set_weights(weights)
        network.optimizer.begin(network)
        for epoch in range(1, training.max_epochs + 1):
            networks.reseed(network, learning.mix(seed, epoch))
            batches = pipeline.training_batches(
                vectors,
                labels,
                np.arange(len(labels)),
                batch_size=training.batch_size,
                segment_frames=1,
                crop_frames=0,
                seed=seed,
                epoch=epoch,
            )
            frames, wanted = (np.stack(arrays) for arrays in zip(*batches, strict=True))
            self._steps(frames[:, :, 0], wanted)
            on_epoch(epoch, training.max_epochs)


def _cross_entropy(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the loss; it has no gradient where labels are all zero.

    Keras's goes by the logits, and takes it for granted that labels add up to one.
    """
    logarithms = keras.ops.log(keras.ops.maximum(scores, 1e-7))
    return -keras.ops.sum(labels * logarithms, axis=-1)


def _folds(table: datasets.Dataset, seed: int) -> list[np.ndarray]:
    """Returns the rows of as many inner folds as the clips allow; may be none.

    Clips of a genre that is a single group are in none: they are learned from alone,
    and so are those that are in a group with them.
    """
    groups, rows = np.array(table.groups), np.arange(len(table))
    while len(rows):
        counts = splits.groups_by_genre(table.select(rows))
        divided = [genre for genre, count in enumerate(counts) if count > 1]
        alone = set(groups[rows[~np.isin(table.classes[rows], divided)]])
        if not alone:
            break
        rows = rows[~np.isin(groups[rows], list(alone))]
    else:
        return []
    part = dataclasses.replace(
        table.select(rows),
        labels=table.labels[rows][:, divided],
        vocabulary=tuple(table.vocabulary[genre] for genre in divided),
    )
    num_folds = min(_MOST_FOLDS, *(counts[genre] for genre in divided))
    return [rows[fold] for fold in splits.folds(part, num_folds, seed)]
