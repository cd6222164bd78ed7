"""The flags that pre-training and fine-tuning share, and what they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from absl import flags

from genre_tl import params

from . import terminal

if TYPE_CHECKING:  # TensorFlow takes seconds to load: not for --help.
    from genre_tl.training import run_folder

FLAGS = flags.FLAGS

flags.DEFINE_enum("preset", "default", list(params.PRESETS), "Configuration.")
flags.DEFINE_integer("seed", 0, "Of weights, dropout, order and excerpts.")
flags.DEFINE_float("learning_rate", None, "Instead of the preset's.", lower_bound=0.0)
flags.DEFINE_integer(
    "batch_size", None, "Clips a step, instead of the preset's.", lower_bound=1
)
flags.DEFINE_integer(
    "max_epochs",
    None,
    "Instead of the preset's; may change while a run goes on.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "patience_epochs",
    None,
    "Epochs without gain before stopping; 0 never stops.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "crop_frames",
    None,
    "Length of the excerpts trained on; 0 takes the segment.",
    lower_bound=0,
)
flags.DEFINE_boolean(
    "named_head",
    None,
    "Whether genres that are also tags begin with the tags' head; in fine-tuning "
    "with transfer, instead of the preset's.",
)
flags.DEFINE_float(
    "backbone_rate",
    None,
    "Learning rate of the recurrent layers as a part of the head's, instead of the "
    "preset's; 0 leaves them as they are.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "head_pull",
    None,
    "How strongly the head is pulled back to where it began, instead of the preset's, "
    "or of what inner folds of the training clips would choose.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "dropout",
    None,
    "Fraction dropped, instead of the preset's.",
    lower_bound=0.0,
    upper_bound=0.99,
)

_TRAINING = ("learning_rate", "batch_size", "max_epochs", "patience_epochs")

_FINER = ("crop_frames", "backbone_rate", "head_pull", "named_head")


def preset(kind: str) -> params.Preset:
    """Returns the preset with what the flags change of `kind`'s training."""
    chosen = params.PRESETS[FLAGS.preset]
    changes = {
        name: FLAGS[name].value
        for name in (*_TRAINING, *_FINER)
        if FLAGS[name].value is not None
    }
    if FLAGS.head_pull is not None:
        changes["head_pulls"] = ()
    if FLAGS.dropout is not None:
        model = dataclasses.replace(chosen.model, dropout=FLAGS.dropout)
        chosen = dataclasses.replace(chosen, model=model)
    changed = dataclasses.replace(getattr(chosen, kind), **changes)
    return dataclasses.replace(chosen, **{kind: changed})


def progress(num_epochs: int, figures: Mapping[str, str]) -> run_folder.Progress:
    """Returns how a run shows itself: a line an epoch, steps on a terminal.

    Args:
      num_epochs: most epochs that can come.
      figures: columns of the history to show, and their names.
    """
    from genre_tl.training import run_folder

    def on_step(epoch: int, done: int, total: int) -> None:
        what = f"epoch {epoch}: step" if epoch else "inner folds: epoch"
        terminal.status(f"{what} {done} of {total}")

    def on_epoch(row: Mapping[str, float], secs: float) -> None:
        epoch = int(row["epoch"])
        shown = [
            f"{name} {row[key]:.3f}" for key, name in figures.items() if key in row
        ]
        most = terminal.duration(secs * (num_epochs - epoch))
        text = f"epoch {epoch} of {num_epochs}: {', '.join(shown)}; {secs:.0f} s"
        terminal.say(f"{text}, at most {most} left")

    return run_folder.Progress(on_step, on_epoch)
