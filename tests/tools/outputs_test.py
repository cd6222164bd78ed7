"""Verdicts on files, in every format."""

import csv
import io
import json

import numpy as np
import pytest

from genre_tl.data import datasets
from genre_tl.serving import predictor
from tools import outputs

LABELS = ["jazz", "rock", datasets.BACKGROUND]
LOWEST = {"jazz": 0.6, "rock": None, datasets.BACKGROUND: 0.0}
UNLIKE = "unlike the training music"


def result(*scores, familiarity=0.5, **changes):
    return predictor.Result(
        "a.wav", np.array(scores, np.float32), familiarity=familiarity, **changes
    )


CASES = [
    (result(0.7, 0.2, 0.1), LOWEST, ""),
    (result(0.5, 0.4, 0.1), LOWEST, "unsure"),
    (result(0.5, 0.4, 0.1), None, ""),
    (result(0.1, 0.8, 0.1), LOWEST, "unsure"),  # never reaches the precision
    (result(0.1, 0.2, 0.7), None, UNLIKE),
    (result(0.7, 0.2, 0.1, familiarity=0.01), None, UNLIKE),
    (result(0.5, 0.4, 0.1, familiarity=0.01), LOWEST, UNLIKE),
    (result(0.7, 0.2, 0.1, familiarity=None), LOWEST, ""),
    (result(0.7, 0.2, 0.1, has_sound=False, familiarity=0.0), LOWEST, ""),
]


def written(kind, case, lowest):
    writer = outputs.Writer(kind, LABELS, lowest=lowest)
    return writer.head() + writer.text(case)


@pytest.mark.parametrize("case, lowest, verdict", CASES)
def test_every_format_has_the_verdict(case, lowest, verdict):
    (row,) = csv.DictReader(io.StringIO(written("csv", case, lowest)))
    assert row["verdict"] == verdict
    has_best = not verdict and case.has_sound
    assert row["best"] == ("jazz" if has_best else "")
    known = case.familiarity
    assert row["familiarity"] == ("" if known is None else f"{known:.4f}")
    values = json.loads(written("json", case, lowest))
    assert values.get("verdict", "") == verdict
    assert values.get("familiarity") == known
    for kind in ("text", "chart"):
        text = written(kind, case, lowest)
        assert (f"({verdict})" in text) if verdict else ("(un" not in text)


def test_a_file_that_failed_has_no_verdict():
    failed = predictor.Result("a.wav", None, error="not audio")
    (row,) = csv.DictReader(io.StringIO(written("csv", failed, LOWEST)))
    assert (row["verdict"], row["familiarity"], row["error"]) == ("", "", "not audio")
    assert "verdict" not in json.loads(written("json", failed, LOWEST))
