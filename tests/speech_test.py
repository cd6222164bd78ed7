"""Speech of espeak-ng is told apart from music, by the embeddings of the starter."""

import shutil
import subprocess

import numpy as np
import pytest
from sklearn import metrics

from genre_tl import params, serving, starter
from genre_tl.data import collection, splits
from genre_tl.model import familiarity

TEXTS = (
    "Good evening and welcome to the news. Today the council met to discuss the new "
    "railway line, which has been delayed again by several months.",
    "To install the shelf, first mark the holes on the wall, then drill, insert the "
    "plugs and tighten the four screws until nothing moves.",
    "Once upon a time a fisherman lived in a small hut by the sea. Every morning he "
    "went out with his boat and his net.",
)
VOICES = ("en", "en-us+f2", "de", "fr+f4", "es", "it+m3", "nl", "pl+m7")


@pytest.fixture
def speech(tmp_path):
    if not shutil.which("espeak-ng"):
        pytest.skip("NOT TRIED WITH SPEECH: espeak-ng is not installed")
    paths = []
    for number, voice in enumerate(VOICES):
        text = " ".join(np.roll(TEXTS, number))
        path, speed = tmp_path / f"{number}.wav", str(130 + 10 * number)
        program = ["espeak-ng", "-v", voice, "-s", speed, "-w", str(path), text]
        subprocess.run(program, check=True, capture_output=True)
        paths.append(str(path))
    return paths


def test_speech_is_unlike_the_music_of_training(shared, speech):
    table = collection.load("auto", shared / "data/gtzan")
    model = serving.Predictor(starter.folder())
    paths = [*table.files, *speech]
    found = [x.embedding for x in serving.predict(model, paths, max_secs=16)]
    vectors = np.stack(found).astype(np.float64)
    areas, music, talk = [], [], []
    for test in splits.folds(table, 5, 0):
        train = np.setdiff1d(np.arange(len(table)), test)
        groups, rows = [table.groups[row] for row in train], np.arange(len(train))
        known = familiarity.fit(vectors[train], np.ones(len(rows)), rows, groups)
        shares = known.of_distance(known.log_distance(vectors))
        of_fold = np.append(shares[test], shares[len(table) :])
        is_music = np.arange(len(of_fold)) < len(test)
        areas.append(metrics.roc_auc_score(is_music, of_fold))
        music.append(shares[test] < params.UNFAMILIAR)
        talk.append(shares[len(table) :] < params.UNFAMILIAR)
    assert np.mean(areas) >= 0.95
    assert np.mean(talk) >= 0.8
    assert np.mean(np.concatenate(music)) <= 0.15
