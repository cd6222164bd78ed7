"""Draws learning curves, confusion matrices and taggrams as PNG files.

Each function takes the `path` of the PNG, in an existing folder, and the `title` of
the picture. It raises OSError if the file cannot be written.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure, font_manager, layout_engine, text, ticker
from matplotlib.backends import backend_agg

from genre_tl import files

_DPI = 150
_FONT = "DejaVu Sans"  # Part of matplotlib, so pictures look the same everywhere.
INK, GREY = "#333333", "#8C8C8C"
_STYLE: dict[Any, Any] = {
    "font.family": _FONT,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.03,
    "figure.titlesize": 12,
    "axes.edgecolor": GREY,
    **dict.fromkeys(
        ["axes.labelcolor", "text.color", "xtick.color", "ytick.color"], INK
    ),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "lines.linewidth": 2,
}

# Colours of Okabe and Ito (2008), distinct without red-green vision; the line styles
# are distinct without any colour.
LINES: tuple[dict[str, Any], ...] = (
    {"color": "#D55E00", "linestyle": "-"},
    {"color": "#0072B2", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
)
_VALIDATION, _TRAINING, _POOLED, _ = LINES
_TAGGRAM_ROWS, _TAGGRAM_COLUMNS = 15, 1500
_TICK_SECS = np.array([1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600])

# Columns of a history: title of the panel, name in its legend, line.
_CURVES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "loss": ("Loss (nats)", "training", _TRAINING),
    "val_loss": ("Loss (nats)", "validation", _VALIDATION),
    "accuracy": ("Accuracy", "training", _TRAINING),
    "val_accuracy": ("Accuracy", "validation", _VALIDATION),
    "val_macro_auc_roc": ("Validation AUC-ROC", "macro (mean of tags)", _VALIDATION),
    "val_micro_auc_roc": ("Validation AUC-ROC", "micro (tags pooled)", _POOLED),
    "val_macro_pr_auc": ("Validation PR-AUC", "macro (mean of tags)", _VALIDATION),
    "val_micro_pr_auc": ("Validation PR-AUC", "micro (tags pooled)", _POOLED),
}

# The first of these columns that has a value decides which epoch is the best. The sign
# is negative where lower is better.
_MONITORED = {"val_macro_auc_roc": 1, "val_accuracy": 1, "val_loss": -1}


@contextlib.contextmanager
def picture(
    path: files.PathLike, title: str, size: tuple[float, float], **style: Any
) -> Iterator[figure.Figure]:
    """Yields an empty figure with a title, then writes it as a PNG atomically.

    `size` is width and height in inches; `style` overrides matplotlib settings, such as
    `font_size` for "font.size". No display is needed.
    """
    settings: dict[Any, Any] = {k.replace("_", ".", 1): v for k, v in style.items()}
    layout = layout_engine.ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.04)
    png = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, **settings}), warnings.catch_warnings():
        # A character that no installed font has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        fig = figure.Figure(figsize=size, dpi=_DPI, layout=layout)
        headline = verbatim(textwrap.fill(title, round(9 * size[0])))
        fig.suptitle(headline, x=0.1 / size[0], ha="left", fontweight="bold")
        yield fig
        _use_fallback_fonts(fig)
        backend_agg.FigureCanvasAgg(fig).print_png(png)
    with files.whole(path) as unfinished:
        unfinished.write_bytes(png.getvalue())


def verbatim(label: str) -> str:
    """Escapes dollars, which start TeX, and bytes of file names that are no text."""
    return label.encode("utf-8", "backslashreplace").decode("utf-8").replace("$", r"\$")


def _use_fallback_fonts(fig: figure.Figure) -> None:
    """Draws the characters that the default font lacks with other installed fonts."""
    texts = fig.findobj(text.Text)
    characters = {ord(c) for item in texts for c in item.get_text() if c.isprintable()}
    fonts = font_manager.fontManager
    missing = characters - _characters(fonts.findfont(_FONT))
    families = [_FONT]
    for font in fonts.ttflist:
        if font.name.startswith("Last Resort"):  # boxes for all characters
            continue
        if missing and (found := missing & _characters(font.fname)):
            missing -= found
            families.append(font.name)
    for item in texts:
        item.set_fontfamily(families)


def _characters(font_file: str) -> set[int]:
    with contextlib.suppress(OSError, RuntimeError):  # Removed or damaged.
        return set(font_manager.get_font(font_file).get_charmap())
    return set()


def learning_curves(
    history: Mapping[str, Sequence[float]], path: files.PathLike, *, title: str
) -> None:
    """Draws loss and metrics against the epoch and marks the best epoch.

    The best epoch has the highest `val_macro_auc_roc`, else the highest
    `val_accuracy`, else the lowest `val_loss`; the legends give its values. Without
    validation they give those of the last epoch. `history` holds the columns of
    `history.csv`, each optional; NaN stands for "not measured".

    Raises ValueError if there is nothing to draw or the columns differ in length.
    """
    columns = _columns(history)
    panels = [*dict.fromkeys(_CURVES[name][0] for name in _CURVES if name in columns)]
    if not panels:
        raise ValueError(
            f"history has nothing to draw in its columns {sorted(history)}: it "
            f"needs at least one epoch of one of {', '.join(_CURVES)}"
        )
    at, legend_title = _marked_epoch(columns)
    with picture(path, title, (4.4 * len(panels), 4.2)) as fig:
        row = fig.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel in zip(row, panels, strict=True):
            _draw_panel(ax, panel, columns, at)
            legend_below(ax, title=legend_title, handlelength=3)


def legend_below(ax: axes.Axes, **options: Any) -> None:
    """Puts the legend under the axes, where it hides no curve."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.19)}
    ax.legend(**place, alignment="left", borderaxespad=0, **options)


