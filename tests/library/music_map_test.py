import numpy as np
import pytest
from sklearn import neighbors

from genre_tl.library import music_map

NUM_GENRES, OF_GENRE = 5, 20


@pytest.fixture
def vectors():
    """Clips of five genres, which differ in 64 numbers."""
    random = np.random.default_rng(0)
    centres = 3 * random.standard_normal((NUM_GENRES, 64))
    clips = np.repeat(centres, OF_GENRE, axis=0)
    return (clips + random.standard_normal(clips.shape)).astype("float32")


def test_clips_of_a_genre_lie_together(vectors):
    positions = music_map.positions(vectors)
    assert positions.shape == (len(vectors), 2) and positions.dtype == np.float32
    assert np.abs(positions).max() == pytest.approx(1)
    genres = np.repeat(np.arange(NUM_GENRES), OF_GENRE)
    nearest = neighbors.KNeighborsClassifier(5).fit(positions, genres)
    assert nearest.score(positions, genres) > 0.95


def test_the_same_vectors_give_the_same_map(vectors):
    first, again = (music_map.positions(vectors) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_many_clips_are_placed_by_their_principal_components(vectors, monkeypatch):
    monkeypatch.setattr(music_map, "MOST_DETAILED", len(vectors) - 1)
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected, found = centred @ axes[:2].T, music_map.positions(vectors)
    for column in range(2):
        match = np.corrcoef(expected[:, column], found[:, column])[0, 1]
        assert abs(match) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 10, 11])
def test_few_clips_have_a_map_too(vectors, count):
    positions = music_map.positions(vectors[:count])
    assert positions.shape == (count, 2) and np.isfinite(positions).all()


def test_equal_clips_have_a_map():
    positions = music_map.positions(np.ones((12, 4), np.float32))
    assert np.isfinite(positions).all()
