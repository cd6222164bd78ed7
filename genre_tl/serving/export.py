"""Publishes trained networks as numbered versions, each checked before it appears.

A version is a folder `<name>/<version>/`, as TensorFlow Serving expects;
`docs/serving.md` describes it.

    trained = saved_model.TrainedModel(network, frontend, labels)
    folder = export.export(trained, "saved_models/x", card={})
    serving.Predictor(folder).scores([waveform])  # [clips, labels]
"""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from genre_tl import files
from genre_tl.serving import checks, model_card, saved_model, versions, warmup
from genre_tl.serving.saved_model import TrainedModel

Write = Callable[[TrainedModel, pathlib.Path], Iterable[str]]
"""Fills a folder with a format; yields a line of text for every check passed.

It raises `ValueError` if a check fails.
"""


def write_saved_model(trained: TrainedModel, folder: pathlib.Path) -> Iterator[str]:
    """Writes and checks a SavedModel, without its card; a `Write`."""
    try:
        saved_model.save(trained, folder)
        warmup.write(folder)
    except tf.errors.ResourceExhaustedError as error:  # TensorFlow's for a full disk
        number = errno.ENOSPC
        raise OSError(number, os.strerror(number), str(folder)) from error
    yield from checks.run(folder, trained)


def export(
    trained: TrainedModel,
    base_dir: files.PathLike,
    *,
    card: Mapping[str, Any],
    write: Write = write_saved_model,
    on_check: Callable[[str], None] = lambda text: None,
) -> pathlib.Path:
    """Writes a network as the next version and returns its folder.

    The version appears atomically, after it was reloaded and gave the scores of the
    Keras model.

    Args:
      trained: the network.
      base_dir: folder of the versions 1, 2, 3, ...
      card: JSON-serializable facts for the model card. Labels, front end and checks are
        added.
      write: `write_saved_model`, or a function of `tflite_and_keras`.
      on_check: called with a line of text for every check passed.

    Raises:
      ValueError: if a check fails, or another process exports to `base_dir`.
      OSError: if the folder cannot be written.
    """
    base = pathlib.Path(base_dir)
    base.mkdir(parents=True, exist_ok=True)
    with files.lock(base):
        target = base / str(max(versions.numbers_in(base), default=0) + 1)
        # Servers that poll the folder ignore names that are not numbers.
        with files.whole_folder(target) as folder:
            passed = []
            for text in write(trained, folder):
                passed.append(text)
                on_check(text)
            model_card.write(folder, {**card, **trained.facts(), "checks": passed})
    return target
