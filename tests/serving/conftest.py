"""Exports that the tests of serving share."""

import json
import pathlib
import shutil
import types

import numpy as np
import pytest
import soundfile
from support.tiny_export import (
    FRONTEND,
    LABELS,
    PRESET,
    RECORD,
    music,
    num_paths,
    run_export,
    sensitive,
)

from genre_tl.model import familiarity, networks
from genre_tl.serving import (
    checks,
    export,
    onnx_export,
    predictor,
    runtimes,
    saved_model,
)

ROOT = pathlib.Path(__file__).parents[2]
GENRES = "blues classical country disco hiphop jazz metal pop reggae rock".split()


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
    # Most tests are of the SavedModel. Its first call takes seconds, so it is shared.
    run.predictor = predictor.Predictor(run.base)
    run.predictor.runtime = runtimes.TensorFlowRuntime(run.folder)
    run.model = run.predictor.runtime.model
    return run


@pytest.fixture(scope="session")
def genres():
    """A classifier of ten genres that knows its familiarity, as `tools.train` makes."""
    model = PRESET.model
    network = networks.classifier(model, num_paths(), len(GENRES), seed=3)
    known = familiarity.Familiarity(
        mean=np.zeros(model.embedding_units, np.float32),
        directions=np.zeros([model.embedding_units, 1], np.float32),
        variance=np.float32(1),
        segments=np.zeros([1, model.embedding_units], np.float32),
        centre=np.float32(0),
        spread=np.float32(4),
    )
    return saved_model.TrainedModel(sensitive(network), FRONTEND, GENRES, known=known)


@pytest.fixture(scope="session")
def deployment(genres, tmp_path_factory):
    """A folder with two versions of a SavedModel, an ONNX file, `docs` and songs."""
    folder = tmp_path_factory.mktemp("deployment")
    base = folder / "saved_models/genres"
    onnx_base = folder / "saved_models/genres-onnx"
    with pytest.MonkeyPatch.context() as patch:  # other tests check exports
        patch.setattr(checks, "run", lambda *args: iter(["not checked"]))
        patch.setattr(onnx_export, "_check", lambda *args: iter(["not checked"]))
        export.export(genres, base, card={})
        export.export(genres, onnx_base, card={}, write=onnx_export.write_onnx)
    (base / "2").symlink_to("1")  # loaded once
    shutil.copytree(ROOT / "docs/serving", folder / "docs/serving")
    for name in ("song.mp3", "song.wav"):
        soundfile.write(folder / name, music(60_000, 1), 16_000)
    return folder


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
