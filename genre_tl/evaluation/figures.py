"""How every picture of this package looks, and how it is written.

Figures are drawn without pyplot, so neither a display nor global state is
needed. A picture appears whole or not at all.
"""

from __future__ import annotations

import io
import os
import pathlib
import textwrap
from typing import Any

from matplotlib import figure, layout_engine
from matplotlib.backends import backend_agg

from genre_tl import files

_DPI = 150
INK, GREY = "#333333", "#8C8C8C"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # Comes with matplotlib: the same everywhere.
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.03,
    "figure.titlesize": 12,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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
TRAINING: dict[str, Any] = {"color": "#0072B2", "linestyle": "--"}
VALIDATION: dict[str, Any] = {"color": "#D55E00", "linestyle": "-"}
POOLED: dict[str, Any] = {"color": "#009E73", "linestyle": "-."}


def new_figure(width: float, height: float, title: str) -> figure.Figure:
    """Returns an empty figure, `width` by `height` inches, with a headline."""
    layout = layout_engine.ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.04)
    fig = figure.Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    lines = textwrap.fill(title, round(9 * width))
    fig.suptitle(verbatim(lines), x=0.1 / width, ha="left", fontweight="bold")
    return fig


def verbatim(text: str) -> str:
    """Keeps matplotlib from reading what is between two dollars as TeX.

    And from refusing a name of a file that is no valid text.
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("$", r"\$")


def write(fig: figure.Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG, whole or not at all; the folder must exist."""
    png = io.BytesIO()
    backend_agg.FigureCanvasAgg(fig).print_png(png)
    with files.whole(pathlib.Path(path)) as unfinished:
        unfinished.write_bytes(png.getvalue())
