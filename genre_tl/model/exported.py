"""Rebuilds the Keras network of an exported tagger, to start a training from.

A SavedModel holds the weights of all layers, in their order, and its model card the
architecture.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import params
from genre_tl.model import networks

_CARD = "assets.extra/model_card.json"
_WEIGHT = re.compile(r"network/_weights/(\d+)/")

PathLike = str | os.PathLike[str]


def is_export(folder: PathLike) -> bool:
    """Whether a folder holds a SavedModel, or numbered versions of one."""
    return (_newest(pathlib.Path(folder)) / "saved_model.pb").is_file()


def read_record(folder: PathLike) -> dict[str, Any]:
    """Returns what the model card of an export keeps of run.json.

    `model` is the SHA-256 of the network. Raises a ValueError if there is no card, or
    none of a trained network.
    """
    path = _newest(pathlib.Path(folder)) / _CARD
    try:
        card = json.loads(path.read_text("utf-8"))
        training = card["training"]
        names = {"preset": training["configuration"], "vocabulary": card["labels"]}
        record = {**training, "metrics": card["metrics"], "data": card["data"], **names}
        return record | {"model": card["model_sha256"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: not the model card of a trained network ({error!r}); export the "
            "run again"
        ) from error


def read_tagger(folder: PathLike) -> keras.Model:
    """Returns the network of an exported tagger.

    Raises a ValueError if the export is damaged, or cannot be a tagger.
    """
    record = read_record(folder)
    version = _newest(pathlib.Path(folder))
    try:
        preset = params.Preset.from_dict(record["preset"])
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        names = sorted(
            filter(_WEIGHT.match, reader.get_variable_to_shape_map()), key=_number
        )
        weights = [reader.get_tensor(name).astype(np.float32) for name in names]
        sizes = len(weights[0]), len(record["vocabulary"])
        network = networks.tagger(preset.model, *sizes)
        network.set_weights(weights)
    except (LookupError, TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{version}: not a tagger that this version can read: {error}"
        ) from error
    return network


def _number(name: str) -> int:
    match = _WEIGHT.match(name)
    assert match
    return int(match[1])


def _newest(folder: pathlib.Path) -> pathlib.Path:
    versions = [x for x in folder.glob("*") if re.fullmatch("[0-9]+", x.name)]
    return max(versions, key=lambda path: int(path.name), default=folder)
