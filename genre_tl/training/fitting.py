"""An epoch of training: the same for a run of its own and for a fold of many.

What an epoch does depends on the seed, its number and the weights before it alone.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.features import pipeline
from genre_tl.model import networks
from genre_tl.training import head_pull, learning

OnStep = Callable[[int, int], None]
"""Called with the steps done in the epoch, and its steps: after each, or where the
recurrent layers are fixed after all of them."""

_Vectors = tuple[pipeline.Features, pipeline.Segments]

# Segments that are scored at once: the weights of a layer are read from memory for
# each frame of a batch, so a larger one takes a CPU less time a clip.
_BATCH = 96


class Clock:
    """Tells the time in training steps, and in scoring, from all the rest.

    The first call of a graph traces it, so it counts as rest.
    """

    def __init__(self) -> None:
        self._traced: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Begins to count anew; what was traced stays so."""
        self._start = time.monotonic()
        self._secs = {"steps": 0.0, "evaluation": 0.0}

    @contextlib.contextmanager
    def runs(self, graph: str, *, of: str, share: float = 1.0) -> Iterator[None]:
        """Adds what is done inside to `steps` or `evaluation`.

        Args:
          graph: names what is run.
          of: which of the two.
          share: how much of it; what is left counts as rest.
        """
        begin = time.monotonic()
        yield
        if graph in self._traced:
            self._secs[of] += share * (time.monotonic() - begin)
        self._traced.add(graph)

    def to_dict(self) -> dict[str, float]:
        """Returns seconds since the start: `steps`, `evaluation`, all `other`."""
        other = time.monotonic() - self._start - sum(self._secs.values())
        secs = self._secs | {"other": other}
        return {part: round(value, 3) for part, value in secs.items()}


