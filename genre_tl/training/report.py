"""Writes the report of a cross-validation: Markdown, JSON and pictures."""

from __future__ import annotations

import collections
import itertools
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from genre_tl import files
from genre_tl.evaluation import intervals, metrics, plots
from genre_tl.training import confidence, cross_validation, run_folder

Record = cross_validation.Record
_Lines = Sequence[Mapping[str, Any]]

_NAMES = {
    "transfer": "transfer",
    "kernel": "Gaussian-kernel head",
    "probe": "linear probe",
    "finetune": "fine-tuned network",
    "random": "random initialisation",
    "svm": "SVM on mean frames",
}
_WHOLE_GTZAN = 990  # Clips; a few of the 1,000 are often left out.
_PUBLISHED = """

Published for all of GTZAN and MagnaTagATune, ten times 10-fold: 95.8 % with transfer,
93.5 % from random initialisation (Song et al., 2017)."""


def write(record: Record, *, start: files.PathLike | None = None) -> str:
    """Writes `report.md`, `report.json` and pictures into the record's folder.

    Reports the pre-training run `start` too. Returns the text to show: the table,
    warnings and the result in words.

    Raises:
      ValueError: if no fold has finished.
    """
    if not record.lines:
        raise ValueError(f"{record.folder}: no fold has finished")
    results = summary(record)
    table = [_table(results), *_warnings(record, results)]
    model, of_model = next(iter(results["models"].items()))
    in_words = f"{_NAMES[model]}: {of_model['in_words']}."
    sections = [
        _head(record),
        *table,
        *_curves(record, results),
        *_by_genre(record, results),
        *_confidence(record, results),
        *(_source(record, pathlib.Path(start)) if start else []),
        _method(record),
        in_words,
    ]
    files.write_json(record.folder / "report.json", results)
    files.write_text(record.folder / "report.md", "\n\n".join(sections) + "\n")
    written = f"written: {record.folder}/report.md, report.json, pictures"
    return "\n\n".join([*table, written, in_words])


def summary(record: Record) -> dict[str, Any]:
    """Returns the results of all finished folds, ready for JSON.

    Accuracies are from 0 to 1, over all test predictions of a model. Differences are
    over the test predictions that both models have made.
    """
    lines = {x: [y for y in record.lines if y["model"] == x] for x in _NAMES}
    return {
        "models": {x: _of_model(record, y) for x, y in lines.items() if y},
        "differences": {
            f"{one} - {other}": difference
            for one, other in itertools.combinations(_NAMES, 2)
            if (difference := _difference(record, lines[one], lines[other]))
        },
    }


def _of_model(record: Record, lines: _Lines) -> dict[str, Any]:
    data, vocabulary = record.settings["data"], record.settings["vocabulary"]
    test = np.concatenate([line["test"] for line in lines])
    predicted = np.concatenate([line["predicted"] for line in lines])
    classes, scores = (
        np.array(data["classes"])[test],
        np.eye(len(vocabulary))[predicted],
    )
    pooled = metrics.genre_metrics(classes, scores, vocabulary)
    num_groups = len(set(np.array(data["groups"])[test]))
    recall = map(metrics.or_none, pooled.recall)
    results: dict[str, Any] = {
        "accuracy": {
            "value": pooled.accuracy,
            "interval": intervals.wilson(pooled.accuracy, num_groups),
            "num_folds": len(lines),
        },
        "recall": dict(zip(vocabulary, recall, strict=True)),
        "confusion": pooled.confusion.tolist(),
        "in_words": pooled.in_words(round(len(test) / len(set(test)))),
        **confidence.measure(record, lines),
    }
    for name in ("val_accuracy", "test_accuracy"):
        if all(name in line.get("history", ()) for line in lines):
            values = [line["history"][name] for line in lines]
            results[f"{name}_by_epoch"] = np.mean(values, axis=0).tolist()
    return results


