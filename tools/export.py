"""Exports a finished run as a SavedModel for TensorFlow Serving and `predict`.

    python -m tools.export --run_dir=runs/finetune --name=genres

writes saved_models/genres/<version>/: scores from waveforms, with labels and a model
card. Versions count from 1. A new one appears only after it has been reloaded and has
reproduced the trained scores; none is written if the newest has this model already.
Beside it is an ONNX file that shares its weights, with which `predict` loads no
TensorFlow. --format=onnx writes an ONNX file that holds its weights to
saved_models/genres-onnx/<version>/; --format=tflite is for mobile devices and
--format=keras for other Keras programs. docs/serving.md describes all of them.

An exported tagger can be exported in another format, the starter for example:

    python -m tools.export --run_dir=starter --name=starter --format=onnx --half
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from genre_tl import starter

from . import command, common_flags

if TYPE_CHECKING:
    from genre_tl.serving import export

FLAGS = flags.FLAGS

common_flags.define_path(
    "run_dir",
    "runs/finetune",
    "Finished run to export, or an exported tagger; starter: the one that ships.",
)
flags.DEFINE_string("name", "genres", "Name of the export.")
common_flags.define_path(
    "saved_models_dir", "saved_models", "Folder of all exports.", is_local=True
)
flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "onnx", "tflite", "keras"],
    "Described above.",
)
flags.DEFINE_boolean(
    "half",
    False,
    "Store the weights in half precision: half the size. Not of tflite and keras.",
)
common_flags.define_path(
    "facts", None, "JSON of facts for the model card, such as sources and licences."
)
common_flags.define_path(
    "cross_validation",
    None,
    "Its folder: calibrates the scores; the model card states accuracy and thresholds.",
)
flags.DEFINE_boolean("force", False, "Export a model that is exported already.")

_PREDICTS = "saved_model", "onnx"  # formats that `predict` reads


def main(argv: list[str]) -> None:
    del argv
    command.check_name(FLAGS.name)
    if FLAGS.half and FLAGS.format not in _PREDICTS:
        raise app.UsageError(f"--half is for {' and '.join(_PREDICTS)}; leave it out")
    from genre_tl.serving import export, run_export, versions

    logging.set_verbosity(logging.WARNING)  # Hides notes about names in the graph.
    source = pathlib.Path(
        starter.folder() if FLAGS.run_dir == "starter" else FLAGS.run_dir
    )
    suffix = "" if FLAGS.format == "saved_model" else f"-{FLAGS.format}"
    base = pathlib.Path(FLAGS.saved_models_dir, f"{FLAGS.name}{suffix}")
    newest = versions.newest(base)
    validation: dict[str, Any] = {}
    if FLAGS.cross_validation:
        validation = run_export.validation(FLAGS.cross_validation)
    record, card = run_export.read(source, FLAGS.name)
    if not FLAGS.force and newest and _holds(newest, card["model_sha256"], validation):
        print(f"{source}: already exported as {newest}; --force exports again")
        return
    card |= validation | _facts()
    print(f"{source}: exporting and checking (about a minute) ...", flush=True)
    folder = export.export(
        run_export.trained(source, record, validation, half=FLAGS.half),
        base,
        card=card,
        write=_writer(card),
        on_check=lambda text: print(f"  ok: {text}", flush=True),
    )
    num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"\nwritten: {folder}, {num_bytes / 1e6:.1f} MB")
    if FLAGS.format in _PREDICTS:
        print(f"\nnext:\n  python -m tools.predict --model={base} FILE_OR_FOLDER ...")


def _writer(card: dict[str, Any]) -> export.Write:
    """Returns what writes --format."""
    if FLAGS.format in _PREDICTS:
        from genre_tl.serving import onnx_export

        if FLAGS.format == "onnx":
            return functools.partial(onnx_export.write_onnx, card=card)
        return functools.partial(onnx_export.write_with_saved_model, card=card)
    from genre_tl.serving import tflite_and_keras

    writers = {
        "tflite": tflite_and_keras.write_tflite,
        "keras": tflite_and_keras.write_keras,
    }
    return writers[FLAGS.format]


def _holds(version: pathlib.Path, digest: str, validation: dict[str, Any]) -> bool:
    """Whether a version is an export of the model file, so calibrated."""
    from genre_tl.serving import model_card

    try:
        model_card.check(version)
        card = model_card.read(version)
        found = card.get("model_sha256"), card.get("calibration")
        return found == (digest, validation.get("calibration"))
    except ValueError as error:
        reason = str(error).partition(";")[0]
        logging.warning("%s; the next version will replace it", reason)
        return False


def _facts() -> dict[str, Any]:
    """Returns the facts of --facts."""
    if not FLAGS.facts:
        return {}
    try:
        return dict(json.loads(pathlib.Path(FLAGS.facts).read_text("utf-8")))
    except (TypeError, ValueError) as error:
        message = f"--facts={FLAGS.facts}: not a JSON object: {error}"
        raise ValueError(message) from error


def cli() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # An export runs on the CPU.
    command.run(main)


if __name__ == "__main__":
    cli()
