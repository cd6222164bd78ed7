"""A trained network with what its export needs to know."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

import keras

from genre_tl import params
from genre_tl.model import networks


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network, its front end and the names of its scores.

    Attributes:
      network: a tagger or classifier.
      frontend: front end of the frames that it was trained on.
      labels: names of its scores, in order.

    Raises:
      ValueError: if the labels do not fit the network, or cannot be exported.
    """

    network: keras.Model
    frontend: params.Frontend
    labels: Sequence[str]

    def __post_init__(self) -> None:
        network, labels = self.network, self.labels
        if network.layers[-1].name != networks.HEAD:
            raise ValueError(f"{network.name!r} has no head: pass a whole network")
        num_scores = network.output_shape[-1]
        if not len(labels) == len(set(labels)) == num_scores:
            raise ValueError(
                f"{len(labels)} labels ({len(set(labels))} different) for {num_scores} "
                "scores: give each score its own label"
            )
        for label in labels:
            # Control characters, surrogates, line and paragraph separators.
            kinds = {unicodedata.category(character) for character in label}
            if kinds & {"Cc", "Cs", "Zl", "Zp"} or not label.strip():
                raise ValueError(
                    f"label {label!r} is empty, not valid UTF-8 or has control "
                    "characters; rename it and train again"
                )

    def facts(self) -> dict[str, Any]:
        """Returns labels and front end for the model card."""
        derived = ("hop_samples", "segment_samples", "segment_secs")
        return {
            "labels": list(self.labels),
            "frontend": {
                "sample_rate_hz": params.SAMPLE_RATE_HZ,
                **dataclasses.asdict(self.frontend),
                **{name: getattr(self.frontend, name) for name in derived},
            },
        }
