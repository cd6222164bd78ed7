"""The catalogue: results and corrections that last, pages in order, neighbours."""

import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import known_scores

from genre_tl.data import tables
from genre_tl.library import catalogue
from genre_tl.serving import model_card, predictor

LABELS = ("dub", "rock", "techno")
MODEL = catalogue.Model("mine", "1", "scores 1", "network 1", LABELS, False)
NEXT = catalogue.Model("mine", "2", "scores 2", "network 1", (*LABELS, "ska"), False)
OTHER = catalogue.Model("other", "7", "scores 3", "network 2", LABELS, False)


def result(path, scores, embedding=(1, 0), **facts):
    """Writes a file with a content of its own, and returns a result for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(os.fsencode(path))
    vectors = (np.array(x, np.float32) for x in (scores, embedding))
    return predictor.Result(str(path), *vectors, **{"secs": 3.0} | facts)


def failed(path):
    path.write_bytes(b"no audio")
    return predictor.Result(str(path), None, error="not audio")


@pytest.fixture
def music(tmp_path):
    return tmp_path / "music"


@pytest.fixture
def results(music):
    """Files whose folder, best label, margin and score are known."""
    return [
        result(music / "dub/a.wav", [0.9, 0.06, 0.04], (1, 0)),
        result(music / "dub/b.wav", [0.2, 0.5, 0.3], (1, 0.2)),
        result(music / "rock/c.wav", [0.1, 0.44, 0.46], (0, 1), familiarity=0.01),
        result(music / "new/d.wav", [0.7, 0.2, 0.1], (0.1, 1), familiarity=0.9),
        failed(music / "e.wav"),
        result(music / "f.wav", [0.5, 0.3, 0.2], has_sound=False, note="no sound"),
    ]


@pytest.fixture
def opened(tmp_path, results):
    with catalogue.Catalogue(tmp_path / "kept", MODEL) as opened:
        opened.add(results)
        yield opened


def names(rows):
    return [pathlib.Path(row.path).stem for row in rows]


def page(opened, **query):
    return names(opened.rows(catalogue.Query(**query)))


def test_a_row_has_what_the_model_said_and_where_it_comes_from(opened, results):
    row = opened.row(results[1].path)
    assert (row.best, row.score, row.model) == ("rock", 0.5, "mine version 1")
    assert row.doubt == pytest.approx(0.8)
    assert row.scores == pytest.approx({"dub": 0.2, "rock": 0.5, "techno": 0.3})
    assert (row.secs, row.folder_label, row.disagrees) == (3.0, "dub", True)
    assert not opened.row(results[0].path).disagrees
    assert opened.row(results[2].path).is_unfamiliar
    assert not opened.row(results[3].path).is_unfamiliar
    assert opened.row("absent.wav") is None


def test_files_without_audio_or_sound_are_rows_with_the_reason(opened, results):
    broken, silent = (opened.row(x.path) for x in results[4:])
    assert (broken.error, broken.best, broken.scores) == ("not audio", "", {})
    assert (silent.note, silent.best, silent.scores) == ("no sound", "", {})
    assert page(opened, state="failed") == ["e"]
    assert opened.counts() == {"dub": 2, "rock": 1, "techno": 1}


def test_a_file_that_is_gone_is_a_row_with_the_reason(opened, tmp_path):
    gone = result(tmp_path / "gone.wav", [1, 0, 0])
    os.unlink(gone.path)
    opened.add([gone])
    assert opened.row(gone.path).error == "No such file or directory"


@pytest.mark.parametrize(
    "query, expected",
    [
        ({}, "a b e f d c"),
        ({"descending": True}, "c d f e b a"),
        ({"sort": "doubt", "state": "open"}, "c b d a"),
        ({"sort": "score", "state": "open"}, "a d b c"),
        ({"sort": "score", "state": "open", "descending": True}, "c b d a"),
        ({"sort": "label", "state": "open"}, "a d b c"),
        ({"sort": "label", "state": "open", "descending": True}, "c b d a"),
        ({"sort": "familiarity", "state": "open"}, "c d a b"),
        ({"sort": "disagreement"}, "b c"),
        ({"label": "dub"}, "a d"),
        ({"text": "DUB/"}, "a b"),
        ({"text": "%.wav"}, ""),
    ],
)
def test_rows_are_chosen_and_ordered(opened, query, expected):
    assert page(opened, **query) == expected.split()
    assert opened.count(catalogue.Query(**query)) == len(expected.split())


def test_pages_follow_each_other(opened):
    pages = [page(opened, sort="doubt", offset=x, limit=2) for x in (0, 2, 4, 6)]
    assert [x for found in pages for x in found] == page(opened, sort="doubt")


def test_an_unknown_order_is_an_error(opened):
    with pytest.raises(ValueError, match="sort 'size'; .*one of.*doubt"):
        opened.rows(catalogue.Query(sort="size"))


def test_the_doubt_of_a_tagger_is_that_of_its_best_tag(tmp_path, music):
    tagger = catalogue.Model("tags", "1", "s", "n", LABELS, True)
    with catalogue.Catalogue(tmp_path / "tags", tagger) as opened:
        found = result(music / "x.wav", [0.9, 0.88, 0.1])
        opened.add([found])
        assert opened.row(found.path).doubt == pytest.approx(0.1)


def test_only_new_changed_and_replaced_files_are_due(opened, results, music):
    paths = [x.path for x in results]
    assert opened.due(paths) == []
    pathlib.Path(paths[1]).write_bytes(b"longer than before" * 99)
    new = str(music / "new.wav")
    assert opened.due([*paths, new]) == [paths[1], new]
    os.utime(paths[0], ns=(1, 1))
    assert opened.due(paths) == paths[:2]


def test_a_file_that_is_added_again_has_one_row_with_its_last_result(opened, results):
    path = pathlib.Path(results[0].path)
    opened.add([result(path, [0.1, 0.1, 0.8])])
    assert opened.count() == len(results)
    assert opened.row(str(path)).best == "techno"


def test_a_correction_moves_a_file_from_the_queue_to_the_labels(opened, results):
    a, b, c, d, *_ = (x.path for x in results)
    opened.review(c, "correct", " ska ")
    opened.review(b, "accept")
    opened.review(d, "skip")
    assert page(opened, state="open") == ["a"]
    assert page(opened, state="labelled") == ["b", "c"]
    assert page(opened, state="skipped") == ["d"]
    assert opened.given_labels() == {c: "ska", b: "rock"}
    row = opened.row(c)
    assert (row.action, row.label, row.best, row.disagrees) == (
        "correct",
        "ska",
        "techno",
        True,
    )
    assert opened.row(b).disagrees is False  # with the correction, not the folder
    assert a not in opened.given_labels()


def test_reviews_are_undone_one_by_one_and_the_last_one_counts(opened, results):
    path = results[0].path
    opened.review(path, "accept")
    opened.review(path, "correct", "rock")
    assert opened.given_labels() == {path: "rock"}
    undone = opened.undo()
    assert (undone.path, undone.label, undone.predicted) == (path, "rock", "dub")
    assert opened.given_labels() == {path: "dub"}
    assert opened.undo().action == "accept"
    assert opened.undo() is None
    assert opened.given_labels() == {}


@pytest.mark.parametrize(
    "name, action, label",
    [
        ("dub/a.wav", "correct", " "),
        ("dub/a.wav", "accept", "dub"),
        ("dub/a.wav", "like", ""),
        ("dub/a.wav", "correct", "two\nlines"),
        ("e.wav", "accept", ""),
        ("f.wav", "accept", ""),
        ("absent.wav", "skip", ""),
    ],
)
def test_reviews_that_mean_nothing_are_errors(opened, music, name, action, label):
    with pytest.raises(ValueError, match=name):
        opened.review(str(music / name), action, label)
    assert opened.reviews() == []


def test_reviews_survive_restarts_moves_and_labelling_by_any_model(tmp_path, results):
    a, b = (x.path for x in results[:2])
    with catalogue.Catalogue(tmp_path / "kept", MODEL) as opened:
        opened.add(results)
        opened.review(a, "correct", "rock")
        opened.review(b, "skip")
    moved = a.replace("a.wav", "moved.wav")
    shutil.move(a, moved)
    with catalogue.Catalogue(tmp_path / "kept", OTHER, replace=True) as opened:
        assert opened.count() == 0
        assert opened.given_labels() == {a: "rock"}
        opened.add([result(pathlib.Path(moved), [0.5, 0.4, 0.1])])
        assert opened.given_labels() == {moved: "rock"}
        assert opened.row(moved).label == "rock"
        assert opened.undo().action == "skip"


def test_labels_are_written_as_a_table_that_training_reads(opened, results, tmp_path):
    a, b, *_ = (x.path for x in results)
    opened.review(a, "correct", "rock, pop")
    opened.review(b, "accept")
    assert opened.write_labels(tmp_path / "labels.csv") == 2
    table = tables.load(tmp_path / "labels.csv")
    assert set(table.files) == {a, b}
    assert table.vocabulary == ("rock", "rock, pop")


def test_embeddings_of_another_model_are_refused_and_nothing_is_lost(opened, tmp_path):
    with pytest.raises(ValueError) as error:
        catalogue.Catalogue(tmp_path / "kept", OTHER)
    text = str(error.value)
    assert "embeddings of mine version 1" in text and "other version 7" in text
    assert "label the files again" in text
    assert opened.count() == 6


def test_rows_of_another_head_on_the_same_network_stay_but_are_due(
    opened, tmp_path, results
):
    paths = [x.path for x in results]
    with catalogue.Catalogue(tmp_path / "kept", NEXT) as other:
        assert other.due(paths) == paths
        assert other.nearest(paths[0], 1)[0][0] == paths[1]
        other.add([result(pathlib.Path(paths[0]), [0.1, 0.1, 0.1, 0.7])])
        found = other.row(paths[0]), other.row(paths[1])
        assert [row.model for row in found] == ["mine version 2", "mine version 1"]
        assert found[0].best == "ska"
        assert other.due(paths) == paths[1:]


def test_neighbours_are_the_most_similar_other_files(opened, results):
    a, b, c, d, *_ = (x.path for x in results)
    found = opened.nearest(a, 2)
    assert [path for path, _ in found] == [b, d]
    assert found[0][1] == pytest.approx(1 / np.hypot(1, 0.2))
    assert [x for x, _ in opened.nearest(np.array([0, 3], np.float32), 2)] == [c, d]
    with pytest.raises(ValueError, match="3 numbers.*those of 2"):
        opened.nearest(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="e.wav: has no embedding"):
        opened.nearest(results[4].path)


def test_neighbours_know_what_another_process_added_and_removed(
    opened, tmp_path, music, results
):
    a, b, *_ = (x.path for x in results)
    assert opened.nearest(a, 1)[0][0] == b
    with catalogue.Catalogue(tmp_path / "kept", MODEL) as other:
        near = result(music / "near.wav", [1, 0, 0], (1, 0.01))
        other.add([near])
        assert opened.nearest(a, 1)[0][0] == near.path
        other.remove([near.path])
        assert opened.nearest(a, 1)[0][0] == b
        other.add([result(pathlib.Path(b), [1, 0, 0], (0, -1))])
    assert [x for x, _ in opened.nearest(a)][-1] == b


def test_the_map_is_kept_until_a_track_is_added_or_removed(
    opened, music, results, monkeypatch
):
    paths, positions = opened.positions()
    assert paths == [x.path for x in results[:4]]
    assert positions.shape == (4, 2) and np.abs(positions).max() == 1
    with monkeypatch.context() as patch:
        patch.setattr(catalogue.music_map, "positions", None)
        again = opened.positions()
        assert again[0] == paths and np.array_equal(again[1], positions)
        opened.review(paths[0], "accept")
        assert len(opened.positions()[0]) == 4
    opened.remove(paths[:1])
    assert opened.positions()[0] == paths[1:]


def test_names_that_are_no_valid_text_come_back(opened, music):
    odd = pathlib.Path(os.fsdecode(os.fsencode(music) + b"/\xff'\\u\xc3\xbc.wav"))
    opened.add([result(odd, [0.8, 0.1, 0.1], (0.3, 0.4))])
    assert opened.row(str(odd)).path == str(odd)
    assert opened.due([str(odd)]) == []
    assert opened.nearest(np.array([3, 4]), 1)[0][0] == str(odd)
    opened.review(str(odd), "accept")
    assert opened.given_labels() == {str(odd): "dub"}


def test_threads_share_an_open_catalogue(opened, music):
    problems = []

    def work(number):
        try:
            found = result(music / f"{number}.wav", [0.6, 0.3, 0.1], (1, number))
            opened.add([found])
            opened.review(found.path, "accept")
            opened.nearest(found.path)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(x,)) for x in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(opened.given_labels()) == 20


KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = {paths!r}
from library import catalogue_test as t
def results():
    for number in range(40):
        if number == 39:
            os.kill(os.getpid(), signal.SIGKILL)
        yield t.result(pathlib.Path({music!r}, f"{{number}}.wav"), [0.6, 0.3, 0.1])
with t.catalogue.Catalogue({folder!r}, t.MODEL) as opened:
    opened.add(results())
"""


