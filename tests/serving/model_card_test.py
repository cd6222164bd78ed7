"""Which facts of a run its model card keeps."""

import json
import os
import shlex

import pytest

from genre_tl.serving import model_card

RECORD = {
    "kind": "finetune",
    "preset": {},
    "data": {"name": "folder"},
    "versions": {},
    "metrics": {},
}


def command_of(*argv):
    record = RECORD | {"command": shlex.join(argv)}
    return model_card.from_run(record, "x", "")["training"]["command"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--start=/home/alice/runs/x", "--start=x"),
        ("--start=../../home/alice/x", "--start=x"),
        ("--start=runs/../../alice/x/", "--start=x"),
        ("--extra=--start=/home/alice/x", "--extra=--start=x"),
        ("/home/alice/x", "x"),
        ("--data_dir=data/gtzan", "--data_dir=data/gtzan"),
        ("--data_dir=O'Brien's music", "--data_dir=O'Brien's music"),
        ("--data_dir=/", "--data_dir=/"),
        ("--learning_rate=1e-3", "--learning_rate=1e-3"),
        ("--nocurves", "--nocurves"),
    ],
)
def test_a_command_keeps_no_folder_of_the_machine(given, kept):
    assert shlex.split(command_of("finetune", given)) == ["finetune", kept]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/alice/genre_tl/tools/finetune.py", "python -m tools.finetune"),
        ("tools/finetune.py", "python -m tools.finetune"),
        ("/home/alice/.venv/bin/genre-tl-finetune", "genre-tl-finetune"),
        ("/home/al ice/genre-tl-finetune", "genre-tl-finetune"),
    ],
)
def test_a_program_is_named_without_its_folder(given, kept):
    assert command_of(given, "--seed=1") == f"{kept} --seed=1"


def test_a_name_that_is_no_valid_text_comes_through(tmp_path):
    name = os.fsdecode(b"\xffm\xc3\xbcsik")
    card = model_card.from_run(RECORD | {"command": name}, "x", "")
    model_card.write(tmp_path, card)
    text = (tmp_path / model_card.PATH).read_text("utf-8")
    assert json.loads(text).items() >= card.items() and "müsik" in text
    markdown = (tmp_path / model_card.PATH).with_suffix(".md")
    assert r"\udcffmüsik" in markdown.read_text("utf-8")


def test_a_confusion_matrix_has_a_line_for_each_genre_and_digests_are_named(tmp_path):
    record = RECORD | {
        "command": "x",
        "data": {
            "name": "demo",
            "labels": "0a1b",
            "audio": "2c3d",
            "train": ["a", "b"],
        },
        "metrics": {"test": {"accuracy": 0.5, "confusion": [[10, 0], [3, 7]]}},
    }
    model_card.write(tmp_path, model_card.from_run(record, "x", ""))
    text = (tmp_path / model_card.PATH).with_suffix(".md").read_text("utf-8")
    assert "        10     0\n" in text and "         3     7\n" in text
    assert "- Labels sha256: 0a1b\n" in text and "- Train: 2\n" in text
    assert "synthesised by this program" in text and "GTZAN" not in text
