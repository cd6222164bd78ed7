"""Exports a finished run as a SavedModel for TensorFlow Serving and `predict`.

    python -m tools.export --run_dir=runs/finetune --name=genres

writes saved_models/genres/<version>/: scores straight from waveforms, labels and
a model card with it. The version appears once it was loaded in a process of its
own and gave the scores of the trained model; versions count up from 1. Does
nothing if the newest version is of this very model already. docs/serving.md
tells how to serve it.

    python -m tools.export --run_dir=runs/finetune --name=genres --format=tflite

writes saved_models/genres-tflite/<version>/, for telephones and the like; likewise
--format=keras, for use in other Keras programs.
"""

from __future__ import annotations

import hashlib
import pathlib
import re

from absl import flags, logging

from . import command

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", "runs/finetune", "Finished run to export.")
flags.DEFINE_string("name", "genres", "What the export is called.")
flags.DEFINE_string("saved_models_dir", "saved_models", "Where exports lie.")
flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "tflite", "keras"],
    "saved_model: for servers and `predict`; tflite: TensorFlow Lite in float32 and "
    "float16; keras: classifier and backbone as .keras files.",
)
flags.DEFINE_boolean(
    "force", False, "Export even if the newest version is of this very model."
)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def main(argv: list[str]) -> None:
    del argv
    if not _NAME.fullmatch(FLAGS.name):
        raise ValueError(
            f"--name={FLAGS.name}: give letters, digits, dots, hyphens, underscores"
        )
    from genre_tl import params
    from genre_tl.model import networks
    from genre_tl.serving import export, keras_files, model_card, tflite
    from genre_tl.training import run_folder

    writers = {
        "saved_model": export.write_saved_model,
        "tflite": tflite.write,
        "keras": keras_files.write,
    }
    logging.set_verbosity(logging.WARNING)  # Saving tells of names within the graph.
    record = run_folder.read_run(FLAGS.run_dir)
    model_file = pathlib.Path(FLAGS.run_dir) / "model.keras"
    suffix = "" if FLAGS.format == "saved_model" else f"-{FLAGS.format}"
    base = pathlib.Path(FLAGS.saved_models_dir) / f"{FLAGS.name}{suffix}"
    fingerprint = hashlib.sha256(model_file.read_bytes()).hexdigest()
    folder = export.newest(base)
    known = folder and model_card.read(folder).get("model_sha256")
    if folder and known == fingerprint and not FLAGS.force:
        print(f"{folder}: is of this very model already; --force exports it again")
    else:
        print(f"{model_file}: exporting and checking (a minute or so) ...", flush=True)
        folder = export.export(
            networks.load(model_file),
            params.Preset.from_dict(record["preset"]).frontend,
            record["vocabulary"],
            base,
            card=model_card.from_run(record, FLAGS.name, fingerprint),
            write=writers[FLAGS.format],
            on_check=lambda text: print(f"  ok: {text}", flush=True),
        )
        num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"\nwritten: {folder}, {num_bytes / 1e6:.1f} MB")
    if FLAGS.format == "saved_model":
        print(f"\nnext:\n  python -m tools.predict --model={base} FILE_OR_FOLDER ...")


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
