"""Trains the next version of a classifier from a folder of genres and corrections.

What `tools.train` does with `--table=corrections.csv --table=FOLDER`, in this process,
and a comparison with what was right before the corrections. Features of files that were
used before are reused, so that few files take seconds.

    reviews = {x.path: x.predicted for x in music.reviews()}
    request = retraining.Request("mine", music.given_labels(), reviews)
    outcome = retraining.train(request)  # before, after
    version = retraining.publish(request)  # saved_models/mine/<version>
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from absl import app

from genre_tl import files, params, starter
from genre_tl.data import collection, datasets, joining, splits
from genre_tl.evaluation import intervals, metrics
from genre_tl.features import extraction, pipeline
from genre_tl.serving import export, onnx_export, run_export, saved_model
from genre_tl.training import (
    cross_validation,
    finetune,
    fold_plan,
    report,
    run_folder,
)

from . import changes, command

MOST_FOLDS = 5

OnStep = Callable[[str, int, int], None]
"""Called with what is done, and the numbers of units done and of all."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to train from.

    Attributes:
      name: of the runs and of the export.
      labels: genre by path, as a person gave them; they win over folders.
      predicted: genre by path, as predicted when the label was given: by a model that
        was not trained on it.
      data_dir: folder of genre folders, or None for the labels alone.
      start: run or export of a tagger; the starter by default.
      runs_dir, saved_models_dir, features_dir: where runs, exports and features are.
    """

    name: str
    labels: Mapping[str, str]
    predicted: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data_dir: files.PathLike | None = None
    start: files.PathLike | None = None
    runs_dir: files.PathLike = "runs"
    saved_models_dir: files.PathLike = "saved_models"
    features_dir: files.PathLike = "features/corrected"


class Quality(NamedTuple):
    """How many of some files a classifier got right.

    Attributes:
      accuracy: 0 to 1, with its 95 % interval.
      num_files: that were tested.
      labels: of the rows and columns of `confusion`.
      confusion: files `[true, predicted]`.
    """

    accuracy: float
    interval: tuple[float, float]
    num_files: int
    labels: tuple[str, ...]
    confusion: np.ndarray


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was right before and after the corrections.

    Attributes:
      before: predictions compared with the corrected labels: of a cross-validation on
        the labels of the folder, or else those that were corrected; None if none of
        these is a genre.
      after: the same of a cross-validation on the corrected labels; None if a genre
        has a single file or artist folder.
      report: of that cross-validation, or None.
      failures: path and reason of files that could not be used.
    """

    before: Quality | None
    after: Quality | None
    report: pathlib.Path | None
    failures: tuple[tuple[str, str], ...]


def table(request: Request) -> datasets.Dataset:
    """Returns the clips to train on: those of the folder, with the labels given.

    Labelled files that are gone are in `skipped`, genres without a clip are left out.

    Raises:
      ValueError: if there are fewer than two genres.
      OSError: if the folder cannot be read.
    """
    labels = {x: y for x, y in request.labels.items() if os.path.isfile(x)}
    found = [_of_labels(labels)] if labels else []
    if request.data_dir is not None:
        found.append(collection.load("auto", os.path.abspath(request.data_dir)))
    if not found:
        raise ValueError("nothing to train on: correct some files, or give a folder")
    clips = _with_clips(joining.join(found))
    gone = ((path, "no such file") for path in request.labels if path not in labels)
    return dataclasses.replace(clips, skipped=(*clips.skipped, *gone))


def _of_labels(labels: Mapping[str, str]) -> datasets.Dataset:
    paths = [os.path.abspath(path) for path in labels]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    vocabulary = sorted(set(labels.values()))
    classes = [vocabulary.index(label) for label in labels.values()]
    return datasets.Dataset(
        name="table",
        root=pathlib.Path(root),
        paths=tuple(os.path.relpath(path, root) for path in paths),
        labels=np.eye(len(vocabulary), dtype=np.uint8)[classes],
        vocabulary=tuple(vocabulary),
        groups=tuple(paths),
        multi_label=False,
    )


def _with_clips(clips: datasets.Dataset) -> datasets.Dataset:
    """Returns a table without the genres that no clip has; at least two are left."""
    used = np.flatnonzero(clips.labels.any(axis=0))
    vocabulary = tuple(clips.vocabulary[x] for x in used)
    datasets.check_labels(clips.root, vocabulary, "genre")
    saved_model.check_labels(vocabulary)
    return dataclasses.replace(
        clips, labels=clips.labels[:, used], vocabulary=vocabulary
    )


def train(
    request: Request, *, on_step: OnStep = lambda text, done, total: None
) -> Outcome:
    """Trains a classifier, and measures it before and after the corrections.

    An earlier run on other clips, labels or audio is kept as `<name>.<number>`.

    Raises:
      ValueError: if there are too few genres or usable files.
      OSError: if a file cannot be read or written.
    """
    _check_name(request.name)
    clips, (start, preset) = table(request), _start(request)
    data, failures = _features(request, clips, preset, on_step)
    rows = np.arange(len(data.table))
    parts = {"train": rows, "valid": rows[:0], "test": rows[:0]}
    all_of_them = dataclasses.replace(data, split="none", parts=parts)
    run_dir, validation = _begin(request, clips, all_of_them, preset, start)
    after = _validate(validation, data, preset, start, on_step)
    outcome = Outcome(
        _before(request, data.table, preset, start, on_step),
        _quality(data.table, after),
        validation / "report.md" if after else None,
        (*clips.skipped, *failures),
    )
    on_step("training", 0, 1)
    finetune.finetune(run_dir, all_of_them, preset, start=start)
    on_step("training", 1, 1)
    return outcome


