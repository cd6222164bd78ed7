"""What the page of `tools.explore` is answered, without a browser."""

import contextlib
import csv
import errno
import functools
import io
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from support import explored, tiny_tagger

from genre_tl.serving import predictor
from tools import explore_app, outputs, retraining

FILES = {"a.wav": "noise", "b.wav": "tone", "c.wav": "noise", "d.wav": "tone"}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return tiny_tagger.save(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for seed, (name, genre) in enumerate(FILES.items()):
        tiny_tagger.write(folder / name, genre, seed)
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _loaded_once():
    """Loads a model once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        loaded = functools.cache(predictor.Predictor)
        patch.setattr(predictor, "Predictor", loaded)
        yield


@pytest.fixture
def app(tagger, music, tmp_path):
    application = explore_app.Application(str(tagger), f"{tmp_path}/work", str(music))
    explored.wait(application)
    with contextlib.closing(application):
        yield application


def label(application):
    application.posts["label"]()
    return explored.wait(application)


def rows(application, **query):
    query = {"order": "path", "descending": "0", "text": "", "genre": ""} | query
    return application.gets["rows"](count="100", **query)["rows"]


def upload(application, content, name, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(content)
    application.take(str(path), name)
    return explored.wait(application)


def test_the_empty_state_says_which_model_and_collection(app, music):
    state = app.gets["state"]()
    assert state["model"]["name"] == "tagger version 1" and state["model"]["is_tagger"]
    assert state["collection"]["num_waiting"] == len(FILES)
    assert state["collection"]["folder"] == str(music)
    assert state["collection"]["num_labelled"] == 0 and rows(app) == []


def test_a_state_is_no_older_than_its_revision(app, monkeypatch):
    worker = app._worker
    counts = worker.catalogue.counts

    def label_one_meanwhile():
        found = counts()
        worker.revision += 1
        return found

    worker.revision += 1
    monkeypatch.setattr(worker.catalogue, "counts", label_one_meanwhile)
    before = worker.revision
    assert app.gets["state"]()["revision"] == before < worker.revision


def test_a_collection_that_is_gone_gets_a_reason(tagger, tmp_path):
    application = explore_app.Application(
        str(tagger), f"{tmp_path}/work", f"{tmp_path}/gone"
    )
    with contextlib.closing(application):
        state = explored.wait(application)
        assert f"{tmp_path}/gone" in state["message"]
        assert not state["collection"]["is_looking"]


def test_a_folder_that_cannot_be_entered_is_a_row(tagger, tmp_path, monkeypatch):
    tiny_tagger.write(tmp_path / "music" / "a.wav", "tone", 0)
    tiny_tagger.write(tmp_path / "music" / "artist" / "b.wav", "tone", 1)
    scandir = os.scandir

    def closed(path):
        if os.path.basename(path) == "artist":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    application = explore_app.Application(
        str(tagger), f"{tmp_path}/work", f"{tmp_path}/music"
    )
    with contextlib.closing(application):
        explored.wait(application)
        label(application)
        reasons = {row["name"]: row["error"] for row in rows(application)}
        assert reasons["a.wav"] == "" and reasons["artist"]


def test_a_collection_is_labelled_as_predict_does(app, music, tagger):
    state = label(app)
    assert state["collection"]["num_labelled"] == len(FILES)
    assert state["collection"]["num_waiting"] == 0
    assert [row["name"] for row in rows(app)] == list(FILES)
    model = predictor.Predictor(str(tagger))
    writer = outputs.Writer("csv", model.labels)
    results = predictor.predict(model, [str(music / name) for name in FILES])
    expected = writer.head() + "".join(map(writer.text, results))
    assert app.gets["export"]() == expected
    assert next(csv.DictReader(io.StringIO(expected)))["path"] == str(music / "a.wav")


def test_rows_are_sorted_and_filtered(app):
    label(app)
    scores = [row["score"] for row in rows(app, order="score")]
    assert scores == sorted(scores, reverse=True)
    assert scores[::-1] == [
        row["score"] for row in rows(app, order="score", descending="1")
    ]
    assert [row["name"] for row in rows(app, text="C.W")] == ["c.wav"]
    best = rows(app)[0]["genre"]
    assert all(row["genre"] == best for row in rows(app, genre=best))


def test_an_upload_is_kept_and_one_that_is_no_audio_gets_a_reason(app, tmp_path):
    content = io.BytesIO()
    soundfile.write(content, tiny_tagger.sound("tone", 9), 8_000, format="WAV")
    upload(app, content.getvalue(), "album/new.wav", tmp_path)
    upload(app, b"no audio", "../../etc/x?.wav", tmp_path)
    good, bad = rows(app)
    if good["error"]:
        good, bad = bad, good
    assert good["name"] == "album/new.wav" and good["score"] > 0
    assert "not audio" in bad["error"] and bad["name"] == "etc/x?.wav"
    kept = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(app.upload_folder)
        for name in names
    ]
    assert [os.path.basename(path) for path in kept] == ["new.wav"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("../../a.wav", ["a.wav"]),
        ("..\\..\\a.wav", ["a.wav"]),
        ("/etc/passwd", ["etc", "passwd"]),
        ("a/b/c/d/e.wav", ["c", "d", "e.wav"]),
        ("", ["recording"]),
        ("..", ["recording"]),
        ("a\0b\n.wav", ["a_b_.wav"]),
        ("é" * 200 + ".wav", ["é" * 58 + ".wav"]),
    ],
)
def test_no_name_of_an_upload_leads_out_of_its_folder(name, parts):
    assert explore_app._safe_parts(name) == parts


def test_only_files_of_the_catalogue_are_sent(app, music):
    label(app)
    sent = app.gets["audio"](rows(app)[0]["id"])
    assert (sent.path, sent.kind) == (str(music / "a.wav"), "audio/x-wav")
    for path in ("/etc/passwd", str(music / "notes.txt"), f"{music}/../music/a.wav"):
        with pytest.raises(ValueError, match="no such file"):
            app.gets["audio"](explore_app._id(path))


def test_a_format_that_browsers_do_not_play_is_sent_as_wav(app, tmp_path):
    content, stereo = io.BytesIO(), np.stack([tiny_tagger.sound("tone", 3)] * 2, 1)
    soundfile.write(content, stereo, 8_000, format="AIFF")
    upload(app, content.getvalue(), "a.aiff", tmp_path)
    sent = app.gets["audio"](rows(app)[0]["id"], wav="1")
    found, rate_hz = soundfile.read(sent.path)
    assert rate_hz == 8_000 and sent.kind == "audio/wav"
    np.testing.assert_allclose(found, stereo, atol=1e-4)


def test_corrections_are_kept_over_a_restart_and_can_be_undone(
    app, tagger, music, tmp_path
):
    label(app)
    before = app.gets["review"]("doubt")
    first, second, third, _ = before["rows"]
    assert not before["can_undo"] and before["total"] == 4
    app.posts["correct"](first["id"], "dub")
    app.posts["correct"](second["id"], second["genre"])
    app.posts["skip"](third["id"])
    again = explore_app.Application(str(tagger), f"{tmp_path}/work", str(music))
    with contextlib.closing(again):
        explored.wait(again)
        found = again.gets["review"]("doubt")
        assert found["total"] == 1 and found["num_corrections"] == 2
        given = {row["name"]: row["truth"] for row in rows(again)}
        assert (
            given[first["name"]] == "dub" and given[second["name"]] == second["genre"]
        )
        assert again.posts["undo"]()["id"] == third["id"]
        again.posts["undo"]()
        again.posts["undo"]()
        assert again.gets["review"]("doubt")["total"] == 4
        with pytest.raises(ValueError, match="nothing to undo"):
            again.posts["undo"]()


def test_similar_files_and_the_map_are_of_the_collection(app):
    label(app)
    for row in rows(app):
        found = app.gets["similar"](row["id"])["rows"]
        assert {each["name"] for each in found} == {*FILES} - {row["name"]}
        assert FILES[found[0]["name"]] == FILES[row["name"]]
    points = app.computations["map"]()["points"]
    assert {point["name"] for point in points} == {*FILES}
    assert np.abs([point["at"] for point in points]).max() <= 1


def test_embeddings_of_another_model_are_refused(app, tmp_path):
    label(app)
    other = tiny_tagger.save(tmp_path / "other", digest="1" * 64)
    with pytest.raises(ValueError, match=r"embeddings of tagger .* cannot be compared"):
        explore_app.Application(str(other), f"{tmp_path}/work")


def test_labelling_is_cancelled_between_files(app, monkeypatch):
    predict = predictor.predict

    def cancelled(model, paths):
        for result in predict(model, paths):
            app.posts["cancel"]()
            yield result

    monkeypatch.setattr(predictor, "predict", cancelled)
    state = label(app)
    assert state["message"] == "cancelled"
    assert state["collection"]["num_labelled"] == 1
    assert state["collection"]["num_waiting"] == 3
    monkeypatch.undo()
    assert label(app)["collection"]["num_labelled"] == 4


def test_one_training_runs_at_a_time(app, monkeypatch):
    label(app)
    for row, genre in zip(rows(app), ("dub", "techno"), strict=False):
        app.posts["correct"](row["id"], genre)
    begun, may_end = threading.Event(), threading.Event()

    def train(request, on_step):
        begun.set()
        may_end.wait()
        on_step("features", 1, 2)  # ends what is cancelled

    monkeypatch.setattr(retraining, "train", train)
    app.posts["train"]("")
    assert begun.wait(60)
    with pytest.raises(ValueError, match="not finished"):
        app.posts["train"]("")
    app.posts["cancel"]()
    may_end.set()
    assert explored.wait(app)["message"] == "cancelled"


def test_training_needs_two_genres(app):
    with pytest.raises(ValueError, match="correct some files"):
        app.posts["train"]("")
    label(app)
    app.posts["correct"](rows(app)[0]["id"], "dub")
    with pytest.raises(ValueError, match="at least 2"):
        app.posts["train"]("")


def test_a_port_that_is_taken_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tools.explore", f"--port={port}", "--model=x"],
            cwd=os.path.dirname(os.path.dirname(explore_app.__file__)),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: --port={port}: Address already in use; choose another port\n"
    )
