"""Networks of exported taggers, rebuilt to start a training from."""

import json
import os
import shutil

import numpy as np
import pytest
from support.tiny_export import FRONTEND, HOP, LABELS, PRESET, RECORD, num_paths

from genre_tl import params
from genre_tl.model import exported, networks, transfer
from genre_tl.serving import export, model_card, saved_model


def frames():
    shape = 2, 20, num_paths()
    return np.random.default_rng(0).normal(-4, 2, shape).astype("float32")


def tagger(model=PRESET.model):
    """A tagger whose weights are all different, and that has learned vectors."""
    network = networks.tagger(
        model, num_paths(), len(LABELS), num_vector_dims=4, seed=1
    )
    rng = np.random.default_rng(0)
    weights = [w + 0.1 * rng.normal(size=w.shape) for w in network.get_weights()]
    network.set_weights(weights)
    return networks.without_vectors(network)


def card(model=PRESET.model):
    preset = PRESET.to_dict() | {"model": vars(model)}
    record = RECORD | {"kind": "pretrain", "preset": preset}
    return model_card.from_run(record, "x", "abc")


def written(folder, model=PRESET.model):
    """Writes a version without the checks of an export; returns the network."""
    network = tagger(model)
    trained = saved_model.TrainedModel(network, FRONTEND, LABELS)
    saved_model.save(trained, folder)
    model_card.write(folder, card(model) | trained.facts())
    return network


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version of an exported tagger."""
    folder = tmp_path_factory.mktemp("exported") / "3"
    written(folder)
    return folder


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_tagger_is_read_as_it_was(tmp_path, half):
    network = networks.to_half(tagger()) if half else tagger()
    trained = saved_model.TrainedModel(network, FRONTEND, LABELS, half)
    folder = export.export(trained, tmp_path, card=card())
    again = exported.read_tagger(tmp_path)
    np.testing.assert_array_equal(again(frames()), network(frames()))
    size = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    per_weight = 2 if half else 4
    # What the front end stores is single in both.
    assert 0 <= size - per_weight * network.count_params() < 12_000


@pytest.mark.parametrize(
    ("cell", "readout", "units"),
    [
        ("gru", "last", 0),
        ("gru", "all", 0),
        ("lstm", "all", 5),
        ("bidirectional", "last", 5),
    ],
)
def test_taggers_of_every_kind_are_read(tmp_path, cell, readout, units):
    model = params.Model(
        num_layers=2, num_units=4, cell=cell, readout=readout, embedding_units=units
    )
    network = written(tmp_path, model)
    again = exported.read_tagger(tmp_path)
    np.testing.assert_allclose(again(frames()), network(frames()), atol=1e-6)


def test_the_newest_version_is_read(tmp_path, version):
    for name in ("3", "12", "old"):
        shutil.copytree(version, tmp_path / name)
    for name in ("3", "old"):
        (tmp_path / name / exported._CARD).write_text("{}")
    assert exported.is_export(tmp_path) and exported.is_export(version)
    assert exported.read_record(tmp_path)["kind"] == "pretrain"
    assert exported.read_tagger(tmp_path).name == "tagger"


def test_a_run_or_an_absent_folder_is_no_export(tmp_path):
    assert not exported.is_export(tmp_path / "absent")
    (tmp_path / "model.keras").touch()
    (tmp_path / "2024").mkdir()
    assert not exported.is_export(tmp_path)


def test_the_record_is_what_the_card_keeps_of_the_run(version):
    record = exported.read_record(version)
    assert record["model"] == "abc" and record["vocabulary"] == LABELS
    assert params.Preset.from_dict(record["preset"]) == PRESET
    for name in ("seed", "best_epoch", "metrics"):
        assert record[name] == RECORD[name]


@pytest.mark.parametrize("content", [None, "", "[1", "[]", "{}", '{"training": 1}'])
def test_a_missing_or_damaged_card_is_named_with_a_remedy(tmp_path, version, content):
    folder = shutil.copytree(version, tmp_path / "1")
    path = folder / exported._CARD
    path.unlink()
    if content is not None:
        path.write_text(content)
    for read in (exported.read_record, exported.read_tagger):
        with pytest.raises(ValueError, match=r"model_card\.json: not .*export the run"):
            read(tmp_path)


@pytest.mark.parametrize("change", ["more labels", "other sizes", "unknown setting"])
def test_a_card_that_does_not_fit_the_network_is_refused(tmp_path, version, change):
    folder = shutil.copytree(version, tmp_path / "1")
    facts = json.loads((folder / exported._CARD).read_text("utf-8"))
    model = facts["training"]["configuration"]["model"]
    if change == "more labels":
        facts["labels"].append("polka")
    elif change == "other sizes":
        model["num_layers"] = 3
    else:
        model["heads"] = 3
    (folder / exported._CARD).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="1: not a tagger that this version can read"):
        exported.read_tagger(tmp_path)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
@pytest.mark.parametrize("size", [None, 0, HOP])
def test_damaged_variables_are_refused(tmp_path, version, name, size):
    folder = shutil.copytree(version, tmp_path / "1")
    path = folder / "variables" / name
    path.unlink() if size is None else os.truncate(path, size)
    with pytest.raises(ValueError, match="1: not a tagger that this version can read"):
        exported.read_tagger(tmp_path)


def test_a_classifier_with_a_fitted_head_is_refused(tmp_path, version):
    # As if its card were that of a tagger.
    backbone = transfer.backbone(tagger())
    size = backbone.output_shape[-1]
    head = transfer.Head(np.zeros(size), np.ones(size), np.ones([size, 3]), np.ones(3))
    trained = saved_model.TrainedModel(
        transfer.with_head(backbone, head), FRONTEND, LABELS
    )
    saved_model.save(trained, tmp_path / "1")
    shutil.copytree(version / "assets.extra", tmp_path / "1" / "assets.extra")
    with pytest.raises(ValueError, match="1: not a tagger that this version can read"):
        exported.read_tagger(tmp_path)
