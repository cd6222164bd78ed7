"""Text charts: bars are sorted, drawn to scale and fit the width."""

import numpy as np
import pytest

from genre_tl.evaluation import text_chart

GENRES = ("blues", "jazz", "rock")


def test_bars_are_sorted_and_as_long_as_their_score():
    chart = text_chart.bar_chart([0.25, 0.5, 0.0], GENRES, 36)
    assert chart.splitlines() == [
        "jazz    50.0 %  " + "█" * 10,
        "blues   25.0 %  " + "█" * 5,
        "rock     0.0 %",
    ]


def test_a_full_bar_fills_the_width_and_no_line_exceeds_it():
    labels = ["a label that is far too long for half a line", "rock"]
    for ascii_only in (False, True):
        chart = text_chart.bar_chart([1.0, 1.0], labels, 40, ascii_only=ascii_only)
        assert [len(line) for line in chart.splitlines()] == [40, 40]


def test_a_bar_is_drawn_to_an_eighth_of_a_character():
    for eighths, block in enumerate("▏▎▍▌▋▊▉█", start=1):
        chart = text_chart.bar_chart([eighths / 160], ["jazz"], 35)
        assert chart.endswith("%  " + block)


def test_ascii_only_holds_for_bars_and_labels():
    labels = ["forró " * 20, "rock"]
    chart = text_chart.bar_chart([0.4, 0.6], labels, 40, ascii_only=True)
    assert chart.isascii()
    assert chart.splitlines()[0].endswith("%  " + "#" * round(0.6 * (40 - 11 - 20)))


def test_a_softmax_rounded_above_1_is_drawn_as_1():
    assert "100.0 %" in text_chart.bar_chart([1 + 1e-6, -1e-7], ["a", "b"])


@pytest.mark.parametrize(
    "scores, message",
    [
        ([0.5, 0.5], "3 labels need as many scores"),
        ([0.5, 0.2, 1.5], "from 0 to 1, not .*1.5"),
        ([0.5, 0.2, np.nan], "from 0 to 1, not .*nan"),
    ],
)
def test_a_chart_that_cannot_be_drawn_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        text_chart.bar_chart(scores, GENRES)
