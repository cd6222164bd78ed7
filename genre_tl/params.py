"""Every number of the system, once, with its unit.

`PRESETS` names complete configurations:

* `default` converges in sensible time on one machine;
* `paper` is what Song, Wang, Han and Ding (2017) state, with what the paper
  leaves open filled in as `docs/reproduction.md` says;
* `tiny` is small enough for tests: same code, fewer numbers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

SAMPLE_RATE_HZ = 16_000
"""Rate of every waveform inside the package."""


@dataclasses.dataclass(frozen=True)
class Frontend:
    """Waveform to log-scattering frames.

    Attributes:
      J: log2 of the averaging scale, and of the hop, in samples.
      Q: first-order wavelets per octave (the second order has one).
      max_order: highest scattering order, 1 or 2.
      segment_frames: frames in one fixed-length model input.
      log_floor: smallest coefficient that the logarithm tells from silence;
        full scale is 1.
    """

    J: int = 13
    Q: int = 8
    max_order: int = 2
    segment_frames: int = 59
    log_floor: float = 1e-5

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return 2**self.J

    @property
    def segment_samples(self) -> int:
        """Samples in one model input."""
        return self.segment_frames * self.hop_samples

    @property
    def segment_secs(self) -> float:
        """Seconds in one model input."""
        return self.segment_samples / SAMPLE_RATE_HZ

    def num_frames(self, num_samples: int) -> int:
        """Frames that `num_samples` samples touch."""
        return -(-num_samples // self.hop_samples)


@dataclasses.dataclass(frozen=True)
class Model:
    """The recurrent backbone.

    Attributes:
      num_layers: stacked GRU layers.
      num_units: units of each.
      dropout: fraction dropped between layers and before the head, 0 to 1.
      readout: what the head sees: `all`, the means over the valid frames of the
        input and of every layer, joined; `mean`, that of the last layer; `last`,
        the last layer's last valid state.
    """

    num_layers: int = 5
    num_units: int = 512
    dropout: float = 0.3
    readout: str = "all"


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run.

    Attributes:
      learning_rate: of Adam.
      batch_size: clips per step.
      max_epochs: upper bound of the epochs.
      patience_epochs: stop after this many epochs without a gain of
        `min_delta` in the monitored metric; 0 never stops early.
      min_delta: smallest change of the monitored metric that counts.
      clip_norm: largest global norm of a gradient; 0 switches clipping off.
      crop_frames: length of the random excerpt a training step sees of each
        clip; 0 takes the whole segment.
      backbone_rate: learning rate of the recurrent layers, as a part of
        `learning_rate`, which is the head's. 0 leaves them as they are: each clip
        goes through them once, whole, and an epoch takes no time.
      states_rate: the same of those weights of the head that read the layers'
        states, and not the input; with read-out `all`.
      head_pull: each step takes the head `learning_rate * head_pull` of the way back
        to where it began.
      head_pulls: where the recurrent layers are fixed, and the head begins with tags'
        weights, the one of these that is best on inner folds of the training clips,
        after `max_epochs`, is taken instead; none takes `head_pull`.
      named_head: whether a genre that is also a tag begins with the tag's weights
        in the head; else the head begins at zero. Of fine-tuning with transfer.
    """

    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 100
    patience_epochs: int = 8
    min_delta: float = 1e-3
    clip_norm: float = 1.0
    crop_frames: int = 16
    backbone_rate: float = 1.0
    states_rate: float = 1.0
    head_pull: float = 0.0
    head_pulls: tuple[float, ...] = ()
    named_head: bool = True


@dataclasses.dataclass(frozen=True)
class Preset:
    """A complete configuration, from waveform to both trainings."""

    frontend: Frontend = Frontend()
    model: Model = Model()
    pretrain: Training = Training()
    finetune: Training = Training(
        batch_size=16,
        max_epochs=20,
        patience_epochs=0,
        backbone_rate=0.0,
        states_rate=0.2,
        head_pulls=(0.0, 10.0, 40.0, 160.0),
    )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and lists, fit for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Preset:
        """Restores what `to_dict` gave.

        Raises:
          TypeError: if a name is unknown.
        """
        return cls(
            frontend=Frontend(**values["frontend"]),
            model=Model(**values["model"]),
            pretrain=_training(values["pretrain"]),
            finetune=_training(values["finetune"]),
        )


def _training(values: Mapping[str, Any]) -> Training:
    lists: dict[str, Any] = {"head_pulls": tuple(values.get("head_pulls", ()))}
    return Training(**{**values, **lists})


PRESETS: Mapping[str, Preset] = {
    "default": Preset(),
    "paper": Preset(
        model=Model(dropout=0.7, readout="last"),
        pretrain=Training(
            learning_rate=1e-5,
            max_epochs=1000,
            min_delta=1e-4,
            clip_norm=0.0,
            crop_frames=0,
        ),
        finetune=Training(
            learning_rate=1e-5,
            max_epochs=500,
            patience_epochs=0,
            clip_norm=0.0,
            crop_frames=0,
            named_head=False,
        ),
    ),
    "tiny": Preset(
        frontend=Frontend(J=9, Q=2, segment_frames=64),
        model=Model(num_layers=2, num_units=16, dropout=0.1),
        pretrain=Training(
            learning_rate=5e-3, batch_size=8, max_epochs=3, crop_frames=32
        ),
        finetune=Training(
            learning_rate=5e-3,
            batch_size=8,
            max_epochs=4,
            patience_epochs=0,
            crop_frames=32,
        ),
    ),
}
