"""The starter: found in a clone and in a wheel, and used without --model."""

import json
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import soundfile
from support import starter_tree, tiny_export

from genre_tl import serving, starter
from genre_tl.serving import model_card, runtimes

FIND = "from genre_tl import starter; print(starter.folder())"


def python(*args, tree, cwd):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in tiny_export.files_of(folder)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A clone with a tiny starter, a note beside it and a song."""
    tree = tmp_path_factory.mktemp("clone")
    base = starter_tree.make(tree)
    (base / "README.md").write_text("a note")
    soundfile.write(tree / "song.flac", tiny_export.music(40_000, 7), 16_000)
    return tree


@pytest.fixture(scope="module")
def shipped():
    """The folder of the starter that ships."""
    try:
        return starter.folder()
    except FileNotFoundError as error:
        pytest.skip(f"NOT RUN WITH THE STARTER THAT SHIPS: {error}")


def test_a_clone_has_the_starter_among_the_saved_models(tree, tmp_path):
    done = python("-c", FIND, tree=tree, cwd=tmp_path)
    assert done.stdout == f"{tree}/saved_models/starter\n", done.stderr


def test_a_wheel_has_all_files_of_the_starter_and_finds_it(tree, tmp_path):
    build = *("-m", "build", "--wheel", "--no-isolation"), f"--outdir={tmp_path}"
    done = python(*build, tree=tree, cwd=tree)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = python("-c", FIND, tree=tmp_path / "site", cwd=tmp_path)
    found = tmp_path / "site" / "genre_tl" / "starter_model"
    assert done.stdout == f"{found}\n", done.stderr
    assert files_of(found / "1") == files_of(tree / "saved_models" / "starter" / "1")
    assert os.listdir(found) == ["1"]


def test_predict_without_a_model_uses_the_starter_and_prints_five_tags(tree):
    done = python("-m", "tools.predict", "song.flac", tree=tree, cwd=tree)
    path, tags = done.stdout.removesuffix("\n").split("  ")
    shares = dict(part.rsplit(" ", 2)[:2] for part in tags.split(", "))
    assert path == "song.flac" and len(shares) == 5
    assert set(shares) < set(starter_tree.TAGS)
    scores = [int(share) for share in shares.values()]
    assert scores == sorted(scores, reverse=True)
    said, count = done.stderr.splitlines()
    base = tree / "saved_models" / "starter"
    assert said == f"using the starter, {base}; --model gives another"
    assert count == "1 of 1 files"


def test_json_has_all_tags_of_the_starter(tree):
    command = "-m", "tools.predict", "--format=json", "song.flac"
    done = python(*command, tree=tree, cwd=tree)
    assert set(json.loads(done.stdout)["scores"]) == set(starter_tree.TAGS)


def predict_without(tree, cwd, *modules, flags=()):
    """Predicts the song where these modules cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}));"
        "from tools import predict; predict.cli()"
    )
    song = tree / "song.flac"
    return python("-c", program, *flags, "--format=json", song, tree=tree, cwd=cwd)


def test_the_starter_gives_the_same_tags_with_and_without_tensorflow(tree, tmp_path):
    light = predict_without(tree, tmp_path, "tensorflow", "keras")
    usual = predict_without(tree, tmp_path, "onnxruntime")
    assert "using the starter" in light.stderr, light.stderr
    found, expected = (json.loads(x.stdout)["scores"] for x in (light, usual))
    assert max(expected.values()) - min(expected.values()) > 0.01
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_starter_needs_one_of_the_runtimes(tree, tmp_path):
    done = predict_without(tree, tmp_path, "tensorflow", "onnxruntime")
    assert done.returncode == 1
    assert "install onnxruntime" in done.stderr and done.stderr.count("error: ") == 1


def test_the_starter_is_exported_again_as_an_onnx_file_with_all_its_weights(tree):
    command = "tools.export", "--run_dir=starter", "--name=tags", "--format=onnx"
    done = python("-m", *command, "--half", tree=tree, cwd=tree)
    assert done.returncode == 0, done.stderr
    folder = tree / "saved_models" / "tags-onnx" / "1"
    assert model_card.read(folder)["name"] == "tags"
    alone = tree / "alone.onnx"
    alone.write_bytes((folder / "model.onnx").read_bytes())
    wave = tiny_export.music(40_000, 7)[np.newaxis]
    base = tree / "saved_models" / "starter" / "1"
    found, expected = (
        runtimes.OnnxRuntime(path).answers(wave)["scores"]
        for path in (alone, base / "model.onnx")
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("predict", "x.wav"), 1),
        (("explore",), 1),
        (("finetune", "--start=starter"), 2),
    ],
)
def test_without_a_starter_the_message_says_how_to_get_one(tmp_path, command, code):
    for name in ("genre_tl", "tools"):
        (tmp_path / name).symlink_to(starter_tree.ROOT / name)
    name, *args = command
    done = python("-m", f"tools.{name}", *args, tree=tmp_path, cwd=tmp_path)
    assert done.returncode == code
    assert "there is no starter; make it with `make starter`" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_starter_that_ships_is_small_and_its_card_states_what_it_is(shipped):
    (version,) = (path for path in shipped.iterdir() if path.name.isdigit())
    stored = map(zlib.compress, files_of(version).values())  # as git stores them
    assert sum(map(len, stored)) <= 20e6
    card = model_card.read(version)
    assert card["training"]["kind"] == "pretrain"
    for fact in ("intended_use", "limits", "data", "licence_of_the_data", "metrics"):
        assert card[fact], fact
    assert len(card["labels"]) >= 200


def test_the_starter_that_ships_scores_sound_and_knows_silence(shipped, tmp_path):
    model = serving.Predictor(shipped)
    scores = model.scores([tiny_export.music(80_000, 1)])
    assert model.is_tagger and np.isfinite(scores).all()
    assert scores.shape == (1, len(model.labels)) and np.ptp(scores) > 0.01
    soundfile.write(tmp_path / "silent.wav", np.zeros(80_000), 16_000)
    (result,) = serving.predict(model, [str(tmp_path / "silent.wav")])
    assert "no sound" in result.note


def test_the_starter_that_ships_hears_the_genre_of_real_music(shipped, shared):
    """By its soft tags, on 35 clips that it was not trained on; chance is 0.2."""
    model = serving.Predictor(shipped)
    genres = ["jazz", "metal", "country", "blues", "hiphop"]
    tags = ["msd:jazz", "msd:metal", "msd:country", "msd:blues", "msd:hip-hop"]
    columns = [model.labels.index(tag) for tag in tags]
    clips = (shared / "data" / "gtzan" / "genres_original").glob("*/*.wav")
    clips = sorted(path for path in clips if path.parent.name in genres)
    results = serving.predict(model, [str(path) for path in clips])
    best = np.array([x.scores for x in results])[:, columns].argmax(axis=1)
    truth = [genres.index(path.parent.name) for path in clips]
    assert np.mean(best == truth) > 0.5
