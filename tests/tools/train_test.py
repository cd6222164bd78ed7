"""`tools.train`: from folders of music to an exported classifier."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support import starter_tree

from genre_tl import serving
from genre_tl.serving import model_card

RATE_HZ = 8_000
NUM_CLIPS = 12


def clip(genre, seed):
    """A second of noise, or of a low tone."""
    chance = np.random.default_rng(seed)
    if genre == "noise":
        return chance.uniform(-0.5, 0.5, RATE_HZ)
    hertz = chance.uniform(90, 120)
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(RATE_HZ) / RATE_HZ)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    for index in range(NUM_CLIPS):
        genre, suffix = ("noise", "tone")[index % 2], ("wav", "flac")[index // 2 % 2]
        path = folder / "music" / genre / f"album {index // 4}" / f"{index}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clip(genre, index), RATE_HZ)
    (folder / "music" / "noise" / "broken.mp3").write_bytes(b"no sound" * 99)
    for name in ("a.mid", "b.mid", "cover.jpg"):
        (folder / "music" / "tone" / name).write_bytes(b"something")
    return folder


def tool(name, folder, root, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"tools.{name}", "--data_dir=music", *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


def train(folder, root):
    return tool("train", folder, root, "--name=mine", "--preset=tiny", "--folds=2")


@pytest.fixture(scope="module")
def trained(folder, root):
    return train(folder, root)


def files_of(folder):
    """Returns all files and their times, except summaries that each call writes."""
    summary = {"lock", "settings.json", "report.md", "report.json"}
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*.*")
        if path.is_file() and path.name not in summary and path.suffix != ".png"
    }


def test_one_command_goes_from_folders_to_an_export(folder, trained):
    assert trained.returncode == 0, trained.stderr
    for tool in ("extract_features", "cross_validate", "finetune", "export"):
        assert f"$ python -m tools.{tool} " in trained.stdout
    assert f"{NUM_CLIPS} new," in trained.stdout
    assert "failed: noise/broken.mp3: not audio" in trained.stdout
    assert "skipped: tone/a.mid and 1 more: unsupported format .mid" in trained.stdout
    assert "skipped: tone/cover.jpg: unsupported format .jpg" in trained.stdout
    report = (folder / "runs/mine_cross_validation/report.md").read_text()
    assert "accuracy" in report
    *_, in_words, where = trained.stdout.splitlines()
    assert in_words.startswith("About ") and "of 10 right" in in_words
    assert where.startswith("report: ") and where.endswith(
        "_cross_validation/report.md"
    )
    card = model_card.read(folder / "saved_models/mine/1")
    assert f"{card['cross_validation']['text']}." == in_words.replace("A", "a", 1)
    assert (folder / "saved_models/mine/1/saved_model.pb").is_file()


def test_the_export_labels_new_clips(folder, trained, tmp_path):
    model = serving.Predictor(folder / "saved_models/mine")
    assert model.labels == ("noise", "tone")
    expected = ["noise", "tone", "tone", "noise"]
    paths = [str(tmp_path / f"{index}.wav") for index in range(4)]
    for index, path in enumerate(paths):
        soundfile.write(path, clip(expected[index], 100 + index), RATE_HZ)
    results = serving.predict(model, paths)
    best = [model.labels[result.scores.argmax()] for result in results]
    assert best == expected


def test_rerunning_the_command_changes_no_file(folder, trained, root):
    before = files_of(folder)
    again = train(folder, root)
    assert again.returncode == 0, again.stderr
    assert f"{NUM_CLIPS} unchanged" in again.stdout
    assert files_of(folder) == before


def folds_of(folder, name):
    """Returns the lines of a cross-validation, without their times."""
    paths = sorted((folder / f"runs/{name}_cross_validation/folds").glob("*.json"))
    return [json.loads(path.read_text()) | {"secs": 0} for path in paths]


def test_several_processes_give_the_same_folds(folder, trained, root):
    flags = "--name=divided", "--preset=tiny", "--folds=2", "--workers=2"
    done = tool("train", folder, root, *flags)
    assert done.returncode == 0, done.stderr
    commands = [x for x in done.stdout.splitlines() if x.startswith("$ ")]
    assert [" --workers=2 " in f"{x} " for x in commands] == [True, True, False, False]
    assert folds_of(folder, "divided") == folds_of(folder, "mine") != []


def test_the_card_has_calibration_and_thresholds_and_they_are_used(folder, trained):
    card = model_card.read(folder / "saved_models/mine/1")
    assert 0.05 <= card["calibration"]["scale"] <= 20
    assert set(card["thresholds"]["0.9"]["genres"]) == {"noise", "tone"}
    model = serving.Predictor(folder / "saved_models/mine")
    (result,) = serving.predict(model, [str(next(folder.rglob("0.wav")))])
    assert 0 <= result.familiarity <= 1


def test_more_music_makes_the_next_version(folder, root, tmp_path):
    flags = "--name=more", "--preset=tiny", "--folds=0"
    music = tmp_path / "music"
    shutil.copytree(folder / "music", music)
    (music / "noise/broken.mp3").unlink()
    assert tool("train", tmp_path, root, *flags).returncode == 0
    (music / "noise/album 0/0.wav").rename(music / "tone/album 0/0.wav")
    soundfile.write(music / "tone/new.wav", clip("tone", 99), RATE_HZ)
    again = tool("train", tmp_path, root, *flags)
    assert again.returncode == 0, again.stderr
    assert "files added: 1 (tone/new.wav)" in again.stdout
    moved = "tone/album 0/0.wav: noise → tone"
    assert f"files of another genre: 1 ({moved})" in again.stdout
    assert f"{NUM_CLIPS - 1} unchanged" in again.stdout
    assert (tmp_path / "runs/more.1/model.keras").is_file()
    versions = tmp_path / "saved_models/more"
    assert {x.name for x in versions.iterdir() if x.name.isdigit()} == {"1", "2"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A source tree with a tiny starter."""
    tree = tmp_path_factory.mktemp("tree")
    starter_tree.make(tree)
    return tree


