"""Exports a finished run as a SavedModel for TensorFlow Serving and `predict`.

    python -m tools.export --run_dir=runs/finetune --name=genres

writes saved_models/genres/<version>/: scores from waveforms, with labels and a model
card. Versions count from 1. A new one appears only after it has been reloaded and has
reproduced the trained scores; none is written if the newest has this model already.
--format=onnx writes saved_models/genres-onnx/<version>/ for ONNX Runtime, with which
`predict` needs no TensorFlow; --format=tflite is for mobile devices and --format=keras
for other Keras programs. docs/serving.md describes all of them.

An exported tagger can be exported in another format, the starter for example:

    python -m tools.export --run_dir=starter --name=starter --format=onnx --half
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from genre_tl import starter

from . import command, common_flags

if TYPE_CHECKING:
    from genre_tl.serving import export, saved_model

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
    "Store the weights in half precision: half the size. SavedModel and ONNX.",
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


def main(argv: list[str]) -> None:
    del argv
    command.check_name(FLAGS.name)
    if FLAGS.half and FLAGS.format not in ("saved_model", "onnx"):
        raise app.UsageError("--half is for saved_model and onnx; leave it out")
    from genre_tl.serving import export, versions

    logging.set_verbosity(logging.WARNING)  # Hides notes about names in the graph.
    source = pathlib.Path(
        starter.folder() if FLAGS.run_dir == "starter" else FLAGS.run_dir
    )
    suffix = "" if FLAGS.format == "saved_model" else f"-{FLAGS.format}"
    base = pathlib.Path(FLAGS.saved_models_dir, f"{FLAGS.name}{suffix}")
    newest = versions.newest(base)
    validation = _validation()
    record, card = _read(source)
    if not FLAGS.force and newest and _holds(newest, card["model_sha256"], validation):
        print(f"{source}: already exported as {newest}; --force exports again")
        return
    card |= validation | _facts()
    print(f"{source}: exporting and checking (about a minute) ...", flush=True)
    folder = export.export(
        _trained(source, record, validation),
        base,
        card=card,
        write=_writer(card),
        on_check=lambda text: print(f"  ok: {text}", flush=True),
    )
    num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"\nwritten: {folder}, {num_bytes / 1e6:.1f} MB")
    if FLAGS.format in ("saved_model", "onnx"):
        print(f"\nnext:\n  python -m tools.predict --model={base} FILE_OR_FOLDER ...")


def _read(source: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the record of a run or an export, and what its model card says."""
    from genre_tl.model import exported
    from genre_tl.serving import model_card, versions
    from genre_tl.training import run_folder

    if exported.is_export(source):
        card = model_card.read(versions.newest_whole(source))
        return exported.read_record(source), card | {"name": FLAGS.name}
    record = run_folder.read_run(source)
    digest = hashlib.sha256((source / "model.keras").read_bytes()).hexdigest()
    return record, model_card.from_run(record, FLAGS.name, digest)


def _trained(
    source: pathlib.Path, record: dict[str, Any], validation: dict[str, Any]
) -> saved_model.TrainedModel:
    """Returns the network of a source, calibrated and rounded as it is exported."""
    from genre_tl import params
    from genre_tl.model import networks
    from genre_tl.serving import saved_model
    from genre_tl.training import run_folder

    network = run_folder.read_start(source)
    if calibration := validation.get("calibration"):
        network = networks.calibrated(network, calibration["scale"])
    return saved_model.TrainedModel(
        networks.to_half(network) if FLAGS.half else network,
        params.Preset.from_dict(record["preset"]).frontend,
        record["vocabulary"],
        FLAGS.half,
        run_folder.read_familiarity(source),
    )


def _writer(card: dict[str, Any]) -> export.Write:
    """Returns what writes --format."""
    if FLAGS.format == "saved_model":
        from genre_tl.serving import export

        return export.write_saved_model
    if FLAGS.format == "onnx":
        try:
            from genre_tl.serving import onnx_export
        except ImportError as error:
            raise ValueError(
                f"--format=onnx needs {error.name}; `pip install 'genre_tl[onnx]'`"
            ) from error
        return functools.partial(onnx_export.write_onnx, card=card)
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


def _validation() -> dict[str, Any]:
    """Returns accuracy, calibration and thresholds of --cross_validation."""
    if not FLAGS.cross_validation:
        return {}
    from genre_tl.training import run_folder

    report = run_folder.read_json(pathlib.Path(FLAGS.cross_validation, "report.json"))
    results = next(iter(report["models"].values()))
    names = "calibration", "thresholds"
    return {
        "cross_validation": results["accuracy"] | {"text": results["in_words"]},
        **{name: results[name] for name in names if name in results},
    }


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
