"""An epoch of training: the same for a run of its own and for a fold of many.

What an epoch does depends on the seed, its number and the weights before it alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from genre_tl import input_pipeline, models, params

OnStep = Callable[[int, int], None]
"""Called after a training step with the steps done in the epoch, and its steps."""


class Clock:
    """Tells the time in training steps from all the rest.

    The first step of a network traces its graph, so it counts as rest.
    """

    def __init__(self) -> None:
        self._is_traced = False
        self.restart()

    def restart(self) -> None:
        """Begins to count anew; what was traced stays so."""
        self._start, self._steps_secs = time.monotonic(), 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Adds what is done inside to the steps."""
        begin = time.monotonic()
        yield
        if self._is_traced:
            self._steps_secs += time.monotonic() - begin
        self._is_traced = True

    def to_dict(self) -> dict[str, float]:
        """Returns the seconds in `steps`, and all `other` ones since the start."""
        total = time.monotonic() - self._start
        return {
            "steps": round(self._steps_secs, 3),
            "other": round(total - self._steps_secs, 3),
        }


def compiled(
    network: keras.Model, training: params.Training, loss: str
) -> keras.Model:
    """Compiles a network for `epoch` and returns it."""
    optimizer = keras.optimizers.Adam(
        training.learning_rate, global_clipnorm=training.clip_norm or None
    )
    # On a CPU, XLA took longer to compile the recurrence, and to run it.
    network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return network


def epoch(
    network: keras.Model,
    features: input_pipeline.Features,
    labels: np.ndarray,
    rows: np.ndarray,
    training: params.Training,
    *,
    segment_frames: int,
    seed: int,
    number: int,
    clock: Clock,
    on_step: OnStep = lambda done, total: None,
) -> dict[str, float]:
    """Trains on every row once.

    Args:
      network: as `compiled` gave it; it is changed.
      features: of all clips.
      labels: of all clips, `[clips, num_labels]`.
      rows: the clips to train on.
      training: batch size and excerpts are used.
      segment_frames: frames of the model's input.
      seed: of the run or fold.
      number: of the epoch, from 1.
      clock: what the steps' time is added to.
      on_step: whom to tell.

    Returns:
      `loss` and `accuracy`, means over the epoch.

    Raises:
      ValueError: if the loss is not finite.
    """
    models.reseed(network, mix(seed, number))
    batches = input_pipeline.training_batches(
        features,
        labels,
        rows,
        batch_size=training.batch_size,
        segment_frames=segment_frames,
        crop_frames=training.crop_frames,
        seed=seed,
        epoch=number,
    )
    # Not `fit`, which takes longer between the epochs than a small one takes.
    network.reset_metrics()
    num_steps = int(batches.cardinality())
    for done, (frames, targets) in enumerate(batches, start=1):
        with clock.step():
            logs = network.train_on_batch(frames, targets, return_dict=True)
        on_step(done, num_steps)
    if not np.isfinite(logs["loss"]):
        raise ValueError(
            f"the loss of epoch {number} is {logs['loss']}: lower --learning_rate, "
            "in another --run_dir"
        )
    return {name: float(logs[name]) for name in ("loss", "accuracy")}


def predict(
    network: keras.Model,
    features: input_pipeline.Features,
    rows: np.ndarray,
    *,
    segment_frames: int,
    batch_size: int = 32,
) -> np.ndarray:
    """Scores clips, each the mean over its segments.

    Args:
      network: a tagger or classifier.
      features: where the clips are.
      rows: which clips.
      segment_frames: frames the network sees at once.
      batch_size: segments at once.

    Returns:
      float32 `[rows, labels]`.
    """
    batches, segments = input_pipeline.evaluation_batches(
        features, rows, batch_size=batch_size, segment_frames=segment_frames
    )
    return input_pipeline.mean_scores(network.predict(batches, verbose=0), segments)


def mix(*numbers: int) -> int:
    """Returns a seed that is a function of all the numbers, in their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