def _difference(record: Record, ours: _Lines, theirs: _Lines) -> dict[str, Any] | None:
    difference = _is_right(record, ours) - _is_right(record, theirs)
    compared = np.isfinite(difference)
    if not compared.any():
        return None
    repeats, clips = compared.any(axis=1), compared.any(axis=0)
    groups = np.array(record.settings["data"]["groups"])[clips]
    folds = [{(line["repeat"], line["fold"]) for line in x} for x in (ours, theirs)]
    return {
        "value": float(np.nanmean(difference)),
        "interval": intervals.bootstrap(difference[repeats][:, clips], groups),
        "num_folds": len(folds[0] & folds[1]),
    }


def _is_right(record: Record, lines: _Lines) -> np.ndarray:
    """Returns `[repeats, clips]`: 1, 0, or NaN for a clip that was not tested."""
    classes = np.array(record.settings["data"]["classes"])
    num_repeats = max(line["repeat"] for line in record.lines) + 1
    is_right = np.full([num_repeats, len(classes)], np.nan)
    for line in lines:
        test = line["test"]
        is_right[line["repeat"], test] = np.array(line["predicted"]) == classes[test]
    return is_right


def _head(record: Record) -> str:
    data, plan = record.settings["data"], record.settings["plan"]
    num_repeats = len({line["repeat"] for line in record.lines})
    folds = (
        f"{plan['num_folds']} folds, repeats: {num_repeats}"
        if data["split"] == "folds"
        else f"split {data['split']}, seeds: {num_repeats}"
    )
    largest = max(collections.Counter(data["classes"]).values()) / len(data["classes"])
    return (
        f"# {data['name']}: {len(data['paths'])} clips, "
        f"{len(record.settings['vocabulary'])} genres\n\n"
        f"{folds}, seed {plan['seed']}, protocol `{plan['protocol']}`; the largest "
        f"genre has {largest:.0%} of the clips.\n\n"
        f"```sh\n{_command(record.settings['command'])}\n```"
    )


def _command(recorded: str) -> str:
    program, *arguments = shlex.split(recorded)
    path = pathlib.PurePath(program)
    if path.suffix == ".py":
        return shlex.join(["python", "-m", f"tools.{path.stem}", *arguments])
    return shlex.join([path.name, *arguments])


def _table(results: Mapping[str, Any]) -> str:
    rows = ["| | accuracy | 95 % interval | folds |", "| --- | --- | --- | --- |"]
    for model, of_model in results["models"].items():
        rows.append(_row(_NAMES[model], of_model["accuracy"], "{:.1f} %"))
    for pair, difference in results["differences"].items():
        name = f"{pair.replace(' - ', ' − ')} (points)"
        rows.append(_row(name, difference, "{:+.1f}"))
    return "\n".join(rows)


def _row(name: str, figures: Mapping[str, Any], form: str) -> str:
    bounds = [form.format(100 * x) for x in figures["interval"] or ()]
    interval = " to ".join(bounds) or "too few clips for an interval"
    value = form.format(100 * figures["value"])
    return f"| {name} | {value} | {interval} | {figures['num_folds']} |"


def _warnings(record: Record, results: Mapping[str, Any]) -> Iterator[str]:
    start, data = record.settings["start"], record.settings["data"]
    seen = start["num_seen"] if start else 0
    if seen and set(results["models"]) - {"random", "svm"}:
        yield (
            f"**Warning: {seen} of these {len(data['paths'])} clips were used in "
            "pre-training: the results of models that start from it will be "
            "optimistic.** Pre-train without them."
        )
    difference = results["differences"].get("transfer - random")
    if not difference or round(100 * difference["value"], 1) >= 0:
        return
    points = f"{-100 * difference['value']:.1f} points"
    yield (
        f"**Warning: transfer is {points} worse than random initialisation; the "
        "interval excludes zero.** The source may be too distant, too small or too "
        "weakly labelled. Use random initialisation, or another source."
        if difference["interval"] and difference["interval"][1] < 0
        else f"**Warning: transfer does not help here: it is {points} below random "
        "initialisation, which may be chance.**"
    )


