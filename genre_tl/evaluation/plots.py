"""Metrics to pictures: learning curves and confusion matrices as PNG."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure, ticker

from genre_tl.evaluation import figures


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Curves that share an axis: history key -> (name, line)."""

    title: str
    ylabel: str
    curves: Mapping[str, tuple[str, dict[str, Any]]]
    scale: float = 1.0
    value_format: str = "{:.3f}"


_PANELS = (
    _Panel(
        "Loss",
        "loss (nats)",
        {
            "loss": ("training", figures.TRAINING),
            "val_loss": ("validation", figures.VALIDATION),
        },
    ),
    _Panel(
        "Accuracy",
        "accuracy (% of clips)",
        {
            "accuracy": ("training", figures.TRAINING),
            "val_accuracy": ("validation", figures.VALIDATION),
        },
        scale=100.0,
        value_format="{:.1f} %",
    ),
    _Panel(
        "Validation AUC-ROC",
        "AUC-ROC (chance: 0.5)",
        {
            "val_macro_auc_roc": ("macro (mean of tags)", figures.VALIDATION),
            "val_micro_auc_roc": ("micro (tags pooled)", figures.POOLED),
        },
    ),
    _Panel(
        "Validation PR-AUC",
        "PR-AUC (0 to 1)",
        {
            "val_macro_pr_auc": ("macro (mean of tags)", figures.VALIDATION),
            "val_micro_pr_auc": ("micro (tags pooled)", figures.POOLED),
        },
    ),
)

# The first of these that was measured tells the best epoch.
_MONITORED = {
    "val_macro_auc_roc": np.nanargmax,
    "val_accuracy": np.nanargmax,
    "val_loss": np.nanargmin,
}