def _begin(
    request: Request,
    clips: datasets.Dataset,
    data: run_folder.Data,
    preset: params.Preset,
    start: files.PathLike,
) -> tuple[pathlib.Path, pathlib.Path]:
    """Sets another run aside; returns the folders to write to."""
    run_dir, validation = _folders(request)
    facts = {"start": finetune.describe_start(start, preset)}
    wanted = run_folder.identity("finetune", data, preset, 0, **facts)
    before, now = changes.read(run_dir), changes.of_table(clips)
    is_other = before not in (None, now)
    if (run_dir / "run.json").is_file():
        found = run_folder.read_json(run_dir / "run.json")
        found = {name: found.get(name) for name in wanted}
        is_other |= any(run_folder.differences(found, wanted))
    if is_other:
        changes.set_aside((validation, run_dir))
    changes.write(run_dir, now)
    return run_dir, validation


def _check_name(name: str) -> None:
    try:
        command.check_name(name)
    except app.UsageError as error:
        raise ValueError(str(error)) from error


def _start(request: Request) -> tuple[files.PathLike, params.Preset]:
    """Returns the tagger to start from, and the preset with its front end."""
    start = request.start or starter.folder()
    found = params.Preset.from_dict(run_folder.start_facts(start)["preset"])
    recipe = params.PRESETS["default"].finetune
    return start, dataclasses.replace(found, finetune=recipe)


def _folders(request: Request) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folders of the run and of its cross-validation."""
    run_dir = pathlib.Path(request.runs_dir, request.name)
    return run_dir, run_dir.with_name(f"{request.name}_cross_validation")


def _features(
    request: Request,
    clips: datasets.Dataset,
    preset: params.Preset,
    on_step: OnStep,
) -> tuple[run_folder.Data, tuple[tuple[str, str], ...]]:
    summary = extraction.extract(
        clips,
        request.features_dir,
        preset.frontend,
        on_progress=lambda done, total: on_step("features", done, total),
    )
    found, clips = pipeline.load(request.features_dir, clips, preset.frontend)
    clips = _with_clips(clips.merge_groups(found.digests))
    return run_folder.Data(found, clips, preset.frontend), summary.failures


def _validate(
    folder: pathlib.Path,
    data: run_folder.Data,
    preset: params.Preset,
    start: files.PathLike,
    on_step: OnStep,
) -> dict[str, str]:
    """Cross-validates; returns the predicted genre of each path, {} with few groups."""
    num_folds = min(MOST_FOLDS, *splits.groups_by_genre(data.table))
    if num_folds < 2:
        return {}
    plan = fold_plan.Plan(
        num_folds=num_folds, num_repeats=1, models=("transfer",), start=start
    )
    record = cross_validation.cross_validate(
        folder,
        data,
        preset,
        plan,
        on_fold=lambda line, done, total: on_step("cross-validation", done, total),
    )
    report.write(record)
    names = np.array(data.table.vocabulary)
    return {
        os.path.join(data.table.root, data.table.paths[row]): str(names[genre])
        for line in record.lines
        for row, genre in zip(line["test"], line["predicted"], strict=True)
    }


def _before(
    request: Request,
    now: datasets.Dataset,
    preset: params.Preset,
    start: files.PathLike,
    on_step: OnStep,
) -> Quality | None:
    """Returns what was right before the corrections."""
    if request.data_dir is None:
        return _quality(now, request.predicted)
    old = table(dataclasses.replace(request, labels={}))
    data, _ = _features(request, old, preset, on_step)
    with tempfile.TemporaryDirectory() as folder:
        predicted = _validate(pathlib.Path(folder, "x"), data, preset, start, on_step)
    return _quality(now, predicted)


def _quality(now: datasets.Dataset, predicted: Mapping[str, str]) -> Quality | None:
    """Compares predictions with the labels of the clips that have some."""
    truth = {x: now.vocabulary[c] for x, c in zip(now.files, now.classes, strict=True)}
    paths = [path for path in truth if path in predicted]
    if not {predicted[path] for path in paths} & set(now.vocabulary):
        return None
    labels = sorted({*now.vocabulary, *(predicted[path] for path in paths)})
    place = {label: row for row, label in enumerate(labels)}
    classes = np.array([place[truth[path]] for path in paths])
    scores = np.eye(len(labels))[[place[predicted[path]] for path in paths]]
    found = metrics.genre_metrics(classes, scores, labels)
    groups = dict(zip(now.files, now.groups, strict=True))
    num_groups = len({groups[path] for path in paths})
    interval = intervals.wilson(found.accuracy, num_groups)
    return Quality(found.accuracy, interval, len(paths), tuple(labels), found.confusion)


def publish(
    request: Request, *, on_step: OnStep = lambda text, done, total: None
) -> pathlib.Path:
    """Exports what `train` trained as the next version; returns its folder.

    Raises as `export.export`.
    """
    run_dir, validation = _folders(request)
    record, card = run_export.read(run_dir, request.name)
    has_report = (validation / "report.json").is_file()
    measured = run_export.validation(validation) if has_report else {}
    card |= measured
    passed = itertools.count(1)
    on_step("export", 0, 0)
    return export.export(
        run_export.trained(run_dir, record, measured),
        pathlib.Path(request.saved_models_dir, request.name),
        card=card,
        write=functools.partial(onnx_export.write_with_saved_model, card=card),
        on_check=lambda text: on_step(f"export: {text}", next(passed), 0),
    )