def _curves(record: Record, results: Mapping[str, Any]) -> Iterator[str]:
    kind = "test" if record.settings["plan"]["curves"] else "val"
    key, models = f"{kind}_accuracy_by_epoch", results["models"]
    curves = {_NAMES[x]: models[x][key] for x in models if key in models[x]}
    if not curves:
        return
    what = {"test": "test clips", "val": "inner validation clips"}[kind]
    title = f"{record.settings['data']['name']}: mean accuracy on the {what}"
    plots.accuracy_curves(curves, record.folder / "accuracy.png", title=title)
    yield f"## Accuracy by epoch\n\n![accuracy](accuracy.png)\n\n{title}."
    if kind == "test":
        yield "The test clips are read after each epoch for this plot only."
    transfer, random = (curves.get(_NAMES[x]) for x in ("transfer", "random"))
    if transfer and random:
        reached = np.flatnonzero(np.array(transfer) >= random[-1])
        when = f"first at epoch {reached[0] + 1}" if len(reached) else "at no epoch"
        yield (
            f"Transfer reaches {when} the final accuracy of random initialisation "
            f"({random[-1]:.1%}, epoch {len(random)})."
        )


def _by_genre(record: Record, results: Mapping[str, Any]) -> Iterator[str]:
    vocabulary, models = record.settings["vocabulary"], results["models"]
    rows = [f"| recall | {' | '.join(models)} |", "| --- |" + " --- |" * len(models)]
    for genre in vocabulary:
        recalls = (of_model["recall"][genre] for of_model in models.values())
        cells = ("-" if x is None else f"{x:.0%}" for x in recalls)
        rows.append(f"| {genre} | {' | '.join(cells)} |")
    yield "## By genre\n\n" + "\n".join(rows)
    for model, of_model in models.items():
        name = f"confusion-{model}.png"
        title = f"{_NAMES[model]}: test clips of all folds and repeats"
        matrix = np.array(of_model["confusion"])
        plots.confusion_matrix(matrix, vocabulary, record.folder / name, title=title)
        yield f"![{model}]({name})"


def _confidence(record: Record, results: Mapping[str, Any]) -> Iterator[str]:
    for model, of_model in results["models"].items():
        yield from confidence.sections(record, model, of_model)


def _source(record: Record, start: pathlib.Path) -> Iterator[str]:
    facts, history = run_folder.start_facts(start), run_folder.read_history(start)
    valid = facts["metrics"]["valid"]
    yield "## Pre-training"
    if history:  # An export has none.
        path, title = record.folder / "pretraining.png", f"{start.name}: pre-training"
        plots.learning_curves(run_folder.columns(history), path, title=title)
        yield "![pre-training](pretraining.png)"
    yield f"""Epoch {facts["best_epoch"]} was kept. Validation, {valid["num_tags"]}
tags with at least {valid["min_positives"]} positive clips: AUC-ROC
{valid["macro_auc_roc"]:.3f} macro, {valid["micro_auc_roc"]:.3f} micro; PR-AUC
{valid["macro_pr_auc"]:.3f} macro, {valid["micro_pr_auc"]:.3f} micro."""
    tags = sorted(valid.get("tag_auc_roc", {}).items(), key=lambda item: -item[1])
    if tags:
        yield f"AUC-ROC by tag: {', '.join(f'{tag} {x:.2f}' for tag, x in tags)}."


def _method(record: Record) -> str:
    chosen = {
        "paper": "train for a fixed number of epochs",
        "strict": "keep the epoch that is best on inner validation clips",
    }[record.settings["plan"]["protocol"]]
    data = record.settings["data"]
    published = data["name"] == "gtzan" and len(data["paths"]) >= _WHOLE_GTZAN
    return f"""## Method

All models have the same folds. Networks {chosen}. Test clips choose
nothing: they are predicted once, at the end. Accuracy is the share of correct test
predictions; its interval is Wilson's, with the number of independent groups of clips
(such as artists). The interval of a difference is the paired bootstrap over groups and
repeats (Owen, 2007).{_PUBLISHED * published}"""
