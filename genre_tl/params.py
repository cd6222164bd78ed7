"""All numbers of the system, with their units.

The presets: `default` trains in minutes on one machine; `paper` is the method of Song,
Wang, Han and Ding (2017), where `docs/reproduction.md` lists what it leaves open;
`tiny` is small enough for tests.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

SAMPLE_RATE_HZ = 16_000
"""Sample rate of every waveform inside the package."""

CALIBRATION_POWER, CALIBRATION_NORM = 0.75, 10.0
"""Calibrated logits are `z * (CALIBRATION_NORM / |z|) ** CALIBRATION_POWER`, where `z`
are those of a trained network, with mean 0, times a scale."""

UNFAMILIAR = 0.05
"""A clip of a lower familiarity is called unlike the training music."""

CELLS = ("gru", "lstm", "bidirectional")
READOUTS = ("all", "last")
METHODS = ("kernel", "probe", "finetune")
SCHEDULES = ("constant", "cosine")
PRECISIONS = "float32", "mixed_bfloat16", "mixed_float16"


@dataclasses.dataclass(frozen=True)
class Frontend:
    """Waveforms to log-scattering frames.

    Attributes:
      J: log2 of the largest wavelet scale, in samples.
      Q: first-order wavelets per octave (the second order has one).
      T: samples that the low-pass averages; None is 2**J.
      max_order: highest scattering order, 1 or 2.
      segment_frames: frames in one fixed-length model input.
      log_floor: added before the logarithm; full scale is 1, or the level if that is
        removed.
      remove_level: whether to divide each segment's coefficients by the root mean
        square of its first order, so that loudness has no effect.
    """

    J: int = 12
    Q: int = 8
    T: int | None = None
    max_order: int = 2
    segment_frames: int = 118
    log_floor: float = 1e-4
    remove_level: bool = True

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next: the power of two not above T."""
        return 2 ** int(math.log2(self.T or 2**self.J))

    @property
    def segment_samples(self) -> int:
        """Samples in one model input."""
        return self.segment_frames * self.hop_samples

    @property
    def segment_secs(self) -> float:
        """Seconds in one model input."""
        return self.segment_samples / SAMPLE_RATE_HZ

    def num_frames(self, num_samples: int) -> int:
        """Returns the number of frames that `num_samples` samples touch."""
        return -(-num_samples // self.hop_samples)


@dataclasses.dataclass(frozen=True)
class Model:
    """The recurrent backbone.

    Attributes:
      num_layers: stacked recurrent layers.
      num_units: units of each layer, and direction.
      cell: `gru`, `lstm`, or `bidirectional` (GRUs in both directions).
      dropout: fraction dropped between layers and before the head, 0 to 1.
      readout: what is read of a clip. `last` is the last valid state of the last
        layer; `all` the means over valid frames of the standardised input and every
        layer.
      embedding_units: units of a linear layer between read-out and head; 0 for none.
      prior: whether the biases of a tagger's head start at the log-odds of the tags;
        if not, at 0.
    """

    num_layers: int = 5
    num_units: int = 512
    cell: str = "gru"
    dropout: float = 0.45
    readout: str = "all"
    embedding_units: int = 256
    prior: bool = True

    def __post_init__(self) -> None:
        _check_choice("cell", self.cell, CELLS)
        _check_choice("readout", self.readout, READOUTS)


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a whole network.

    Attributes:
      learning_rate: of Adam.
      schedule: `constant`, or `cosine`: two epochs of warm-up, then half a cosine down
        to 0 over `max_epochs`.
      weight_decay: decoupled from the gradient, as in AdamW; 0 for none.
      batch_size: clips per step.
      max_epochs: largest number of epochs.
      patience_epochs: stop after this many epochs without gain; 0 never stops early.
      min_delta: smallest gain of the monitored metric that counts.
      clip_norm: largest global norm of a gradient; 0 does not clip.
      crop_frames: lengths of the random excerpts; each batch has one of them. Empty
        takes the whole segment.
      augment: whether to vary the excerpts as recordings of music vary.
      precision: of the recurrent layers while they are trained; one of `PRECISIONS`.
        Weights are float32 in all.
    """

    learning_rate: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 0.01
    batch_size: int = 48
    max_epochs: int = 36
    patience_epochs: int = 0
    min_delta: float = 1e-3
    clip_norm: float = 1.0
    crop_frames: tuple[int, ...] = (6, 10, 10, 20, 40)
    augment: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "crop_frames", tuple(self.crop_frames))


@dataclasses.dataclass(frozen=True)
class FineTuning(Training):
    """Fine-tuning; `Training` is that of the whole network.

    Attributes:
      method: `kernel` and `probe` keep the backbone and fit a head to its features: a
        Gaussian kernel, or a linear one; `finetune` fits the linear head, then trains
        the whole network.
      fit_head: whether `finetune` fits the head before training.
      scratch_learning_rate: of Adam, from random weights.
    """

    learning_rate: float = 1e-4
    batch_size: int = 16
    max_epochs: int = 30
    method: str = "kernel"
    fit_head: bool = True
    scratch_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("method", self.method, METHODS)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A complete configuration, from waveform to both trainings."""

    frontend: Frontend = Frontend()
    model: Model = Model()
    pretrain: Training = Training()
    finetune: FineTuning = FineTuning()

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-serializable dictionary."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Preset:
        """Restores the preset from `to_dict`; raises TypeError for unknown names."""
        return cls(
            Frontend(**values["frontend"]),
            Model(**values["model"]),
            Training(**values["pretrain"]),
            FineTuning(**values["finetune"]),
        )


_PAPER: dict[str, Any] = {
    "learning_rate": 1e-5,
    "schedule": "constant",
    "weight_decay": 0.0,
    "batch_size": 32,
    "clip_norm": 0.0,
    "crop_frames": (),
    "augment": False,
    "patience_epochs": 8,
}
_TINY: dict[str, Any] = {
    "learning_rate": 5e-3,
    "schedule": "constant",
    "batch_size": 8,
    "crop_frames": (32,),
    "augment": False,
}

PRESETS: Mapping[str, Preset] = {
    "default": Preset(),
    "paper": Preset(
        frontend=Frontend(13, segment_frames=59, log_floor=1e-5, remove_level=False),
        model=Model(dropout=0.7, readout="last", embedding_units=0, prior=False),
        pretrain=Training(max_epochs=1000, min_delta=1e-4, **_PAPER),
        finetune=FineTuning(
            max_epochs=500,
            method="finetune",
            fit_head=False,
            scratch_learning_rate=1e-5,
            **(_PAPER | {"patience_epochs": 0}),
        ),
    ),
    "tiny": Preset(
        frontend=Frontend(J=9, Q=2, segment_frames=64),
        model=Model(num_layers=2, num_units=16, dropout=0.1, embedding_units=8),
        pretrain=Training(max_epochs=3, **_TINY),
        finetune=FineTuning(max_epochs=4, scratch_learning_rate=5e-3, **_TINY),
    ),
}
