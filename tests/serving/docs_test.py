"""Every example of docs/serving.md and docs/runtimes.md, run as it is written.

Servers are a stand-in for TensorFlow Serving (`support.tf_serving`) that a `docker`
line starts; of the text, only the numbers of its ports are replaced.
"""

import configparser
import contextlib
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import yaml
from support import containers
from support.tiny_export import RECORD

from genre_tl.model import networks
from genre_tl.serving import export, tflite_and_keras

ROOT = pathlib.Path(__file__).parents[2]
NOT_RUN = "pip install"  # a test of its own compares what it names with setup.cfg
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def examples():
    """Yields each example with the answer below it and the server before it."""
    for name in ("serving", "runtimes"):
        text = (ROOT / "docs" / f"{name}.md").read_text("utf8")
        blocks, docker = BLOCK.findall(text), None
        assert text.count("```") == 2 * len(blocks)
        assert {kind for kind, _ in blocks} <= {"sh", "python", "json"}
        for number, (kind, code) in enumerate(blocks):
            line = re.search(r"^docker .*", code.replace("\\\n", ""), re.MULTILINE)
            docker = line[0] if line else docker
            follows = blocks[number + 1 : number + 2]
            answer = follows[0][1] if follows and follows[0][0] == "json" else None
            if kind != "json":
                yield pytest.param(kind, code, answer, docker, id=f"{name}-{number}")
            else:
                assert blocks[number - 1][0] == "sh"


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def place(deployment, genres):
    """The folder of the deployment, with what else the examples name."""
    for name, write in (
        ("tflite", tflite_and_keras.write_tflite),
        ("keras", tflite_and_keras.write_keras),
    ):
        base = deployment / f"saved_models/genres-{name}"
        export.export(genres, base, card={}, write=write)
    run = deployment / "exporting/runs/finetune"
    run.mkdir(parents=True)
    networks.save(genres.network, run / "model.keras")
    (run / "run.json").write_text(json.dumps({**RECORD, "vocabulary": genres.labels}))
    (deployment / "albums").mkdir()
    shutil.copy(deployment / "song.wav", deployment / "albums")
    (deployment / "bin").mkdir()
    for name, command in (
        ("docker", "true"),
        ("python", f'"{sys.executable}" "$@"'),
        ("genre-tl-predict", f'"{sys.executable}" -m tools.predict "$@"'),
    ):
        program = deployment / "bin" / name
        program.write_text(f"#!/bin/sh\nexec {command}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return deployment


@pytest.fixture(scope="module")
def ported(place):
    """A function: an example and the `docker` line before it -> with real ports."""
    servers = {}
    with contextlib.ExitStack() as stack:

        def replaced(code, docker):
            if docker not in servers:
                servers[docker] = stack.enter_context(containers.start(docker, place))
            rest, remote = servers[docker].rest_port, servers[docker].grpc_port
            code = code.replace("localhost:8501", f"localhost:{rest}")
            return code.replace("localhost:8500", f"localhost:{remote}")

        yield replaced


def shape_of(value):
    """Returns names and types in JSON, of the first element of a list."""
    if isinstance(value, dict):
        return {name: shape_of(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape_of(each) for each in value[:1]]
    return float if isinstance(value, (int, float)) else type(value)


@pytest.mark.parametrize("kind, code, answer, docker", EXAMPLES)
def test_an_example_runs_as_written(
    kind, code, answer, docker, place, ported, monkeypatch
):
    if docker:
        code = ported(code, docker)
    monkeypatch.chdir(place)
    if kind == "python":
        return run_python(code)
    if "tools.export" in code:
        monkeypatch.chdir(place / "exporting")
    lines = [x for x in code.splitlines() if not re.match(NOT_RUN, x)]
    found = run_shell("\n".join(lines), place)
    if answer:
        found, expected = json.loads(found), json.loads(answer)
        if "error" in expected:
            assert found["error"].startswith(expected["error"].removesuffix("..."))
        else:
            assert shape_of(found) == shape_of(expected)
    else:
        assert '"error"' not in found
    if "tools.export" in code:
        assert pathlib.Path("saved_models/genres/1/saved_model.pb").is_file()


def run_shell(code, place):
    if "curl" in code and not shutil.which("curl"):
        pytest.skip("NOT RUN: there is no curl")
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "curl" in code:
        assert done.stdout.strip()
    return done.stdout


def run_python(code):
    for name in ("ai_edge_litert", "onnxruntime"):
        if name in code:
            pytest.importorskip(name, reason=f"NOT RUN: {name} is not installed")
    values = {}
    exec(code, values)
    labels = pathlib.Path("saved_models/genres/1/assets/labels.txt").read_text()
    assert values.get("best", "jazz") in labels.splitlines()
    if "scores" in values and "response" in values:
        assert values["scores"].shape == (1, len(labels.splitlines()))
    if "scores_over_time" in values:
        assert len(values["times"]) == len(values["scores_over_time"])
        assert not np.isnan(values["scores"]).any()


def test_both_ways_of_starting_a_server_publish_the_same_image_and_ports():
    commands = dict.fromkeys(each.values[3] for each in EXAMPLES if each.values[3])
    run, compose = commands
    path = ROOT / "docs/serving/compose.yaml"
    service = yaml.safe_load(path.read_text("utf8"))["services"]["serving"]
    assert compose == "docker compose -f docs/serving/compose.yaml up -d"
    assert run.split()[-1] == service["image"]
    assert all(f"-p {ports}" in run for ports in service["ports"])


def test_what_is_installed_by_hand_is_what_the_package_requires():
    table = configparser.ConfigParser()
    table.read(ROOT / "setup.cfg", encoding="utf8")
    required = table["options"]["install_requires"]
    extras = table["options.extras_require"]
    codes = "\n".join(each.values[1] for each in EXAMPLES)
    (by_hand,) = re.findall(r"^pip install (\w.*)$", codes, re.MULTILINE)
    for name in by_hand.split():
        assert re.search(rf"^{name}\b", required, re.MULTILINE), name
    texts = [(ROOT / f"docs/{x}.md").read_text("utf8") for x in ("serving", "runtimes")]
    named = re.findall(r"pip install '\.\[(\w+)\]'", "".join(texts))
    assert named and set(named) <= set(extras)


def test_the_page_of_serving_is_short():
    assert len((ROOT / "docs/serving.md").read_text("utf8").splitlines()) <= 150
