"""Metrics to pictures: learning curves, confusion matrices, scores over time; PNG.

Figures are drawn without pyplot, so neither a display nor global state is
needed. A picture appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure, layout_engine, ticker
from matplotlib.backends import backend_agg

_DPI = 150
_INK, _GREY = "#333333", "#8C8C8C"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # Comes with matplotlib: the same everywhere.
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.03,
    "figure.titlesize": 12,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "legend.title_fontsize": 10,
    "lines.linewidth": 2,
}

# Okabe and Ito's colours are told apart without red-green vision, the dashes
# without any colour.
_TRAINING: dict[str, Any] = {"color": "#0072B2", "linestyle": "--"}
_VALIDATION: dict[str, Any] = {"color": "#D55E00", "linestyle": "-"}
_POOLED: dict[str, Any] = {"color": "#009E73", "linestyle": "-."}


_TAGGRAM_ROWS, _TAGGRAM_COLUMNS = 15, 1500


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
        {"loss": ("training", _TRAINING), "val_loss": ("validation", _VALIDATION)},
    ),
    _Panel(
        "Accuracy",
        "accuracy (% of clips)",
        {
            "accuracy": ("training", _TRAINING),
            "val_accuracy": ("validation", _VALIDATION),
        },
        scale=100.0,
        value_format="{:.1f} %",
    ),
    _Panel(
        "Validation AUC-ROC",
        "AUC-ROC (chance: 0.5)",
        {
            "val_macro_auc_roc": ("macro (mean of tags)", _VALIDATION),
            "val_micro_auc_roc": ("micro (tags pooled)", _POOLED),
        },
    ),
    _Panel(
        "Validation PR-AUC",
        "PR-AUC (0 to 1)",
        {
            "val_macro_pr_auc": ("macro (mean of tags)", _VALIDATION),
            "val_micro_pr_auc": ("micro (tags pooled)", _POOLED),
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
    with matplotlib.rc_context(_STYLE):
        fig = _new_figure(4.4 * len(panels), 4.2, title)
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
        _write(fig, path)


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
    lines = (_VALIDATION, _TRAINING, _POOLED)
    if not 1 <= len(curves) <= len(lines) or not all(map(len, curves.values())):
        raise ValueError(f"curves has {len(curves)} lines; 1 to 3 can be drawn")
    with matplotlib.rc_context(_STYLE):
        fig = _new_figure(6.4, 4.2, title)
        ax = fig.subplots()
        for (name, values), line in zip(curves.items(), lines, strict=False):
            percent = 100 * np.asarray(values, np.float64)
            label = f"{_verbatim(name)}: {percent[-1]:.1f} % at the end"
            ax.plot(np.arange(1, len(percent) + 1), percent, label=label, **line)
        ax.set(xlabel="epoch", ylabel="accuracy (% of clips)")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend(loc="lower right", handlelength=3)
        _write(fig, path)


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
    names = [_verbatim(name) for name in vocabulary]
    cell = float(np.clip(0.42, 3 / num_genres, 21 / num_genres))  # Inches.
    font = min(10.0, 24 * cell)  # Points.
    label = max(map(len, names)) * font * 0.6 / 72
    width = num_genres * cell + label + 2.3
    height = num_genres * cell + 0.7 * label + 1.2
    with matplotlib.rc_context({**_STYLE, "axes.grid": False, "font.size": font}):
        fig = _new_figure(width, height, title)
        _draw_matrix(fig, matrix, names)
        _write(fig, path)


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
    with matplotlib.rc_context(_STYLE):
        fig = _new_figure(9.0, 1.5 + 0.26 * len(rows), title)
        ax = fig.subplots()
        _draw_taggram(ax, edges, means, [_verbatim(labels[row]) for row in rows])
        _write(fig, path)


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
    ax.axvline(epochs[at], color=_GREY, linewidth=1, linestyle=":", zorder=0)
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
        ink = "white" if shares[row, column] > 55 else _INK
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        ax.text(column, row, f"{matrix[row, column]}", **style)
    bar = fig.colorbar(
        image, ax=ax, fraction=0.05, aspect=25, label="share of the true genre (%)"
    )
    bar.ax.spines["outline"].set_visible(False)


def _new_figure(width: float, height: float, title: str) -> figure.Figure:
    layout = layout_engine.ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.04)
    fig = figure.Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    lines = textwrap.fill(title, round(9 * width))
    fig.suptitle(_verbatim(lines), x=0.1 / width, ha="left", fontweight="bold")
    return fig


def _verbatim(text: str) -> str:
    """Keeps matplotlib from reading what is between two dollars as TeX."""
    return text.replace("$", r"\$")


def _write(fig: figure.Figure, path: str | os.PathLike[str]) -> None:
    png = io.BytesIO()
    backend_agg.FigureCanvasAgg(fig).print_png(png)
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(png.getvalue())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
