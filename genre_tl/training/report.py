"""A cross-validation to a report that a person can read: Markdown, JSON, pictures."""

from __future__ import annotations

import collections
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genre_tl import files
from genre_tl.evaluation import intervals, metrics, plots
from genre_tl.training import cross_validation, records, run_folder, training

_NAMES = {
    "transfer": "transfer",
    "random": "random initialisation",
    "svm": "scattering means + RBF-SVM",
}
_PAIRS = (("transfer", "random"), ("transfer", "svm"), ("random", "svm"))


def summary(record: records.Record) -> dict[str, Any]:
    """Returns the figures of all finished folds, fit for JSON.

    Accuracies are from 0 to 1. Differences are taken over the folds that both
    models have finished.
    """
    lines = {
        model: {
            (x["repeat"], x["fold"]): x for x in record.lines if x["model"] == model
        }
        for model in cross_validation.MODELS
    }
    lines = {model: folds for model, folds in lines.items() if folds}
    return {
        "models": {
            model: _of_model(record, list(folds.values()))
            for model, folds in lines.items()
        },
        "differences": {
            f"{one} - {other}": _difference(record, lines[one], lines[other])
            for one, other in _PAIRS
            if one in lines
            and other in lines
            and lines[one].keys() & lines[other].keys()
        },
        "time": _time(record.lines),
    }


def write(
    record: records.Record, *, start: str | os.PathLike[str] | None = None
) -> str:
    """Writes `report.md`, `report.json` and pictures into the record's folder.

    Args:
      record: with one finished fold at least.
      start: the pre-training run, for its figures.

    Returns:
      The table and, where there is one, the warning.

    Raises:
      ValueError: if no fold has finished.
    """
    if not record.lines:
        raise ValueError(f"{record.folder}: no fold has finished")
    figures = summary(record)
    warnings = [*_leaks(record, figures), *_warnings(figures)]
    sections = [_head(record), _table(figures), *warnings]
    shown = "\n\n".join(sections[1:])
    sections += [_curves(record, figures), *_by_genre(record, figures)]
    sections += [_source(record, pathlib.Path(start))] if start else []
    sections += [_method(record), _pulls(record, figures), _spent(figures)]
    _write(record.folder / "report.json", json.dumps(figures, indent=1))
    _write(record.folder / "report.md", "\n\n".join(filter(None, sections)))
    return f"{shown}\n\nwritten: {record.folder}/report.md, report.json, pictures"