class Fitter:
    """Trains a network by epochs, and scores clips with it.

    Where the recurrent layers are fixed, what they give of a clip is computed once
    and kept: `forget` it when weights are set from outside.

    Args:
      network: as `learning.compiled` gave it; it is changed.
      features: of all clips.
      labels: of all clips, `[clips, num_labels]`.
      training: batch size, excerpts and `backbone_rate` are used.
      segment_frames: frames of the model's input.
      clock: what the steps' time is added to.
    """

    def __init__(
        self,
        network: keras.Model,
        features: pipeline.Features,
        labels: np.ndarray,
        training: params.Training,
        *,
        segment_frames: int,
        clock: Clock,
    ) -> None:
        self._network, self._features, self._labels = network, features, labels
        self._training, self._segment_frames = training, segment_frames
        self._clock = clock
        self._below: learning.Scorer | None = None
        self._trained = network
        self._vectors: dict[bytes, _Vectors] = {}  # By the rows they are of.
        self._of_all: dict[str, _Vectors] = {}  # By the name of the layers.
        self._layers = ""
        if not training.backbone_rate:
            below, self._trained = networks.divided(network)
            learning.compile_with(self._trained, network.optimizer, network.loss)
            self._below = learning.scorer(below)
        self._scores = learning.scorer(self._trained)
        self._all_steps = learning.all_steps(self._trained)

    def forget(self, *, layers: str = "") -> None:
        """Lets go of what was computed with weights that were there before.

        Args:
          layers: a name of the fixed layers that are there next, if they were there
            before or will be again: what they give of all clips is computed once.
        """
        self._vectors.clear()
        self._layers = layers

    def choose_pull(
        self,
        rows: np.ndarray,
        table: datasets.Dataset,
        *,
        seed: int,
        on_epoch: head_pull.OnEpoch = lambda done, total: None,
    ) -> None:
        """Sets the optimizer's `head_pull` by inner folds, where that is to be done.

        That is where `head_pulls` are given, the recurrent layers are fixed, and the
        head begins with weights of tags; one that begins at zero has no opinion.

        Args:
          rows: the clips to train on.
          table: of all clips.
          seed: of the run or fold.
          on_epoch: whom to tell, with the epochs of the inner heads done and all.
        """
        begins = self._network.get_layer(networks.HEAD).get_weights()
        if not (self._below and self._training.head_pulls and begins[0].any()):
            return
        vectors, segments = self._read(rows, of="steps")
        opinion = self.predict(rows, trained_on=True)
        with self._clock.runs("choice", of="steps"):
            pull = self._chooser.choose(
                vectors,
                segments,
                table.select(rows),
                begins=begins,
                opinion=opinion,
                seed=seed,
                on_epoch=on_epoch,
            )
        if pull is not None:
            self._network.optimizer.head_pull.assign(pull)

    @functools.cached_property
    def _chooser(self) -> head_pull.Chooser:
        return head_pull.Chooser(self._trained, self._training)

    def epoch(
        self,
        rows: np.ndarray,
        *,
        seed: int,
        number: int,
        on_step: OnStep = lambda done, total: None,
    ) -> dict[str, float]:
        """Trains on every row once.

        Args:
          rows: the clips to train on.
          seed: of the run or fold.
          number: of the epoch, from 1.
          on_step: whom to tell.

        Returns:
          `loss` and `accuracy`, means over the epoch.

        Raises:
          ValueError: if the loss is not finite.
        """
        network = self._trained
        networks.reseed(self._network, learning.mix(seed, number), network.layers)
        num_steps = pipeline.num_batches(rows, self._training.batch_size)
        batches = self._batches(rows, seed, number)
        logs: list[dict[str, Any]] = []
        if self._below:
            # A step of the head alone takes less time than to call it.
            together = [np.stack(arrays) for arrays in zip(*batches, strict=True)]
            network.reset_metrics()
            with self._clock.runs("step", of="steps"):
                steps = self._all_steps(*together)
                logs.append({name: value.numpy() for name, value in steps.items()})
            on_step(num_steps, num_steps)
        else:
            # Not `fit`, which takes longer between the epochs than a small one takes.
            for done, batch in enumerate(batches, start=1):
                network.reset_metrics()  # Some versions of Keras do so by themselves.
                with self._clock.runs("step", of="steps"):
                    logs.append(network.train_on_batch(*batch, return_dict=True))
                on_step(done, num_steps)
        means = {
            name: float(np.mean([step[name] for step in logs]))
            for name in ("loss", "accuracy")
        }
        if not np.isfinite(means["loss"]):
            raise ValueError(
                f"the loss of epoch {number} is {means['loss']}: lower "
                "--learning_rate, in another --run_dir"
            )
        return means

    def _batches(
        self, rows: np.ndarray, seed: int, number: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        features, labels = self._features, self._labels
        segment_frames = self._segment_frames
        crop_frames = self._training.crop_frames
        if self._below:
            (features, _), labels = self._read(rows, of="steps"), labels[rows]
            rows, segment_frames, crop_frames = np.arange(len(rows)), 1, 0
        batches = pipeline.training_batches(
            features,
            labels,
            rows,
            batch_size=self._training.batch_size,
            segment_frames=segment_frames,
            crop_frames=crop_frames,
            seed=seed,
            epoch=number,
        )
        return ((x[:, 0] if self._below else x, y) for x, y in batches)

    def predict(self, rows: np.ndarray, *, trained_on: bool = False) -> np.ndarray:
        """Scores clips, as `fitting.predict` does: float32 `[rows, labels]`.

        Args:
          rows: which clips.
          trained_on: whether the steps of an epoch take them too; the time in fixed
            layers is then counted as a step's.
        """
        of = "steps" if trained_on else "evaluation"
        if self._below:
            vectors, segments = self._read(rows, of=of)
            batches = iter([vectors.frames])
        else:
            batches, segments = self._pieces(rows)
        with self._clock.runs("scores", of=of):
            return _mean_scores(self._scores, batches, segments)

    def _pieces(
        self, rows: np.ndarray
    ) -> tuple[Iterator[np.ndarray], pipeline.Segments]:
        return pipeline.evaluation_batches(
            self._features,
            rows,
            batch_size=_BATCH,
            segment_frames=self._segment_frames,
        )

    def _read(self, rows: np.ndarray, *, of: str) -> _Vectors:
        """Returns what fixed layers give of the rows: a frame for each segment."""
        key = np.asarray(rows, np.int64).tobytes()
        if key not in self._vectors:
            if self._layers:
                self._vectors[key] = self._pick(rows, of=of)
            else:
                self._vectors[key] = self._compute(rows, of=of)
        return self._vectors[key]

    def _compute(self, rows: np.ndarray, *, of: str, share: float = 1.0) -> _Vectors:
        assert self._below
        batches, segments = self._pieces(rows)
        read = []
        for frames in batches:
            # What the steps of all epochs would do again and again.
            with self._clock.runs("vectors", of=of, share=share):
                read.append(self._below(frames).numpy())
        return _one_a_segment(np.concatenate(read), segments), segments

    def _pick(self, rows: np.ndarray, *, of: str) -> _Vectors:
        # All clips in the same batches, whichever are asked for first: a product of
        # matrices may differ in its last bit with the size of a batch.
        if self._layers not in self._of_all:
            everything = np.arange(len(self._features.starts))
            share = len(rows) / len(everything)
            self._of_all[self._layers] = self._compute(everything, of=of, share=share)
        vectors, segments = self._of_all[self._layers]
        picked = [np.flatnonzero(segments.clips == row) for row in rows]
        clips = np.repeat(np.arange(len(rows)), list(map(len, picked)))
        chosen = np.concatenate(picked)
        segments = pipeline.Segments(clips, segments.frames[chosen])
        return _one_a_segment(vectors.frames[chosen], segments), segments


def _one_a_segment(
    vectors: np.ndarray, segments: pipeline.Segments
) -> pipeline.Features:
    """Returns vectors as clips of as many segments of one frame."""
    counts = np.bincount(segments.clips)
    starts = np.cumsum(counts) - counts
    return pipeline.Features(vectors, starts, tuple((1,) * count for count in counts))


def predict(
    network: keras.Model,
    features: pipeline.Features,
    rows: np.ndarray,
    *,
    segment_frames: int,
) -> np.ndarray:
    """Scores clips, each the mean over its segments.

    Args:
      network: a tagger or classifier.
      features: where the clips are.
      rows: which clips.
      segment_frames: frames the network sees at once.

    Returns:
      float32 `[rows, labels]`.
    """
    batches, segments = pipeline.evaluation_batches(
        features, rows, batch_size=_BATCH, segment_frames=segment_frames
    )
    return _mean_scores(learning.scorer(network), batches, segments)


def _mean_scores(
    scorer: learning.Scorer,
    batches: Iterator[np.ndarray],
    segments: pipeline.Segments,
) -> np.ndarray:
    scores = [scorer(batch).numpy() for batch in batches]
    return pipeline.mean_scores(np.concatenate(scores), segments)
