"""What the documents say can be done as they say it."""

import pathlib
import re

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import genre_tl
from genre_tl import params
from genre_tl.model import networks
from genre_tl.serving import prediction
from tools import result_formats

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SHARED_FLAGS = ("data_flags", "run_flags")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the snippets name."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.mp3", np.zeros(16_000), 16_000, format="MP3")
    tiny = params.PRESETS["tiny"].model
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    networks.save(networks.tagger(tiny, 7, 5), "runs/pretrain/model.keras")
    names = ["blues", "rock"]

    @tf.function(input_signature=[tf.TensorSpec([None, None], name="waveform")])
    def serve(waveform):
        scores = tf.tile([[0.25, 0.75]], [tf.shape(waveform)[0], 1])
        return {"scores": scores, "classes": tf.tile([names], [tf.shape(scores)[0], 1])}

    module = tf.Module()
    module.labels = tf.function(lambda: tf.constant(names), input_signature=[])
    tf.saved_model.save(module, "saved_models/mine/1", {"serving_default": serve})
    return tmp_path


@pytest.fixture
def snippets(root):
    text = (root / "README.md").read_text(encoding="utf8")
    section = text.split("## Keras and NumPy API")[1].split("\n## ")[0]
    found = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(found) == text.count("```python") == 3
    return found


def test_a_model_labels_a_file(place, snippets, capsys):
    exec(snippets[0], {})
    assert capsys.readouterr().out == "rock\n"


def test_the_scattering_layer_stands_in_a_network(snippets, capsys):
    values = {}
    exec(snippets[1], values)
    assert (
        capsys.readouterr().out
        == f"{values['model'].output_shape}".replace("None", "2") + "\n"
    )


def test_a_backbone_learns_with_ones_own_head_and_loop(place, snippets):
    rng = np.random.default_rng(0)
    genres = np.arange(32) % 4
    frames = rng.normal(0, 0.1, [32, 9, 7]) + 2 * np.eye(4, 7)[genres][:, np.newaxis]
    values, losses = {}, []

    def batches():
        for _ in range(6):
            yield frames.astype(np.float32), genres
            losses.append(float(tf.reduce_mean(values["losses"])))

    values["batches"] = batches()
    exec(snippets[2], values)
    assert losses[-1] < losses[0] - 0.1
    assert isinstance(values["backbone"], keras.Model)


def text_of(path):
    return (ROOT / path).read_text(encoding="utf8")


def test_the_file_map_names_every_module():
    section = text_of("README.md").split("## What is where")[1].split("\n## ")[0]
    named = set(re.findall(r"(\w+\.py)`", section))
    modules = {path.name for path in (ROOT / "genre_tl").glob("*.py")}
    assert named == modules - {"__init__.py"}


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


def flags_of(tool):
    """Returns the names of the flags that a tool and what it shares define."""
    text = text_of(f"tools/{tool}.py")
    shared = [text_of(f"tools/{name}.py") for name in SHARED_FLAGS if name in text]
    return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', "".join([text, *shared])))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_tools_and_flags_that_exist(path):
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf8"))
    for tool, rest in re.findall(r"python -m tools\.(\w+)([^`\n]*)", text):
        given = re.findall(r"(?<=\s)--(\w+)", rest)
        assert set(given) <= flags_of(tool), (tool, rest)


def test_the_citation_names_the_version_of_the_package():
    version = re.search(r"^version: (\S+)$", text_of("CITATION.cff"), re.MULTILINE)
    assert version[1] == genre_tl.__version__


def test_the_script_sorts_files_by_what_predict_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", text_of("docs/own_music.md"), re.S)
    scores = {"albums/a/1.mp3": [0.9, 0.1], "albums/b/1.mp3": [0.2, 0.8]}
    table = result_formats.Writer("csv", ["dub", "techno"])
    text = table.head()
    for name, values in scores.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
        text += table.text(prediction.Result(name, scores=np.array(values)))
    broken = prediction.Result("albums/broken.mp3", None, error="it is not audio")
    (tmp_path / "scores.csv").write_text(text + table.text(broken), "utf8")
    exec(script, {})
    found = {
        p.relative_to("sorted").as_posix() for p in pathlib.Path("sorted").rglob("*.*")
    }
    assert found == {"dub/a/1.mp3", "techno/b/1.mp3"}
    assert (tmp_path / "sorted/dub/a/1.mp3").read_text() == "albums/a/1.mp3"
