"""Exports a finished run as a SavedModel for TensorFlow Serving and `predict`.

    python -m tools.export --run_dir=runs/finetune --name=genres

writes saved_models/genres/<version>/: scores from waveforms, with labels and a model
card. The version, counted from 1, appears after it was reloaded and gave the scores
of the trained model. Nothing is written if the newest version has this model already.
docs/serving.md describes how to serve it.

    python -m tools.export --run_dir=runs/finetune --name=genres --format=tflite

writes saved_models/genres-tflite/<version>/ for mobile devices; --format=keras writes
files for other Keras programs.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re

from absl import app, flags, logging

from . import command

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", "runs/finetune", "Finished run to export.")
flags.DEFINE_string("name", "genres", "Name of the export.")
flags.DEFINE_string("saved_models_dir", "saved_models", "Folder of all exports.")
flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "tflite", "keras"],
    "saved_model: for servers and `predict`; tflite: TensorFlow Lite in float32 and "
    "float16; keras: classifier and backbone as .keras files.",
)
flags.DEFINE_boolean(
    "force", False, "Export even if the newest version has this model already."
)


def main(argv: list[str]) -> None:
    del argv
    if not re.fullmatch(r"\w[\w.-]*", FLAGS.name, re.ASCII):
        raise app.UsageError(
            f"--name={FLAGS.name!r}: use letters, digits, dots, hyphens, underscores"
        )
    from genre_tl import params
    from genre_tl.model import networks
    from genre_tl.serving import export, keras_files, model_card, tflite, trained_model
    from genre_tl.training import run_folder

    logging.set_verbosity(logging.WARNING)  # Hides notes about names in the graph.
    run_dir = pathlib.Path(FLAGS.run_dir).expanduser()
    suffix = "" if FLAGS.format == "saved_model" else f"-{FLAGS.format}"
    base = pathlib.Path(FLAGS.saved_models_dir, f"{FLAGS.name}{suffix}").expanduser()
    record, model_file = run_folder.read_run(run_dir), run_dir / "model.keras"
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    folder = export.newest(base)
    known = folder and model_card.read(folder).get("model_sha256")
    if known == digest and not FLAGS.force:
        print(f"{model_file}: already exported as {folder}; --force exports again")
        return
    frontend = params.Preset.from_dict(record["preset"]).frontend
    writers = {"tflite": tflite.write, "keras": keras_files.write}
    print(f"{model_file}: exporting and checking (about a minute) ...", flush=True)
    folder = export.export(
        trained_model.TrainedModel(
            networks.load(model_file), frontend, record["vocabulary"]
        ),
        base,
        card=model_card.from_run(record, FLAGS.name, digest),
        write=writers.get(FLAGS.format, export.write_saved_model),
        on_check=lambda text: print(f"  ok: {text}", flush=True),
    )
    num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"\nwritten: {folder}, {num_bytes / 1e6:.1f} MB")
    if FLAGS.format == "saved_model":
        print(f"\nnext:\n  python -m tools.predict --model={base} FILE_OR_FOLDER ...")


def cli() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # An export runs on the CPU.
    command.run(main)


if __name__ == "__main__":
    cli()
