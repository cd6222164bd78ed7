"""Drawings of benchmarks: files are written, and the figures hold the values."""

import numpy as np
import pytest
from matplotlib import image

from tools.benchmarks import drawings


def test_scaleogram_shows_each_order_at_its_frequencies(tmp_path, drawn):
    meta = {
        "order": np.array([0, 1, 1, 2]),
        "n": np.array([[np.nan] * 2, [0, np.nan], [1, np.nan], [1, 0]]),
        "xi": np.array([[np.nan] * 2, [0.25, np.nan], [0.125, np.nan], [0.125, 0.01]]),
    }
    coefficients = np.array([[0.0] * 4, [2.0] * 4, [4.0] * 4, [1.0] * 4])
    waveform = np.sin(np.arange(8000.0))
    path = tmp_path / "scaleogram.png"
    drawings.scaleogram(waveform, coefficients[1:3], coefficients, meta, path)
    assert image.imread(path).ndim == 3
    _, first, second = drawn[0].axes
    assert first.get_yscale() == "log"
    decibels = first.collections[0].get_array()
    assert decibels[1].max() == pytest.approx(20 * np.log10(4))
    relative = second.collections[0].get_array()
    assert relative[0, 1] == pytest.approx(1 / 4)


def test_path_errors_are_drawn_by_order(tmp_path, drawn):
    errors = {"standard": np.array([1e-4, 2e-4, 3e-4])}
    path = tmp_path / "errors.png"
    hz = np.array([1.0, 100, 10])
    drawings.path_errors(errors, np.array([0, 1, 2]), hz, path)
    assert image.imread(path).ndim == 3
    first, second = drawn[0].axes
    assert first.get_lines()[0].get_ydata() == [2e-4]
    assert second.get_lines()[0].get_ydata() == [3e-4]