def _of_model(
    record: records.Record, lines: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    classes = np.array(record.settings["data"]["classes"])
    test = np.concatenate([line["test"] for line in lines])
    predicted = np.concatenate([line["predicted"] for line in lines])
    vocabulary = record.settings["vocabulary"]
    scores = np.eye(len(vocabulary))[predicted]
    pooled = metrics.genre_metrics(classes[test], scores, vocabulary)
    figures: dict[str, Any] = {
        "accuracy": _mean(record, [line["accuracy"] for line in lines], lines)
        | _by_clips(record, [_is_right(record, lines)]),
        "recall": {
            genre: metrics.or_none(recall)
            for genre, recall in zip(vocabulary, pooled.recall.tolist(), strict=True)
        },
        "confusion": pooled.confusion.tolist(),
    }
    pulls = collections.Counter(x["head_pull"] for x in lines if "head_pull" in x)
    if pulls:
        figures["head_pulls"] = {f"{p:g}": pulls[p] for p in sorted(pulls)}
    for name in ("accuracy", "val_accuracy", "test_accuracy"):
        if all(name in line.get("history", ()) for line in lines):
            values = [line["history"][name] for line in lines]
            figures[f"{name}_by_epoch"] = np.mean(values, axis=0).tolist()
    return figures


def _mean(
    record: records.Record, values: Sequence[float], lines: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    # The clips that `clips_per_genre` leaves out belong to the rest too: what training
    # parts have in common grows no more for their absence.
    num_all = len(record.settings["data"]["paths"])
    tested = np.array([len(line["test"]) for line in lines])
    share = float(np.mean(tested / (num_all - tested)))
    repeats = [line["repeat"] for line in lines]
    figures = intervals.resampled_mean(values, repeats, share).to_dict()
    if not _has_folds(record):
        # Seeds on the same test clips say nothing of what other clips would change.
        figures["interval"] = [None, None]
    return figures


def _has_folds(record: records.Record) -> bool:
    return record.settings["data"]["split"] == "folds"


def _is_right(record: records.Record, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns 0 or 1 for each repeat and clip, NaN where a clip was not tested."""
    classes = np.array(record.settings["data"]["classes"])
    num_repeats = max(line["repeat"] for line in lines) + 1
    is_right = np.full([num_repeats, len(classes)], np.nan)
    for line in lines:
        hits = np.array(line["predicted"]) == classes[line["test"]]
        is_right[line["repeat"], line["test"]] = hits
    return is_right


def _by_clips(
    record: records.Record, is_right: Sequence[np.ndarray]
) -> dict[str, list[float | None]]:
    """Returns the bootstrap's interval of an accuracy, or a difference of two."""
    num_repeats = min(map(len, is_right))
    values = is_right[0][:num_repeats]
    if len(is_right) > 1:
        values = values - is_right[1][:num_repeats]
    groups = np.array(record.settings["data"]["groups"])
    tested = ~np.isnan(values).all(axis=0)
    values = values[:, tested]
    # A repeat that is not finished has not tested all clips that others have.
    values = values[~np.isnan(values).any(axis=1)]
    bounds = intervals.crossed_interval(values, groups[tested]) if len(values) else ()
    return {"clips_interval": [*bounds] or [None, None]}


def _difference(
    record: records.Record,
    ours: Mapping[Any, Mapping[str, Any]],
    theirs: Mapping[Any, Mapping[str, Any]],
) -> dict[str, Any]:
    both = sorted(ours.keys() & theirs.keys())
    values = [ours[key]["accuracy"] - theirs[key]["accuracy"] for key in both]
    lines = [[folds[key] for key in both] for folds in (ours, theirs)]
    is_right = [_is_right(record, of_model) for of_model in lines]
    return _mean(record, values, lines[0]) | _by_clips(record, is_right)


def _time(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        part: round(sum(x["time"][part] for x in lines if x["model"] != "svm"), 1)
        for part in ("steps", "evaluation", "other")
    }


def _head(record: records.Record) -> str:
    data, plan = record.settings["data"], record.settings["plan"]
    num_repeats = len({line["repeat"] for line in record.lines})
    folds = (
        f"{plan['num_folds']} folds x {num_repeats} repeats"
        if _has_folds(record)
        else f"split {data['split']} x {num_repeats} seeds"
    )
    largest = max(collections.Counter(data["classes"]).values()) / len(data["classes"])
    return (
        f"# {data['name']}: {len(data['paths'])} clips, "
        f"{len(record.settings['vocabulary'])} genres\n\n"
        f"{folds}, seed {plan['seed']}, protocol `{plan['protocol']}`; the largest "
        f"genre has {largest:.0%} of the clips.\n\n"
        f"```\n{record.settings['command']}\n```"
    )


def _table(figures: Mapping[str, Any]) -> str:
    rows = [
        "| | accuracy | 95 % interval | by bootstrap | by repeats alone "
        "| std over repeats | folds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, of_model in figures["models"].items():
        rows.append(_row(_NAMES[model], of_model["accuracy"], "{:.1f} %"))
    for pair, mean in figures["differences"].items():
        rows.append(_row(f"{pair.replace(' - ', ' − ')} (points)", mean, "{:+.1f}"))
    return "\n".join(rows)


def _row(name: str, mean: Mapping[str, Any], form: str) -> str:
    def percent(*values: float | None) -> str:
        return " to ".join("-" if x is None else form.format(100 * x) for x in values)

    cells = (
        name,
        percent(mean["value"]),
        percent(*mean["interval"]),
        percent(*mean["clips_interval"]),
        percent(*mean["repeat_interval"]),
        percent(mean["repeat_stddev"]).lstrip("+"),
        mean["num_folds"],
    )
    return f"| {' | '.join(map(str, cells))} |"


def _warnings(figures: Mapping[str, Any]) -> list[str]:
    mean = figures["differences"].get("transfer - random")
    if mean is None or round(100 * mean["value"], 1) >= 0:
        return []
    points = f"{-100 * mean['value']:.1f} points"
    high = mean["interval"][1]
    if high is None:
        high = mean["clips_interval"][1]
    if high is not None and high < 0:
        return [
            f"**Warning: transfer does worse than random initialisation, by {points}; "
            "the interval excludes zero.** The source does not suit this target: it "
            "may be too distant, too small or too weakly labelled. Use random "
            "initialisation, or another source."
        ]
    return [
        f"**Warning: transfer does not help here: {points} below random "
        "initialisation, though the interval includes zero.**"
    ]


def _leaks(record: records.Record, figures: Mapping[str, Any]) -> list[str]:
    start, data = record.settings["start"], record.settings["data"]
    if start is None or "transfer" not in figures["models"]:
        return []
    num_seen = training.num_seen(start, data["name"], data["paths"])
    if not num_seen:
        return []
    return [
        f"**Warning: the source was trained on {num_seen} of these "
        f"{len(data['paths'])} clips, or stopped by them: what is said of transfer "
        "flatters it.** Pre-train without them."
    ]


def _curves(record: records.Record, figures: Mapping[str, Any]) -> str:
    kind = "test" if record.settings["plan"]["curves"] else "val"
    curves = {
        _NAMES[model]: of_model[f"{kind}_accuracy_by_epoch"]
        for model, of_model in figures["models"].items()
        if f"{kind}_accuracy_by_epoch" in of_model
    }
    if not curves:
        return ""
    what = {"test": "test folds", "val": "inner validation clips"}[kind]
    title = f"{record.settings['data']['name']}: mean accuracy on the {what}"
    plots.accuracy_curves(curves, record.folder / "accuracy.png", title=title)
    text = (
        f"## Accuracy against epoch\n\n![accuracy](accuracy.png)\n\nMean over {what}."
    )
    if kind == "test":
        text += " The test folds were read after each epoch for this plot alone."
    return text + _speed(curves)


def _speed(curves: Mapping[str, Sequence[float]]) -> str:
    ours, theirs = (curves.get(_NAMES[model]) for model in ("transfer", "random"))
    if not ours or not theirs:
        return ""
    reached = np.flatnonzero(np.array(ours) >= theirs[-1])
    if not len(reached):
        return " Transfer never reaches the accuracy that random ends with."
    return (
        f" Transfer first reaches the accuracy that random ends with "
        f"({theirs[-1]:.1%}, epoch {len(theirs)}) at epoch {reached[0] + 1}."
    )


def _by_genre(record: records.Record, figures: Mapping[str, Any]) -> list[str]:
    vocabulary, models = record.settings["vocabulary"], figures["models"]
    rows = [
        "| recall | " + " | ".join(models) + " |",
        "| --- |" + " --- |" * len(models),
    ]
    for genre in vocabulary:
        cells = (_percent(of_model["recall"][genre]) for of_model in models.values())
        rows.append(f"| {genre} | {' | '.join(cells)} |")
    pictures = []
    for model, of_model in models.items():
        matrix, name = np.array(of_model["confusion"]), f"confusion-{model}.png"
        title = f"{_NAMES[model]}: all test folds of all repeats"
        plots.confusion_matrix(matrix, vocabulary, record.folder / name, title=title)
        pictures.append(f"![{model}]({name})")
    return ["## By genre\n\n" + "\n".join(rows), "\n".join(pictures)]


def _source(record: records.Record, start: pathlib.Path) -> str:
    run = run_folder.read_run(start)
    history = run_folder.read_history(start)
    plots.learning_curves(
        {name: [row[name] for row in history] for name in history[0]},
        record.folder / "pretraining.png",
        title=f"{start.name}: pre-training",
    )
    figures = run["metrics"]["valid"]
    text = (
        f"## Pre-training\n\n![pre-training](pretraining.png)\n\n"
        f"Epoch {run['best_epoch']} of {run['epochs']} was kept. Validation, "
        f"{figures['num_tags']} tags with {figures['min_positives']} clips or more: "
        f"AUC-ROC {figures['macro_auc_roc']:.3f} macro, {figures['micro_auc_roc']:.3f} "
        f"micro; PR-AUC {figures['macro_pr_auc']:.3f} macro, "
        f"{figures['micro_pr_auc']:.3f} micro."
    )
    tags = sorted(figures.get("tag_auc_roc", {}).items(), key=lambda item: -item[1])
    listed = ", ".join(f"{tag} {area:.2f}" for tag, area in tags)
    return f"{text}\n\nAUC-ROC by tag: {listed}." if listed else text


def _method(record: records.Record) -> str:
    plan = record.settings["plan"]
    has_repeats = len({line["repeat"] for line in record.lines}) > 1
    corrected = (
        "Intervals are those of the corrected resampled t-test (Nadeau and Bengio, "
        "2003), which allows for folds that share training clips, and is wide where "
        "they are few; clips that `clips_per_genre` leaves out count as not tested"
        if _has_folds(record)
        else "All repeats test the same clips, so there is no interval by folds"
    )
    drawn = (
        "groups of clips and finished repeats anew (Owen, 2007) and say what other "
        "test clips and divisions would change"
        if has_repeats
        else "groups of clips anew and say what other test clips would change"
    )
    chosen = {
        "paper": "trained for a fixed number of epochs",
        "strict": "the epoch was chosen on inner validation clips",
    }[plan["protocol"]]
    return (
        "## How it was measured\n\n"
        f"Networks: {chosen}. The test clips of a fold choose nothing; the prediction "
        "that counts is made once, at the end. The SVM takes the mean frame of a "
        f"clip, standardised on the training clips, with C = 10. {corrected}; those "
        f"by bootstrap draw {drawn}; those by repeats alone (Student's t of the "
        "repeats' means) what another division of the same clips would. Differences "
        "are paired, by fold and by clip."
    )


def _pulls(record: records.Record, figures: Mapping[str, Any]) -> str:
    training = record.settings["preset"]["finetune"]
    if training["backbone_rate"] or not training["head_pulls"]:
        return ""
    told = {
        model: ", ".join(
            f"{pull} in {count}" for pull, count in of_model["head_pulls"].items()
        )
        for model, of_model in figures["models"].items()
        if "head_pulls" in of_model
    }
    if not told:
        return ""
    return (
        "How strongly the head was pulled back to where it began (`head_pull`), in "
        f"folds: {'; '.join(f'{model} {text}' for model, text in told.items())}. "
        "Where it begins with tags' weights, inner folds of the training clips chose "
        f"it of {', '.join(f'{pull:g}' for pull in training['head_pulls'])}, groups "
        "kept whole."
    )


def _spent(figures: Mapping[str, Any]) -> str:
    time = figures["time"]
    total = sum(time.values())
    if not total:
        return ""
    return (
        f"Time of the networks: {total:.0f} s, {time['steps'] / total:.0%} of it in "
        f"training steps, {time['evaluation'] / total:.0%} in scoring, "
        f"{time['other'] / total:.0%} in all else."
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _write(path: pathlib.Path, text: str) -> None:
    files.write_text(path, text.rstrip() + "\n")
