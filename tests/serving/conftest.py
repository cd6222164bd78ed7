"""An export that the tests of serving share."""

import json
import types

import pytest
from support.tiny_export import (
    FRONTEND,
    LABELS,
    PRESET,
    RECORD,
    num_paths,
    run_export,
    sensitive,
)

from genre_tl.model import networks
from genre_tl.serving import checks, export, predictor, saved_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A finished run, and what `tools.export` made of it."""
    folder = tmp_path_factory.mktemp("serving")
    run = types.SimpleNamespace(
        run_dir=folder / "run",
        saved_models=folder / "saved_models",
        base=folder / "saved_models" / "test",
        network=sensitive(
            networks.classifier(PRESET.model, num_paths(), len(LABELS), seed=3)
        ),
    )
    run.run_dir.mkdir()
    networks.save(run.network, run.run_dir / "model.keras")
    (run.run_dir / "run.json").write_text(json.dumps(RECORD), "utf-8")
    run.done = run_export(run)
    assert run.done.returncode == 0, run.done.stderr
    run.folder = run.base / "1"
    run.predictor = predictor.Predictor(run.base)
    run.model = run.predictor.runtime.model  # the first call takes seconds: share it
    return run


@pytest.fixture
def quick(monkeypatch):
    """Exports without a model: `quick(base)` publishes a folder with six files."""

    def save(trained, folder):
        (folder / "saved_model.pb").write_text("model")

    monkeypatch.setattr(saved_model, "save", save)
    monkeypatch.setattr(checks, "run", lambda *args: iter(["it is fine"]))
    network = networks.classifier(PRESET.model, 3, 2)

    def exported(base, labels=("a", "b"), **kwargs):
        trained = saved_model.TrainedModel(network, FRONTEND, labels)
        return export.export(trained, base, card={}, **kwargs)

    return exported
