"""A trained network with what an export needs to know about it."""

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
      frontend: parameters of the frames that it was trained on.
      labels: names of its scores, in order.

    Raises:
      ValueError: if the labels do not fit the network, or cannot be exported.
    """

    network: keras.Model
    frontend: params.Frontend
    labels: Sequence[str]

    def __post_init__(self) -> None:
        if self.network.layers[-1].name != networks.HEAD:
            raise ValueError(
                f"{self.network.name!r} has no head: pass a tagger or classifier"
            )
        num_scores, num_labels = self.network.output_shape[-1], len(self.labels)
        if num_labels != num_scores or len(set(self.labels)) != num_labels:
            raise ValueError(
                f"{num_labels} labels ({len(set(self.labels))} different) for "
                f"{num_scores} scores: give each score its own label"
            )
        for label in self.labels:
            require_label(label)

    def facts(self) -> dict[str, Any]:
        """Returns what a client must know, fit for JSON."""
        frontend = self.frontend
        return {
            "labels": list(self.labels),
            "frontend": {
                "sample_rate_hz": params.SAMPLE_RATE_HZ,
                **dataclasses.asdict(frontend),
                "hop_samples": frontend.hop_samples,
                "segment_samples": frontend.segment_samples,
                "segment_secs": frontend.segment_secs,
            },
        }


def require_label(label: str) -> None:
    """Raises `ValueError` unless a label is a line of valid, visible text."""
    # Control characters, halves of surrogate pairs, line and paragraph separators.
    is_odd = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label)
    if is_odd or not label.strip():
        raise ValueError(
            f"label {label!r} is empty, not valid UTF-8 or has control characters; "
            "rename it and train again"
        )