def learning_curves(
    history: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws loss and metrics against the epoch, the best epoch marked.

    The best epoch is that of the highest `val_macro_auc_roc`, else of the
    highest `val_accuracy`, else of the lowest `val_loss`; the legends give
    the values there. Without validation they give those of the last epoch.

    Args:
      history: a list per column, as in the CSV of a run: `loss`, `val_loss`,
        `accuracy`, `val_accuracy` (0 to 1), and `val_{macro,micro}_auc_roc`
        and `_pr_auc`; any may be absent, and NaN is a value not measured.
        `epoch` numbers the epochs, which else count from 1. Other columns
        are left out.
      path: the PNG to write, in a folder that exists.
      title: headline of the picture.

    Raises:
      ValueError: if there is nothing to draw or the columns differ in length.
      OSError: if the file cannot be written.
    """
    columns = _columns(history)
    panels = [panel for panel in _PANELS if panel.curves.keys() & columns.keys()]
    if not panels:
        known = ", ".join(key for panel in _PANELS for key in panel.curves)
        raise ValueError(
            f"history has nothing to draw in its columns {sorted(history)}: it "
            f"needs at least one epoch of one of {known}"
        )
    at, legend_title = _marked_epoch(columns)
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.new_figure(4.4 * len(panels), 4.2, title)
        row = fig.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel in zip(row, panels, strict=True):
            _draw_curves(ax, panel, columns, at)
            # Under the axes a legend never hides a curve.
            ax.legend(
                title=legend_title,
                alignment="left",
                loc="upper left",
                bbox_to_anchor=(0, -0.19),
                borderaxespad=0,
                handlelength=3,
            )
        figures.write(fig, path)


def accuracy_curves(
    curves: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws accuracy against epoch, a line for each way of training.

    Args:
      curves: accuracies from 0 to 1 after each epoch, by name; at most three.
      path: the PNG to write, in a folder that exists.
      title: headline of the picture.

    Raises:
      ValueError: if there is nothing to draw, or too much.
      OSError: if the file cannot be written.
    """
    lines = (figures.VALIDATION, figures.TRAINING, figures.POOLED)
    if not 1 <= len(curves) <= len(lines) or not all(map(len, curves.values())):
        raise ValueError(f"curves has {len(curves)} lines; 1 to 3 can be drawn")
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.new_figure(6.4, 4.2, title)
        ax = fig.subplots()
        for (name, values), line in zip(curves.items(), lines, strict=False):
            percent = 100 * np.asarray(values, np.float64)
            label = f"{figures.verbatim(name)}: {percent[-1]:.1f} % at the end"
            ax.plot(np.arange(1, len(percent) + 1), percent, label=label, **line)
        ax.set(xlabel="epoch", ylabel="accuracy (% of clips)")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend(loc="lower right", handlelength=3)
        figures.write(fig, path)


def confusion_matrix(
    matrix: np.ndarray,
    vocabulary: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws a confusion matrix: clips as figures, shares of a row as colour.

    Args:
      matrix: clips, `[genres, genres]`; rows are the truth, columns the
        prediction.
      vocabulary: the genres' names, in the order of the matrix.
      path: the PNG to write, in a folder that exists.
      title: headline of the picture.

    Raises:
      ValueError: if matrix and vocabulary do not fit or are empty.
      OSError: if the file cannot be written.
    """
    matrix = np.asarray(matrix)
    num_genres = len(vocabulary)
    if not num_genres or matrix.shape != (num_genres, num_genres):
        raise ValueError(
            f"matrix of shape {matrix.shape} must be [genres, genres] for the "
            f"{num_genres} genres of the vocabulary, of which there must be one"
        )
    names = [figures.verbatim(name) for name in vocabulary]
    cell = float(np.clip(0.42, 3 / num_genres, 21 / num_genres))  # Inches.
    font = min(10.0, 24 * cell)  # Points.
    label = max(map(len, names)) * font * 0.6 / 72
    width = num_genres * cell + label + 2.3
    height = num_genres * cell + 0.7 * label + 1.2
    with matplotlib.rc_context(
        {**figures.STYLE, "axes.grid": False, "font.size": font}
    ):
        fig = figures.new_figure(width, height, title)
        _draw_matrix(fig, matrix, names)
        figures.write(fig, path)


def _columns(history: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """The known columns that hold a value, and always `epoch`."""
    known = [key for panel in _PANELS for key in panel.curves if key in history]
    lengths = {key: len(history[key]) for key in ["epoch", *known] if key in history}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history has columns of different lengths: {lengths}")
    columns = {key: np.asarray(history[key], np.float64) for key in known}
    columns = {key: col for key, col in columns.items() if np.isfinite(col).any()}
    num_epochs = max(lengths.values(), default=0)
    epochs = history.get("epoch", range(1, num_epochs + 1))
    return {**columns, "epoch": np.asarray(epochs, np.float64)}


def _marked_epoch(columns: Mapping[str, np.ndarray]) -> tuple[int, str]:
    """The row whose values the legends give, and what it is called."""
    for key, best in _MONITORED.items():
        if key in columns:
            at = int(best(columns[key]))
            return at, f"At the best epoch, {columns['epoch'][at]:.0f}:"
    return -1, f"At the last epoch, {columns['epoch'][-1]:.0f}:"


def _draw_curves(
    ax: axes.Axes, panel: _Panel, columns: Mapping[str, np.ndarray], at: int
) -> None:
    epochs = columns["epoch"]
    for key, (name, line) in panel.curves.items():
        if key in columns:
            values = columns[key] * panel.scale
            label = f"{name}: {panel.value_format.format(values[at])}"
            ax.plot(epochs, values, label=label, **line)
            ax.plot(epochs[at], values[at], "o", color=line["color"])
    ax.axvline(epochs[at], color=figures.GREY, linewidth=1, linestyle=":", zorder=0)
    ax.set(title=panel.title, xlabel="epoch", ylabel=panel.ylabel)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def _draw_matrix(fig: figure.Figure, matrix: np.ndarray, names: list[str]) -> None:
    ax = fig.subplots()
    clips = matrix.sum(axis=1)
    shares = 100 * matrix / np.maximum(clips, 1)[:, None]
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(names))
    rows = [f"{name} ({count})" for name, count in zip(names, clips, strict=True)]
    ax.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, rows)
    ax.set(xlabel="predicted genre", ylabel="true genre (clips)")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    # White gaps between the cells; a grid of major ticks would run through them.
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    for row, column in np.argwhere(matrix):
        ink = "white" if shares[row, column] > 55 else figures.INK
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        ax.text(column, row, f"{matrix[row, column]}", **style)
    bar = fig.colorbar(
        image, ax=ax, fraction=0.05, aspect=25, label="share of the true genre (%)"
    )
    bar.ax.spines["outline"].set_visible(False)


def memory(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | os.PathLike[str],
) -> None:
    """Draws a process's memory over time, a panel a piece of work.

    Args:
      curves: by what the work was, the times in seconds and the memory in MB.
      path: PNG to write.
    """
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.new_figure(4 * len(curves), 3.2, "Memory of prediction")
        panels = fig.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axis, (name, (secs, megabytes)) in zip(panels, curves.items(), strict=True):
            minutes = np.asarray(secs) / 60
            axis.plot(minutes, megabytes, color=figures.TRAINING["color"])
            axis.set_title(figures.verbatim(name))
            axis.set_xlabel("minutes")
        panels[0].set_ylabel("resident memory (MB)")
        panels[0].set_ylim(bottom=0)
        figures.write(fig, path)
