"""Pictures of sound: scores over time, scattering coefficients and their error."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import axes, ticker

from genre_tl.evaluation import figures

_TAGGRAM_ROWS, _TAGGRAM_COLUMNS = 15, 1500


def taggram(
    times_secs: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = "Over time",
) -> None:
    """Draws scores over time as a picture, the labels with most of them on top.

    Args:
      times_secs: `[times]`, increasing: where the scores hold.
      scores: `[times, labels]`, 0 to 1.
      labels: their names.
      path: PNG file to write.
      title: what it is of.

    Raises:
      ValueError: if the shapes do not fit, or there is no score.
      OSError: if the file cannot be written.
    """
    times_secs, scores = np.asarray(times_secs), np.asarray(scores)
    if scores.shape != (len(times_secs), len(labels)) or not scores.size:
        raise ValueError(
            f"{len(times_secs)} times and {len(labels)} labels need as many scores: "
            f"{scores.shape}"
        )
    rows = np.argsort(-scores.mean(axis=0), kind="stable")[:_TAGGRAM_ROWS]
    # A picture has no room for more columns: neighbours are averaged.
    starts = np.unique(np.linspace(0, len(scores), _TAGGRAM_COLUMNS + 1).astype(int))
    starts = starts[starts < len(scores)]
    sums = np.add.reduceat(scores[:, rows].astype(float), starts, axis=0)
    means = sums / np.diff([*starts, len(scores)])[:, np.newaxis]
    step = (times_secs[-1] - times_secs[0]) / max(len(times_secs) - 1, 1) or 1.0
    edges = np.append(times_secs[starts], times_secs[-1] + step) - step / 2
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.new_figure(9.0, 1.5 + 0.26 * len(rows), title)
        ax = fig.subplots()
        _draw_taggram(ax, edges, means, [figures.verbatim(labels[row]) for row in rows])
        figures.write(fig, path)


def _draw_taggram(
    ax: axes.Axes, edges: np.ndarray, means: np.ndarray, names: list[str]
) -> None:
    mesh = ax.pcolormesh(
        edges, np.arange(len(names) + 1), means.T, vmin=0, vmax=1, cmap="cividis"
    )
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.invert_yaxis()
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_formatter(lambda secs, _: f"{secs // 60:.0f}:{secs % 60:02.0f}")
    ax.set_xlabel("time (minutes)")
    ax.grid(False)
    bar = ax.figure.colorbar(mesh, ax=ax, fraction=0.04, aspect=15, label="score")
    bar.ax.spines["outline"].set_visible(False)


def scaleogram(
    waveform: np.ndarray,
    first: np.ndarray,
    coefficients: np.ndarray,
    meta: Mapping[str, np.ndarray],
    rate_hz: int,
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws a wave, its first order over time, and its second over modulation.

    Args:
      waveform: `[samples]`.
      first: coefficients of the first order, `[paths, frames]`, as finely in time
        as the picture shall be.
      coefficients: of all orders, `[paths, frames]`; the second is averaged over
        the frames and shown relative to the first.
      meta: `order`, `n` and `xi` (cycles a sample) of those.
      rate_hz: samples a second.
      path: the PNG to write, in a folder that exists.
      title: headline of the picture.

    Raises:
      OSError: if the file cannot be written.
    """
    order, n, hz = meta["order"], meta["n"], meta["xi"] * rate_hz
    secs = len(waveform) / rate_hz
    mean = coefficients.mean(1)
    second = np.full([int(np.nanmax(n[:, 1])) + 1, len(first)], np.nan)
    rows = np.flatnonzero(order == 2)
    carrier, modulation = n[rows].astype(int).T
    second[modulation, carrier] = mean[rows] / np.maximum(mean[1 + carrier], 1e-9)
    carriers_hz = hz[order == 1, 0]
    modulations_hz = np.full(len(second), np.nan)
    modulations_hz[modulation] = hz[rows, 1]
    used = np.isfinite(modulations_hz)
    with matplotlib.rc_context({**figures.STYLE, "axes.grid": False}):
        fig = figures.new_figure(9, 7.5, title)
        wave, picture, lower = fig.subplots(3, 1, height_ratios=[1, 3, 2])
        # Each column of the picture, its lowest and highest sample.
        columns = waveform[: len(waveform) // 1000 * 1000].reshape(1000, -1)
        times = np.linspace(0, secs, 1000)
        wave.fill_between(times, columns.min(1), columns.max(1), color="#0072B2", lw=0)
        wave.set(xlim=(0, secs), ylabel="amplitude")
        decibels = 20 * np.log10(np.maximum(first, 1e-7))
        _mesh(picture, np.linspace(0, secs, first.shape[1]), carriers_hz, decibels)
        picture.set(xlabel="time (s)", ylabel="frequency (Hz)")
        _mesh(lower, carriers_hz, modulations_hz[used], second[used], log_x=True)
        lower.set(xlabel="frequency (Hz)", ylabel="modulation (Hz)")
        figures.write(fig, path)


def _mesh(
    ax: axes.Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, log_x: bool = False
) -> None:
    low, high = np.nanpercentile(values, [5, 99.8])
    ax.pcolormesh(x, y, values, vmin=low, vmax=high, cmap="magma", rasterized=True)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    if log_x:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))


def path_errors(
    errors: Mapping[str, np.ndarray],
    order: np.ndarray,
    hz: np.ndarray,
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws the relative error of every scattering path.

    Args:
      errors: by name of what was compared, `[paths]`; at most three.
      order: of the paths, 0 to 2.
      hz: centre frequency of the wavelet that makes their last modulus.
      path: the PNG to write, in a folder that exists.
      title: headline of the picture.

    Raises:
      OSError: if the file cannot be written.
    """
    lines = (figures.VALIDATION, figures.TRAINING, figures.POOLED)
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.new_figure(9, 4.8, title)
        row = fig.subplots(1, 2, sharey=True)
        for ax, number in zip(row, (1, 2), strict=True):
            chosen = order == number
            for (name, values), line in zip(errors.items(), lines, strict=False):
                label = f"{name}: median {np.median(values[chosen]):.1e}"
                style = {"color": line["color"], "marker": ".", "linestyle": "none"}
                ax.plot(hz[chosen], values[chosen], label=label, **style)
            ax.set(xscale="log", yscale="log", title=f"order {number}")
            ax.set_xlabel("centre frequency of the last wavelet (Hz)")
            # Under the axes a legend never hides a point.
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0)
        row[0].set_ylabel("relative error in L2")
        figures.write(fig, path)
