import numpy as np
import pytest
from sklearn import neighbors

from genre_tl.library import neighbours


@pytest.fixture
def data():
    return np.random.default_rng(0).standard_normal((200, 16)).astype("float32")


def test_neighbours_are_those_of_scikit_learn(data):
    search = neighbours.Vectors()
    search.add(np.arange(150) + 7, data[:150].copy())
    search.add(np.arange(150, 200) + 7, data[150:].copy())
    peer = neighbors.NearestNeighbors(n_neighbors=5, metric="cosine").fit(data)
    distances, rows = peer.kneighbors(data[:20])
    for vector, expected, far in zip(data[:20], rows, distances, strict=True):
        found = search.nearest(vector, 5)
        assert [number for number, _ in found] == (expected + 7).tolist()
        np.testing.assert_allclose([x for _, x in found], 1 - far, atol=1e-5)


def test_vectors_that_are_dropped_are_not_found(data):
    search = neighbours.Vectors()
    search.add(np.arange(200), data.copy())
    search.keep(np.array([3, 5, 999]))
    assert {x for x, _ in search.nearest(data[0], 9)} == {3, 5}


def test_nothing_is_near_in_an_empty_collection(data):
    assert neighbours.Vectors().nearest(data[0], 3) == []


def test_a_vector_without_length_is_near_to_nothing(data):
    search = neighbours.Vectors()
    search.add(np.arange(3), np.concatenate([data[:2], np.zeros((1, 16), "f4")]))
    assert dict(search.nearest(data[0], 3))[2] == 0
    assert {x for _, x in search.nearest(np.zeros(16, "f4"), 3)} == {0}