def test_a_killed_process_loses_at_most_a_group(root, tmp_path, music):
    code = KILLED.format(
        paths=[str(root), str(root / "tests")],
        music=str(music),
        folder=str(tmp_path / "kept"),
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    with catalogue.Catalogue(tmp_path / "kept", MODEL) as opened:
        assert opened.count() == 32


def test_a_full_disk_is_an_error_that_loses_nothing(opened, music):
    (pages,) = opened._database.execute("PRAGMA page_count").fetchone()
    opened._database.execute(f"PRAGMA max_page_count = {pages}")
    large = np.ones(20_000)
    with pytest.raises(OSError, match=r"catalogue.sqlite: .*disk is full"):
        opened.add([result(music / "large.wav", [0.6, 0.3, 0.1], large)])
    assert opened.count() == 6 and len(opened.nearest(np.array([1, 0]), 9)) == 4


def test_other_files_are_refused(tmp_path):
    (tmp_path / catalogue.FILE).write_bytes(b"something else" * 99)
    with pytest.raises(ValueError, match=r"sqlite: not a catalogue .*remove it"):
        catalogue.Catalogue(tmp_path, MODEL)
    os.unlink(tmp_path / catalogue.FILE)
    database = sqlite3.connect(tmp_path / catalogue.FILE)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ValueError, match="another version of genre_tl"):
        catalogue.Catalogue(tmp_path, MODEL)


