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
    vocabulary, everything = (
        record.settings["vocabulary"],
        cross_validation.out_of_fold(record, lines),
    )
    scale = calibration.fit(everything)
    scores = calibration.calibrated(everything, scale)
    by_genre = {
        p: calibration.thresholds(everything.classes, scores, p) for p in tested.counts
    }
    return {
        "calibration": {
            "scale": scale,
            "error_before": calibration.expected_error(tested.classes, tested.before),
            "error_after": calibration.expected_error(tested.classes, tested.after),
            "error_by_chance": calibration.expected_error_by_chance(
                tested.after, tested.rows
            ),
        },
        "thresholds": {
            f"{p:g}": {
                "precision": num_right / num_sure if num_sure else None,
                "coverage": num_sure / len(tested.rows),
                "genres": {
                    genre: None if math.isinf(x) else float(x)
                    for genre, x in zip(vocabulary, by_genre[p], strict=True)
                },
            }
            for p, (num_sure, num_right) in tested.counts.items()
        },
        "reliability": [
            [metrics.or_none(float(x)) for x in row]
            for row in calibration.reliability(tested.classes, tested.after)
        ],
        "suspects": _suspects(record, tested),
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


def sections(
    record: Record, model: str, results: Mapping[str, Any], lines: _Lines
) -> Iterator[str]:
    """Yields the report on what `measure` returned, and draws its picture."""
    tested = _test(record, lines)
    if not results.get("calibration") or tested is None:
        return
    found, picture = results["calibration"], f"confidence-{model}.png"
    curves = {"as trained": tested.before, "calibrated": tested.after}
    plots.confidence(
        {
            name: (
                calibration.reliability(tested.classes, scores),
                calibration.coverage(tested.classes, scores),
            )
            for name, scores in curves.items()
        },
        record.folder / picture,
        title=f"{record.settings['data']['name']}: what a score is worth ({model})",
    )
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
