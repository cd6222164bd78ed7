"""Exports a finished run as a SavedModel for TensorFlow Serving and `predict`.

    python -m tools.export --run_dir=runs/finetune --name=genres

writes saved_models/genres/<version>/: scores straight from waveforms, labels and
a model card with it. The version appears once it was loaded in a process of its
own and gave the scores of the trained model; versions count up from 1. Does
nothing if the newest version is of this very model already. docs/serving.md
tells how to serve it.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from . import command

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", "runs/finetune", "Finished run to export.")
flags.DEFINE_string("name", "genres", "What the export is called.")
flags.DEFINE_string("saved_models_dir", "saved_models", "Where exports lie.")
flags.DEFINE_boolean(
    "force", False, "Export even if the newest version is of this very model."
)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

_USES = {
    "finetune": "Names the genre of a music recording: one score a genre; the scores "
    "of a clip add up to 1.",
    "pretrain": "Tags a music recording: an independent score from 0 to 1 a tag. Its "
    "embedding describes a recording to other programs.",
}
_LICENCES = {
    "magnatagatune": "MagnaTagATune: CC BY-NC-SA 3.0 (annotations and clips of "
    "Magnatune): attribution, no commercial use, share alike.",
    "gtzan": "GTZAN: no licence was ever given for its excerpts of published "
    "recordings; use in research is customary.",
}
_UNKNOWN_LICENCE = "That of the collection, which this program cannot know."
_LIMITS = (
    "Scores are not calibrated probabilities, and none says that a recording is "
    "something other than music.",
    "It knows the genres or tags of its training collection as that collection "
    "understands them, and no others.",
    "It hears what lies below 8 kHz, mixed down to one channel.",
    "A long recording gets the mean of its segments: changes within it average out.",
    "Figures on random folds flatter where recordings of one artist or album lie on "
    "both sides of the division.",
)


def main(argv: list[str]) -> None:
    del argv
    if not _NAME.fullmatch(FLAGS.name):
        raise ValueError(
            f"--name={FLAGS.name}: give letters, digits, dots, hyphens, underscores"
        )
    from genre_tl import models, params, runs, serving

    logging.set_verbosity(logging.WARNING)  # Saving tells of names within the graph.
    record = runs.read_run(FLAGS.run_dir)
    model_file = pathlib.Path(FLAGS.run_dir) / "model.keras"
    base = pathlib.Path(FLAGS.saved_models_dir) / FLAGS.name
    fingerprint = hashlib.sha256(model_file.read_bytes()).hexdigest()
    folder = serving.newest(base)
    known = folder and serving.read_card(folder).get("model_sha256")
    if folder and known == fingerprint and not FLAGS.force:
        print(f"{folder}: is of this very model already; --force exports it again")
    else:
        print(f"{model_file}: exporting and checking (a minute or so) ...", flush=True)
        folder = serving.export(
            models.load(model_file),
            params.Preset.from_dict(record["preset"]).frontend,
            record["vocabulary"],
            base,
            card=_card(record, FLAGS.name, fingerprint),
            on_check=lambda text: print(f"  ok: {text}", flush=True),
        )
        num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"\nwritten: {folder}, {num_bytes / 1e6:.1f} MB")
    print(f"\nnext:\n  python -m tools.predict --model={base} FILE_OR_FOLDER ...")


def _card(record: Mapping[str, Any], name: str, fingerprint: str) -> dict[str, Any]:
    """Returns what is known about a run, for people who were not there."""
    start = record.get("start") or {}
    parts = [record["data"], start["data"]] if start else [record["data"]]
    training = {
        "kind": record["kind"],
        "start": _data(start["data"]) | {"metrics": start["metrics"]} if start else "",
        # The path of the program is of no use elsewhere.
        "command": re.sub(
            r"^\S*/tools/(\w+)\.py\b", r"python -m tools.\1", record["command"]
        ),
        "configuration": record["preset"],
    }
    training |= {
        name: record[name]
        for name in ("seed", "epochs", "best_epoch", "started", "revision")
        if name in record
    }
    return {
        "name": name,
        "intended_use": _USES[record["kind"]],
        "limits": list(_LIMITS),
        "data": _data(record["data"]),
        "licence_of_the_data": [
            _LICENCES.get(part["name"], _UNKNOWN_LICENCE) for part in parts
        ],
        "metrics": record["metrics"],
        "training": training,
        "versions": record["versions"],
        "model_sha256": fingerprint,
    }


def _data(facts: Mapping[str, Any]) -> dict[str, Any]:
    # The clips themselves are listed in the run folder; here their numbers do.
    return {
        name: len(value) if isinstance(value, list) else value
        for name, value in facts.items()
    }


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
