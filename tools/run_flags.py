"""Flags that the training tools share, and functions that apply them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from genre_tl import params

from . import common_flags, data_flags, frontend_flags, terminal

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    import keras
    import numpy as np

    from genre_tl.data import datasets
    from genre_tl.training import run_folder

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(frontend_flags)
common_flags.define_features_in()

flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer("layers", None, "Recurrent layers.", lower_bound=1)
flags.DEFINE_integer("units", None, "Units of a recurrent layer.", lower_bound=1)
flags.DEFINE_enum(
    "cell", None, params.CELLS, "Recurrent cell; bidirectional: GRUs both ways."
)
flags.DEFINE_float("dropout", None, "Fraction dropped.", 0.0, 0.99)
flags.DEFINE_float("learning_rate", None, "Of the whole network.", lower_bound=0.0)
flags.DEFINE_integer("batch_size", None, "Clips per step.", lower_bound=1)
flags.DEFINE_integer(
    "max_epochs",
    None,
    "Most epochs; may change on resuming if the learning rate is constant.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "patience_epochs", None, "Stop after so many epochs without gain; 0: never.", 0
)
flags.DEFINE_multi_integer(
    "crop_frames",
    None,
    "Frames of a training excerpt; repeat the flag to draw a length for each batch.",
    lower_bound=1,
)
flags.DEFINE_boolean("augment", None, "Vary excerpts as recordings of music vary.")
flags.DEFINE_enum(
    "precision",
    None,
    params.PRECISIONS,
    "Of recurrent layers in training; mixed ones are for GPUs. Exports are float32.",
)


def preset(kind: str) -> params.Preset:
    """Returns the preset with what the flags change.

    `kind` is the training that they change, `pretrain` or `finetune`.
    """
    chosen, changed = frontend_flags.preset(), frontend_flags.changed
    model = changed(chosen.model, num_layers="layers", num_units="units")
    parts = {"model": model, kind: changed(getattr(chosen, kind))}
    return dataclasses.replace(chosen, **parts)


def load(
    table: datasets.Dataset,
    frontend: params.Frontend,
    split: str,
    parts: Callable[[datasets.Dataset], Mapping[str, np.ndarray]],
) -> run_folder.Data:
    """Returns the features of a table, and its parts under the name `split`."""
    from genre_tl.training import run_folder

    parts(table)  # Errors must come before features are extracted, for hours.
    features, table = data_flags.features(table, frontend)
    return run_folder.Data(features, table, frontend, split, parts(table))


def progress(names: Mapping[str, str]) -> keras.callbacks.Callback:
    """Returns a callback that prints a line per epoch, but at most one a second.

    `names` are metrics to show, and what to call them.
    """
    import keras

    class Progress(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self._shown = time.monotonic()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._begin, self._epoch = time.monotonic(), epoch + 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps = self.params["steps"]
            terminal.status(f"epoch {self._epoch}: step {batch + 1} of {steps}")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            now, epochs = time.monotonic(), self.params["epochs"]
            if now - self._shown >= 1 or epoch + 1 == epochs:
                self._shown = now
                shown = {name: logs[key] for key, name in names.items() if key in logs}
                terminal.say(epoch_line(epoch + 1, epochs, shown, now - self._begin))

    return Progress()


def epoch_line(epoch: int, epochs: int, shown: Mapping[str, float], secs: float) -> str:
    """Returns a line on a finished epoch, with the longest time left."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    left = terminal.duration(secs * (epochs - epoch))
    return f"epoch {epoch} of {epochs}: {figures}; {secs:.0f} s, at most {left} left"