def _columns(history: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    known = {name: history[name] for name in ("epoch", *_CURVES) if name in history}
    lengths = {name: len(values) for name, values in known.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history has columns of different lengths: {lengths}")
    columns = {"epoch": np.arange(1.0, 1 + max(lengths.values(), default=0))}
    columns |= {name: np.asarray(values, float) for name, values in known.items()}
    return {name: x for name, x in columns.items() if np.isfinite(x).any()}


def _marked_epoch(columns: Mapping[str, np.ndarray]) -> tuple[int, str]:
    for key, sign in _MONITORED.items():
        if key in columns:
            at = int(np.nanargmax(sign * columns[key]))
            return at, f"At the best epoch, {columns['epoch'][at]:.0f}:"
    return -1, f"At the last epoch, {columns['epoch'][-1]:.0f}:"


def _draw_panel(
    ax: axes.Axes, title: str, columns: Mapping[str, np.ndarray], at: int
) -> None:
    epochs = columns["epoch"]
    for key, (panel, name, line) in _CURVES.items():
        if panel == title and key in columns:
            value = columns[key][at]
            shown = f"{value:.1%}" if title == "Accuracy" else f"{value:.3f}"
            ax.plot(epochs, columns[key], label=f"{name}: {shown}", **line)
            ax.plot(epochs[at], value, "o", color=line["color"])
    ax.axvline(epochs[at], color=GREY, linewidth=1, linestyle=":", zorder=0)
    ax.set_title(title)
    _format_axes(ax, in_percent=title == "Accuracy")


def _format_axes(ax: axes.Axes, *, in_percent: bool) -> None:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    if in_percent:
        ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))


def accuracy_curves(
    curves: Mapping[str, Sequence[float]], path: files.PathLike, *, title: str
) -> None:
    """Draws the accuracy after each epoch, 0 to 1, of at most four models."""
    with picture(path, title, (6.4, 4.2)) as fig:
        ax = fig.subplots()
        for (name, values), line in zip(curves.items(), LINES, strict=False):
            label = f"{verbatim(name)}: {values[-1]:.1%} at the end"
            ax.plot(np.arange(1, len(values) + 1), values, label=label, **line)
        _format_axes(ax, in_percent=True)
        ax.set_ylabel("accuracy")
        ax.legend(loc="lower right", handlelength=3)


