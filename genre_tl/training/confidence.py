"""What the scores of a cross-validated model are worth, from its test clips.

Calibration, thresholds and the clips that look mislabelled. Whatever is fitted for the
clips of a fold is fitted on the other folds of its repeat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genre_tl.evaluation import calibration, metrics, plots
from genre_tl.training import cross_validation

Record = cross_validation.Record
_Lines = Sequence[Mapping[str, Any]]

_SHOWN_SUSPECTS = 20
_MOST_POINTS = 200  # of a curve


class _Tested(NamedTuple):
    """Test predictions of all folds: rows of the table, genres and scores."""

    rows: np.ndarray
    classes: np.ndarray
    before: np.ndarray  # [predictions, genres]
    after: np.ndarray
    counts: Mapping[float, tuple[int, int]]  # sure and right, by precision


def measure(record: Record, lines: _Lines) -> dict[str, Any]:
    """Returns calibration, thresholds and suspects of a model, ready for JSON.

    Empty for a model without scores, and if a repeat has a single fold.
    """
    tested = _test(record, lines)
    if tested is None:
        return {}
    found = cross_validation.out_of_fold(record, lines)
    scale = calibration.fit(found)
    scores = calibration.calibrated(found, scale)
    return {
        "calibration": {"scale": scale} | _errors(tested),
        "thresholds": {
            f"{precision:g}": _thresholds(record, found.classes, scores, precision)
            | _measured(counts, len(tested.rows))
            for precision, counts in tested.counts.items()
        },
        "curves": {
            "as trained": _curves(tested.classes, tested.before),
            "calibrated": _curves(tested.classes, tested.after),
        },
        "suspects": _suspects(record, tested),
    }


def _errors(tested: _Tested) -> dict[str, float]:
    error = calibration.expected_error
    return {
        "error_before": error(tested.classes, tested.before),
        "error_after": error(tested.classes, tested.after),
        "error_by_chance": calibration.expected_error_by_chance(
            tested.after, tested.rows
        ),
    }


def _thresholds(
    record: Record, classes: np.ndarray, scores: np.ndarray, precision: float
) -> dict[str, Any]:
    lowest = calibration.thresholds(classes, scores, precision)
    values = (None if math.isinf(x) else float(x) for x in lowest)
    return {"genres": dict(zip(record.settings["vocabulary"], values, strict=True))}


def _measured(counts: tuple[int, int], num_tested: int) -> dict[str, float | None]:
    num_sure, num_right = counts
    precision = num_right / num_sure if num_sure else None
    return {"precision": precision, "coverage": num_sure / num_tested}


def _curves(classes: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Returns bins of the reliability, and some points of precision and coverage."""
    rates = np.stack(calibration.coverage(classes, scores), axis=1)
    some = np.linspace(0, len(rates) - 1, min(len(rates), _MOST_POINTS)).astype(int)
    bins = calibration.reliability(classes, scores)
    return {
        "reliability": [[metrics.or_none(x) for x in row] for row in bins.tolist()],
        "coverage": rates[some].tolist(),
    }


def _test(record: Record, lines: _Lines) -> _Tested | None:
    """Calibrates the test clips of each fold by the other folds of its repeat."""
    parts = []
    counts = dict.fromkeys(calibration.PRECISIONS, (0, 0))
    for line in lines:
        others = [
            x
            for x in lines
            if x["repeat"] == line["repeat"] and x["fold"] != line["fold"]
        ]
        if "log_scores" not in line or not others:
            return None
        rest, found = (
            cross_validation.out_of_fold(record, some) for some in (others, [line])
        )
        scale = calibration.fit(rest)
        before, after = calibration.plain(found), calibration.calibrated(found, scale)
        parts.append((line["test"], found.classes, before, after))
        scores = calibration.calibrated(rest, scale)
        for p, sums in counts.items():
            lowest = calibration.thresholds(rest.classes, scores, p)
            more = calibration.at_thresholds(found.classes, after, lowest)
            counts[p] = sums[0] + more[0], sums[1] + more[1]
    rows, classes, before, after = map(np.concatenate, zip(*parts, strict=True))
    return _Tested(rows, classes, before, after, counts)


def _suspects(record: Record, tested: _Tested) -> list[dict[str, Any]]:
    """Returns the clips that look mislabelled, the most suspicious first."""
    rows, position = np.unique(tested.rows, return_inverse=True)
    scores = np.zeros((len(rows), tested.after.shape[1]))
    np.add.at(scores, position, tested.after)
    scores /= np.bincount(position)[:, np.newaxis]
    vocabulary, data = record.settings["vocabulary"], record.settings["data"]
    classes = np.array(data["classes"])[rows]
    return [
        {
            "path": data["paths"][rows[clip]],
            "label": vocabulary[classes[clip]],
            "label_score": round(float(scores[clip, classes[clip]]), 4),
            "looks_like": vocabulary[scores[clip].argmax()],
            "score": round(float(scores[clip].max()), 4),
        }
        for clip in calibration.suspects(classes, scores)
    ]


def sections(record: Record, model: str, results: Mapping[str, Any]) -> Iterator[str]:
    """Yields the report on what `measure` returned, and draws its picture."""
    if "calibration" not in results:
        return
    found, picture = results["calibration"], f"confidence-{model}.png"
    curves = {
        name: (
            np.array(curve["reliability"], np.float64),
            np.array(curve["coverage"]).T,
        )
        for name, curve in results["curves"].items()
    }
    title = f"{record.settings['data']['name']}: what a score is worth ({model})"
    plots.confidence(curves, record.folder / picture, title=title)
    yield f"""## What a score is worth: {model}

![confidence]({picture})

Left: of the clips whose best genre has a score of 0.7, about 7 of 10 should be of that
genre (dashed line). Right: the precision if only the clips with the highest scores get
a genre, and the share of clips that are then left. Expected calibration error:
{found["error_before"]:.3f} as trained, {found["error_after"]:.3f} calibrated. Perfect
scores of as many clips would have {found["error_by_chance"]:.3f}."""
    yield _threshold_table(results["thresholds"])
    yield _suspect_table(results["suspects"])


def _threshold_table(thresholds: Mapping[str, Any]) -> str:
    genres = next(iter(thresholds.values()))["genres"]
    names = [f"{float(p):.0%} precision" for p in thresholds]
    rows = [f"| lowest score for | {' | '.join(names)} |"]
    rows.append("| --- |" + " --- |" * len(names))
    for genre in genres:
        lowest = (x["genres"][genre] for x in thresholds.values())
        cells = ("not reached" if x is None else f"{x:.2f}" for x in lowest)
        rows.append(f"| {genre} | {' | '.join(cells)} |")
    for what in ("precision", "coverage"):
        shares = (x[what] for x in thresholds.values())
        cells = ("-" if x is None else f"{x:.1%}" for x in shares)
        rows.append(f"| *measured {what}* | {' | '.join(cells)} |")
    return "\n".join(rows)


def _suspect_table(suspects: Sequence[Mapping[str, Any]]) -> str:
    if not suspects:
        return "No clip looks mislabelled."
    rows = [
        f"### Clips that look mislabelled: {len(suspects)}\n",
        "Listen to them first. All of them are in `report.json`.\n",
        "| file | label | score | looks like | score |",
        "| --- | --- | --- | --- | --- |",
    ]
    for clip in suspects[:_SHOWN_SUSPECTS]:
        path = clip["path"].replace("|", "\\|")
        rows.append(
            f"| `{path}` | {clip['label']} | {clip['label_score']:.2f} | "
            f"{clip['looks_like']} | {clip['score']:.2f} |"
        )
    return "\n".join(rows)
