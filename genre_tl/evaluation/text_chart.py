"""Draws the scores of one clip as text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-5  # A float32 softmax may leave [0, 1] by about this much.


def bar_chart(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[str],
    width: int = 60,
    *,
    ascii_only: bool = False,
) -> str:
    """Returns a bar for each score, the highest first; a score of 1 fills the width.

    Raises ValueError if the lengths differ or a score is not from 0 to 1.
    """
    values = np.asarray(scores, np.float64)
    if values.shape != (len(labels),):
        raise ValueError(f"{len(labels)} labels need as many scores: {values.shape}")
    if not ((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all():
        raise ValueError(f"scores must be from 0 to 1, not {values.tolist()}")
    order = np.argsort(-values, kind="stable")
    names = [_fitted(labels[i], width // 2, ascii_only) for i in order]
    name_width = max(map(len, names), default=0)
    bar_width = width - name_width - len("  100.0 %  ")
    lines = [
        f"{name:<{name_width}}  {100 * x:>5.1f} %  {_bar(x * bar_width, ascii_only)}"
        for name, x in zip(names, np.clip(values[order], 0, 1), strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _fitted(label: str, width: int, ascii_only: bool) -> str:
    if ascii_only:
        label = label.encode("ascii", "backslashreplace").decode()
    cut = "..." if ascii_only else "…"
    return label if len(label) <= width else label[: width - len(cut)] + cut


def _bar(length: float, ascii_only: bool) -> str:
    full, eighths = divmod(round(length * 8), 8)
    return "#" * round(length) if ascii_only else "█" * full + " ▏▎▍▌▋▊▉"[eighths]
