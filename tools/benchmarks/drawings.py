"""Drawings of scattering coefficients and their error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import axes, ticker

from genre_tl import params
from genre_tl.evaluation import plots

_HZ = ticker.StrMethodFormatter("{x:g}")


def scaleogram(
    waveform: np.ndarray,
    first: np.ndarray,
    coefficients: np.ndarray,
    meta: Mapping[str, np.ndarray],
    path: str,
) -> None:
    """Draws a waveform, the first order over time and the second over modulation.

    `first` may have any resolution in time. `coefficients` have all orders; the second
    is averaged over the frames and shown relative to the first.
    """
    secs = len(waveform) / params.SAMPLE_RATE_HZ
    carriers_hz = meta["xi"][meta["order"] == 1, 0] * params.SAMPLE_RATE_HZ
    title = "Scattering transform"
    with plots.picture(path, title, (9, 7.5), axes_grid=False) as fig:
        wave, upper, lower = fig.subplots(3, 1, height_ratios=[1, 3, 2])
        # The lowest and the highest sample of each column of the picture.
        columns = waveform[: len(waveform) // 1000 * 1000].reshape(1000, -1)
        times = np.linspace(0, secs, 1000)
        wave.fill_between(times, columns.min(1), columns.max(1), color="#0072B2", lw=0)
        wave.set(xlim=(0, secs), ylabel="amplitude")
        decibels = 20 * np.log10(np.maximum(first, 1e-7))
        _mesh(upper, np.linspace(0, secs, first.shape[1]), carriers_hz, decibels)
        upper.set(xlabel="time (s)", ylabel="frequency (Hz)")
        _mesh(lower, carriers_hz, *_second_order(coefficients.mean(1), meta))
        lower.set(xscale="log", xlabel="frequency (Hz)", ylabel="modulation (Hz)")
        lower.xaxis.set_major_formatter(_HZ)


def _second_order(
    mean: np.ndarray, meta: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns frequencies, and means `[modulations, carriers]`, NaN without a path."""
    rows = np.flatnonzero(meta["order"] == 2)
    carrier, modulation = meta["n"][rows].astype(int).T
    shape = modulation.max() + 1, np.count_nonzero(meta["order"] == 1)
    means, hz = np.full(shape, np.nan), np.full(shape[0], np.nan)
    means[modulation, carrier] = mean[rows] / np.maximum(mean[1 + carrier], 1e-9)
    hz[modulation] = meta["xi"][rows, 1] * params.SAMPLE_RATE_HZ
    used = np.isfinite(hz)
    return hz[used], means[used]


def _mesh(ax: axes.Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    low, high = np.nanpercentile(values, [5, 99.8])
    ax.pcolormesh(x, y, values, vmin=low, vmax=high, cmap="magma", rasterized=True)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(_HZ)


def path_errors(
    errors: Mapping[str, np.ndarray], order: np.ndarray, hz: np.ndarray, path: str
) -> None:
    """Draws relative errors, each `[paths]`, against the last wavelet's frequency."""
    title = "Relative error by path, against the exact transform"
    with plots.picture(path, title, (9, 4.8)) as fig:
        row = fig.subplots(1, 2, sharey=True)
        for ax, number in zip(row, (1, 2), strict=True):
            chosen = order == number
            for (name, values), line in zip(errors.items(), plots.LINES, strict=False):
                label = f"{name}: median {np.median(values[chosen]):.1e}"
                color = line["color"]
                ax.plot(hz[chosen], values[chosen], ".", color=color, label=label)
            ax.set(xscale="log", yscale="log", title=f"order {number}")
            ax.set_xlabel("centre frequency of the last wavelet (Hz)")
            plots.legend_below(ax)
        row[0].set_ylabel("relative error in L2")
