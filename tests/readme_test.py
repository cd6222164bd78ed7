"""The documents: snippets run, links and flags exist."""

import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile

import genre_tl
from genre_tl import features, params
from genre_tl.model import networks

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
EPOCHS = "steps_per_epoch=2, epochs=15, verbose=0"


@pytest.fixture
def snippets(root):
    text = (root / "README.md").read_text(encoding="utf8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_scattering_layer_is_part_of_a_network(snippets, capsys):
    values = {}
    exec(snippets[0], values)
    shape = values["model"].output_shape
    assert capsys.readouterr().out == f"(2, {shape[1]})\n"


def test_a_pre_trained_network_gets_a_new_head_and_learns_from_audio_files(
    snippets, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny = params.PRESETS["tiny"]
    model = dataclasses.replace(tiny.model, readout="last")
    paper = dataclasses.replace(tiny, model=model)
    monkeypatch.setattr(params, "PRESETS", {"paper": paper})
    layer = features.LogScattering.from_params(tiny.frontend)
    num_paths = layer.compute_output_shape((None, tiny.frontend.segment_samples))[-1]
    pathlib.Path("runs/pretrain").mkdir(parents=True)
    tagger = networks.tagger(model, num_paths, num_tags=5)
    networks.save(tagger, "runs/pretrain/model.keras")
    paths, labels = [], np.arange(16) % 2
    rng = np.random.default_rng(0)
    for index, label in enumerate(labels):
        paths.append(f"{index}.flac")
        noise = rng.uniform(-0.5, 0.5, 20_000)
        soundfile.write(paths[-1], np.cumsum(noise) / 50 if label else noise, 22_050)

    values = {"paths": paths, "labels": labels}
    exec(snippets[1], values)
    network = values["network"]
    assert isinstance(network, keras.Sequential) and network.output_shape[1] == 10
    old, new = tagger.get_weights()[:-2], network.get_weights()[:-2]
    assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    exec(snippets[2].replace("steps_per_epoch=100, epochs=2", EPOCHS), values)
    losses = values["model"].history.history["loss"]
    assert losses[-1] < losses[0] / 2
    assert len(snippets) == 3


def text_of(path):
    return (ROOT / path).read_text(encoding="utf8")


def test_the_map_names_every_package_and_module_at_the_top():
    section = text_of("README.md").split("## Map")[1].split("\n## ")[0]
    for path in (ROOT / "genre_tl").glob("[!_]*"):
        assert f"{path.name}`" in section, path


def test_the_readme_has_at_most_150_lines():
    assert len(text_of("README.md").splitlines()) <= 150


def anchor(heading):
    """Returns what a link to a heading ends in, as hosts of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, heading = link.partition("#")
        if re.match(r"\w+:", name):
            continue
        target = path.parent / name if name else path
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf8"), re.MULTILINE)
            assert heading in map(anchor, headings), link


@functools.cache
def flags_of(tool):
    """Returns the names of a tool's flags, from a process of its own."""
    code = f"from absl import flags; from tools import {tool}; print(*flags.FLAGS)"
    command = [sys.executable, "-c", code]
    return set(subprocess.check_output(command, cwd=ROOT, text=True).split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_tools_and_flags_that_exist(path):
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf8"))
    for tool, rest in re.findall(r"python -m tools\.(\w+)([^`\n]*)", text):
        given = re.findall(r"(?<=\s)--(\w+)", rest)
        assert set(given) <= flags_of(tool), (tool, rest)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_snippets_import_what_exists(path):
    text = path.read_text(encoding="utf8")
    for line in re.findall(r"^(?:from|import) genre_tl.*$", text, re.MULTILINE):
        exec(line, {})


def test_the_citation_names_the_version_of_the_package():
    version = re.search(r"^version: (\S+)$", text_of("CITATION.cff"), re.MULTILINE)
    assert version[1] == genre_tl.__version__
