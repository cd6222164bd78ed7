"""The whole way in miniature, by the tools as a person calls them."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def way(tmp_path_factory, root):
    """Runs every tool once; gives the folder and what each printed."""
    folder = tmp_path_factory.mktemp("way")
    printed = {}

    def run(tool, *arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", f"tools.{tool}", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        printed[tool] = done.stdout, done.stderr

    corpus = ("--num_tagged=96", "--clips_per_genre=3", "--clip_secs=3")
    run("make_demo_corpus", "--output_dir=corpus", *corpus)
    tagged = ("--data_dir=corpus/tagged", "--preset=tiny")
    run("extract_features", *tagged)
    run("pretrain", *tagged, "--min_positives=1")
    genres = ("--data_dir=corpus/genres", "--preset=tiny", "--num_folds=3")
    run("finetune", *genres, "--start=runs/pretrain")
    models = [f"--model={x}" for x in ("kernel", "finetune", "svm")]
    once = ("--num_repeats=1", "--max_epochs=1", "--start=runs/pretrain")
    run("cross_validate", *genres, *models, *once)
    run("evaluate", "--data_dir=corpus/genres")
    run("export")
    (folder / "broken.wav").write_bytes(b"no sound at all")
    clips = ("corpus/genres/genres_original/jazz", "broken.wav")
    output = ("--format=json", "--output=out.jsonl")
    run("predict", "--model=saved_models/genres", *clips, *output, code=1)
    return folder, printed


def test_features_are_computed_once(way):
    _, printed = way
    assert "96 new," in printed["extract_features"][0]
    assert "96 unchanged" in printed["pretrain"][0]


def test_runs_leave_pictures_and_say_what_comes_next(way):
    folder, printed = way
    pictures = {"pretrain": "curves.png", "finetune": "confusion.png"}
    for kind, picture in pictures.items():
        assert (folder / "runs" / kind / picture).stat().st_size > 1000
        assert "next:" in printed[kind][0]
    # A head in closed form has no epochs.
    assert "curves" not in printed["finetune"][0]
    assert "epoch" not in printed["finetune"][0]


def test_a_cross_validation_compares_methods_in_its_report(way):
    folder, printed = way
    report = (folder / "runs/cross_validation/report.md").read_text()
    for name in ("Gaussian-kernel head", "fine-tuned network", "SVM on mean frames"):
        assert f"| {name} |" in report and name in printed["cross_validate"][0]
    assert "kernel − finetune (points)" in report
    assert "![pre-training](pretraining.png)" in report


def test_evaluation_is_that_of_the_clips_held_out(way):
    folder, printed = way
    run = json.loads((folder / "runs/finetune/run.json").read_text())
    found = json.loads(
        (folder / "runs/finetune/evaluation/evaluation.json").read_text()
    )
    assert found["num_clips"] == 10
    assert found["accuracy"] == run["metrics"]["test"]["accuracy"]
    assert "balanced accuracy" in printed["evaluate"][0]
    assert (folder / "runs/finetune/evaluation/confusion.png").stat().st_size > 1000


def test_the_export_names_every_clip_and_the_broken_one(way):
    folder, printed = way
    assert (folder / "saved_models/genres/1/saved_model.pb").is_file()
    rows = [
        json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 4
    *clips, broken = rows
    for row in clips:
        assert len(row["scores"]) == 10
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert "not audio" in broken["error"]
    assert "broken.wav" in printed["predict"][1]
