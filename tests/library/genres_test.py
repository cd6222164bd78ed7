"""Which labels are genres, and which of them a file gets."""

import hypothesis
import pytest
from hypothesis import strategies

from genre_tl import starter
from genre_tl.library import genres

HIGH = {"rock": 0.7, "msd:rock": 0.8, "jazz": 0.75, "happy": 0.9, "blues": 0.5}


def choose(scores, names, min_score=0.5, max_genres=3):
    return genres.choose(scores, names, min_score=min_score, max_genres=max_genres)


def test_all_labels_of_a_classifier_are_genres():
    labels = ["_background", "dub", "happy"]
    assert genres.names(labels, is_tagger=False) == {
        "dub": "dub",
        "happy": "happy",
    }


def test_a_genre_of_a_tagger_has_the_highest_score_of_its_tags():
    names = genres.names(HIGH, is_tagger=True)
    assert choose(HIGH, names) == ("Rock", "Jazz", "Blues")
    assert choose(HIGH, names, max_genres=1) == ("Rock",)
    assert choose(HIGH, names, min_score=0.76) == ("Rock",)
    assert choose({"happy": 0.9}, names) == ()


def test_chosen_labels_replace_the_usual_ones_and_may_be_renamed():
    names = genres.names(HIGH, is_tagger=True, chosen="happy, msd:rock = Rock'n'Roll")
    assert names == {"happy": "happy", "msd:rock": "Rock'n'Roll"}
    assert choose(HIGH, names) == ("happy", "Rock'n'Roll")


@pytest.mark.parametrize("chosen", ["jaz", "jazz,", "jazz=", "rock=Rock,jaz=Jazz"])
def test_an_unknown_label_is_an_error(chosen):
    with pytest.raises(ValueError, match="not a label of the model; it has rock, msd:"):
        genres.names(HIGH, is_tagger=True, chosen=chosen)


def test_a_tagger_without_genres_is_an_error():
    with pytest.raises(ValueError, match="none of the tagger's tags"):
        genres.names(["happy", "sad"], is_tagger=True)


def test_a_file_that_resembles_the_background_most_has_no_genre():
    names = genres.names(["_background", "dub", "techno"], is_tagger=False)
    scores = {"_background": 0.5, "dub": 0.4, "techno": 0.1}
    assert choose(scores, names, min_score=0.1) == ()
    assert choose(scores | {"dub": 0.6}, names) == ("dub",)


def test_a_score_of_zero_is_no_genre_even_at_no_least_score():
    assert choose({"a": 0.0, "b": 0.1}, {"a": "a", "b": "b"}, min_score=0.0) == ("b",)


@hypothesis.given(strategies.lists(strategies.floats(0, 1), min_size=1, max_size=9))
def test_scores_of_a_softmax_are_not_taken_for_those_of_tags(values):
    total = sum(values) or 1.0
    rounded = [round(value / total, 6) for value in values]
    assert not genres.are_tags(["dub", "techno"], [rounded])


def test_scores_of_tags_are_told_by_their_sum_or_by_a_teacher():
    assert genres.are_tags(["a", "b"], [[0.1, 0.2], [0.9, 0.4]])
    assert genres.are_tags(["a", "msd:rock"], [[0.1, 0.2]])


def test_all_tags_that_are_known_as_genres_are_of_the_starter_or_of_magnatagatune():
    try:
        folder = starter.folder()
    except FileNotFoundError as error:
        pytest.skip(f"NOT RUN WITH THE STARTER: {error}")
    (labels,) = folder.glob("*/assets/labels.txt")
    tags = set(labels.read_text("utf-8").splitlines())
    assert set(genres.GENRE_TAGS) - tags <= {"opera", "punk"}
