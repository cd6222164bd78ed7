"""Flags that choose a preset and change its front end."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from genre_tl import params

FLAGS = flags.FLAGS

flags.DEFINE_enum("preset", "default", list(params.PRESETS), "Configuration.")
flags.DEFINE_integer("J", None, "log2 of the largest wavelet scale.", lower_bound=1)
flags.DEFINE_integer("Q", None, "Wavelets per octave, first order.", lower_bound=1)
flags.DEFINE_integer("T", None, "Samples averaged, 2**J if unset.", lower_bound=2)
flags.DEFINE_integer("segment_frames", None, "Frames of a model input.", lower_bound=1)


def changed(part: Any, *names: str, **renamed: str) -> Any:
    """Returns a dataclass with the values of flags that are given.

    Args:
      part: the dataclass.
      *names: attributes whose flags have the same names.
      **renamed: attributes, and the names of their flags.
    """
    by_attribute = {name: name for name in names} | renamed
    values = {name: FLAGS[flag].value for name, flag in by_attribute.items()}
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(part, **given)


def preset() -> params.Preset:
    """Returns the preset with the front end that the flags describe."""
    chosen = params.PRESETS[FLAGS.preset]
    frontend = changed(chosen.frontend, "J", "Q", "T", "segment_frames")
    return dataclasses.replace(chosen, frontend=frontend)
