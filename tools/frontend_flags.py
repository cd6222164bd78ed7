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


def changed(part: Any, **renamed: str) -> Any:
    """Returns a dataclass with the values of the flags that are given.

    A flag has the name of its attribute; `renamed` are attributes with another flag.
    """
    names = {field.name: field.name for field in dataclasses.fields(part)} | renamed
    values = {name: FLAGS[flag].value for name, flag in names.items() if flag in FLAGS}
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(part, **given)


def preset() -> params.Preset:
    """Returns the preset with the front end that the flags describe."""
    chosen = params.PRESETS[FLAGS.preset]
    return dataclasses.replace(chosen, frontend=changed(chosen.frontend))