def confidence(
    curves: Mapping[str, tuple[np.ndarray, Iterable[np.ndarray]]],
    path: files.PathLike,
    *,
    title: str,
) -> None:
    """Draws reliability, and precision against coverage, of at most four models.

    `curves` hold for each name what `calibration.reliability` and
    `calibration.coverage` return.
    """
    with picture(path, title, (9.6, 4.6)) as fig:
        left, right = fig.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        for (name, (bins, rates)), line in zip(curves.items(), LINES, strict=False):
            count, score, accuracy = bins[bins[:, 0] > 0].T
            left.plot(score, accuracy, **line)
            # The area of a point is the share of the clips.
            area = 20 + 300 * count / count.sum()
            label = verbatim(name)
            left.scatter(score, accuracy, area, color=line["color"], label=label)
            right.plot(*rates, label=label, **line)
        left.set(xlabel="highest score", ylabel="share that is right", xlim=(0, 1.02))
        right.set(xlabel="share of clips that get a genre", ylabel="precision")
        left.set_ylim(0, 1.05)
        for ax, heading in ((left, "Reliability"), (right, "Precision and coverage")):
            ax.set_title(heading)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(ticker.PercentFormatter(1))
        right.legend(loc="lower left", handlelength=3)


def confusion_matrix(
    matrix: np.ndarray, vocabulary: Sequence[str], path: files.PathLike, *, title: str
) -> None:
    """Draws a confusion matrix: clips as numbers, shares of a row as colours.

    `matrix` is `[true genres, predicted genres]`, in the order of the vocabulary.
    """
    matrix, num_genres = np.asarray(matrix), len(vocabulary)
    names = [verbatim(name) for name in vocabulary]
    cell = float(np.clip(0.42, 3 / num_genres, 21 / num_genres))  # Inches.
    font = min(10.0, 24 * cell)  # Points.
    label = max(map(len, names)) * font * 0.6 / 72
    size = num_genres * cell + label + 2.3, num_genres * cell + 0.7 * label + 1.2
    with picture(path, title, size, axes_grid=False, font_size=font) as fig:
        ax = fig.subplots()
        clips = matrix.sum(axis=1)
        rows = [f"{name} ({count})" for name, count in zip(names, clips, strict=True)]
        shares = 100 * matrix / np.maximum(clips, 1)[:, np.newaxis]
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        _label_cells(ax, rows, names)
        for row, column in np.argwhere(matrix):
            ink = "white" if shares[row, column] > 55 else INK
            number = f"{matrix[row, column]}"
            ax.text(column, row, number, ha="center", va="center", color=ink)
        what = "share of the true genre (%)"
        fig.colorbar(image, ax=ax, fraction=0.05, aspect=25, label=what)


def _label_cells(ax: axes.Axes, rows: list[str], columns: list[str]) -> None:
    ticks = np.arange(len(rows))
    ax.set_xticks(ticks, columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, rows)
    ax.set(xlabel="predicted genre", ylabel="true genre (clips)")
    ax.spines[:].set_visible(False)
    # Minor ticks lie between the cells, so their grid separates them.
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks[1:] - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)


def taggram(
    times_secs: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    path: files.PathLike,
    *,
    title: str,
) -> None:
    """Draws scores `[times, labels]`, 0 to 1; the highest means are on top."""
    rows = np.argsort(-scores.mean(axis=0), kind="stable")[:_TAGGRAM_ROWS]
    # More columns than a picture has room for are averaged with their neighbours.
    num_columns = min(len(scores), _TAGGRAM_COLUMNS)
    starts = np.linspace(0, len(scores), num_columns, endpoint=False).astype(int)
    sums = np.add.reduceat(scores[:, rows].astype(float), starts, axis=0)
    means = sums / np.diff([*starts, len(scores)])[:, np.newaxis]
    step = np.diff(times_secs).mean() if len(times_secs) > 1 else 1.0
    edges = np.append(times_secs[starts], times_secs[-1] + step) - step / 2
    edges[0] = max(edges[0], 0)
    with picture(path, title, (9.0, 1.5 + 0.26 * len(rows)), axes_grid=False) as fig:
        ax = fig.subplots()
        places = np.arange(len(rows) + 1)
        mesh = ax.pcolormesh(edges, places, means.T, vmin=0, vmax=1, cmap="cividis")
        ax.set_yticks(places[:-1] + 0.5, [verbatim(labels[row]) for row in rows])
        ax.invert_yaxis()
        _label_times(ax, edges)
        fig.colorbar(mesh, ax=ax, fraction=0.04, aspect=15, label="score")


def _label_times(ax: axes.Axes, edges: np.ndarray) -> None:
    secs = _TICK_SECS[np.searchsorted(_TICK_SECS[:-1], np.ptp(edges) / 10)]
    ax.xaxis.set_major_locator(ticker.MultipleLocator(secs))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x // 60:.0f}:{x % 60:02.0f}")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("time (minutes:seconds)")