def test_training_starts_from_the_starter_and_exports_a_classifier(folder, tree):
    flags = "--name=from_starter", "--preset=tiny", "--folds=2"
    done = tool("train", folder, tree, *flags)
    assert done.returncode == 0, done.stderr
    start = f"{tree}/saved_models/starter"
    assert done.stdout.startswith(f"starting from {start}, the starter (--start=none")
    assert done.stdout.count(f" --start={start} ") == 2
    assert "--model=transfer" in done.stdout
    model = serving.Predictor(folder / "saved_models/from_starter")
    assert model.labels == ("noise", "tone") and not model.is_tagger


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start=none"], "None\n"),
        (["--start=a/run"], "a/run"),
        (["--start=starter"], "{tree}/saved_models/starter"),
        (["--J=8"], "None: the starter has another front end or network"),
        (["--preset=paper"], "None: the starter has another front end"),
        (["--extra=--units=8"], "None: --extra changes the network"),
        (["--extra=--max_epochs=2"], "{tree}/saved_models/starter, the starter"),
    ],
)
def test_the_starter_is_the_start_unless_another_is_given_or_it_does_not_fit(
    folder, tree, flags, message
):
    code = "import sys; from tools import train; train.FLAGS(sys.argv)"
    code += "; print(*train._start(), sep='')"
    done = subprocess.run(
        [sys.executable, "-c", code, "--preset=tiny", *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(message.format(tree=tree)), done.stderr


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train", ["--folds=7"], "Use --folds=0 to skip cross-validation"),
        ("train", ["--name=../mine"], "use letters, digits"),
        ("train", ["--start=runs/none"], "run.json: missing, so there is no finished"),
        ("finetune", ["--start=runs/none"], "run.json: missing, so there is no"),
        ("finetune", ["--num_folds=7"], "7 folds need 7"),
        ("cross_validate", ["--num_folds=7"], "7 folds need 7"),
        ("cross_validate", ["--model=transfer"], "the others need it"),
        ("cross_validate", ["--split=fault_filtered"], "train_filtered.txt"),
        (
            "cross_validate",
            ["--model=transfer", "--start=runs/none", "--num_folds=2"],
            "run.json: missing",
        ),
        (
            "cross_validate",
            ["--start=runs/none"],
            "have no use for --start",
        ),
        ("cross_validate", ["--max_epochs=0"], "max_epochs=0"),
        ("finetune", ["--units=0"], "units=0"),
        ("finetune", ["--cell=rnn"], "cell"),
        ("finetune", ["--method=other"], "method"),
        ("pretrain", [], "pre-training takes tags, not genres"),
    ],
)
def test_errors_are_reported_before_features_are_extracted(
    folder, root, tmp_path, name, flags, message
):
    store = f"--features_dir={tmp_path / 'features'}"
    done = tool(name, folder, root, store, *flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_labels_that_cannot_be_exported_are_refused_before_the_work(
    folder, root, tmp_path, name
):
    paths = sorted(path for path in (folder / "music").rglob("*.wav"))
    rows = [f"{path},label \x1b{index % 2}" for index, path in enumerate(paths)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    store = f"--features_dir={tmp_path / 'features'}"
    done = tool(name, folder, root, store, f"--table={tmp_path / 'table.csv'}")
    assert done.returncode == 1
    assert (
        r"label 'label \x1b0' is empty, not valid UTF-8 or has control" in done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