CARD = {
    "name": "mine",
    "model_sha256": "abc",
    "labels": ["x", "y"],
    "calibration": {"scale": 1.5},
    "training": {
        "kind": "finetune",
        "start": {"model": "tagger"},
        "configuration": {"finetune": {"method": "kernel"}},
    },
}


def with_training(**facts):
    return CARD | {"training": CARD["training"] | facts}


def test_the_identity_of_a_model_is_read_from_its_card():
    model = catalogue.Model.of("saved/mine/3", CARD)
    assert str(model) == "mine version 3" and model.labels == ("x", "y")
    assert model.embedding == "tagger" and not model.is_tagger
    tuned = with_training(configuration={"finetune": {"method": "finetune"}})
    assert catalogue.Model.of("saved/mine/3", tuned).embedding == "abc"
    assert catalogue.Model.of("x/1", with_training(start=None)).embedding == "abc"
    tagger = catalogue.Model.of("x/1", with_training(kind="pretrain", start=None))
    assert tagger.is_tagger and tagger.embedding == "abc"
    other = catalogue.Model.of("x/1", CARD | {"calibration": {"scale": 2}})
    assert other.digest != model.digest and other.embedding == model.embedding


def test_the_example_of_the_document_runs(root, tmp_path, monkeypatch, capsys):
    text = (root / "docs/own_music.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    version = known_scores.export(tmp_path / "saved_models/mine") / "1"
    model_card.write(version, {"labels": known_scores.LABELS})
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    for number, path in enumerate(paths):
        known_scores.write_wav(path, 0.2 + 0.1 * number)
    exec(code, {"paths": paths})
    assert f"{paths[2]} quiet 0.600" in capsys.readouterr().out
    assert (
        pathlib.Path("corrections.csv").read_text() == f"path,label\n{paths[0]},dub\n"
    )
