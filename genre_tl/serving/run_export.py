"""What an export takes from a finished run and its cross-validation."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

from genre_tl import files, params
from genre_tl.model import exported, networks
from genre_tl.serving import model_card, saved_model, versions
from genre_tl.training import run_folder


def read(source: pathlib.Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the record of a run, or of an exported tagger, and its model card.

    `name` is that of the export. Raises as `run_folder.read_run` and
    `exported.read_record`.
    """
    if exported.is_export(source):
        card = model_card.read(versions.newest_whole(source))
        return exported.read_record(source), card | {"name": name}
    record = run_folder.read_run(source)
    digest = hashlib.sha256((source / "model.keras").read_bytes()).hexdigest()
    return record, model_card.from_run(record, name, digest)


def validation(folder: files.PathLike) -> dict[str, Any]:
    """Returns accuracy, calibration and thresholds of a cross-validation's folder."""
    report = run_folder.read_json(pathlib.Path(folder, "report.json"))
    results = next(iter(report["models"].values()))
    names = "calibration", "thresholds"
    return {
        "cross_validation": results["accuracy"] | {"text": results["in_words"]},
        **{name: results[name] for name in names if name in results},
    }


def trained(
    source: pathlib.Path,
    record: dict[str, Any],
    measured: dict[str, Any],
    *,
    half: bool = False,
) -> saved_model.TrainedModel:
    """Returns the network of a source, calibrated and rounded as it is exported.

    Args:
      source: as for `read`.
      record: of the source, as `read` returns it.
      measured: what `validation` returns, or {}.
      half: whether to round to half precision.
    """
    network = run_folder.read_start(source)
    if calibration := measured.get("calibration"):
        network = networks.calibrated(network, calibration["scale"])
    return saved_model.TrainedModel(
        networks.to_half(network) if half else network,
        params.Preset.from_dict(record["preset"]).frontend,
        record["vocabulary"],
        half,
        run_folder.read_familiarity(source),
    )
