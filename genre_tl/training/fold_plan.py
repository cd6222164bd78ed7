"""What a cross-validation runs: its models, and the rows of its folds."""

from __future__ import annotations

import dataclasses

import numpy as np

from genre_tl import files, params
from genre_tl.data import datasets, splits
from genre_tl.training import run_folder

MODELS = ("transfer", *params.METHODS, "random", "svm")
"""`transfer` trains as the preset says; `kernel`, `probe` and `finetune` by the method
of this name; `random` a network from random weights; `svm` is on mean frames."""

_NEED_START = {"transfer", *params.METHODS}
_INNER_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Folds, and the models that are compared on them."""

    num_folds: int = 10  # of a repeat; each clip is tested in one
    num_repeats: int = 10  # divisions into folds; may grow later
    seed: int = 0  # of folds, weights and excerpts
    protocol: str = "paper"
    """`paper` trains for a fixed number of epochs. `strict` keeps the best epoch on a
    fifth of the training clips, held out for that (more where a genre has fewer than
    five groups). Test clips are scored once, at the end."""
    clips_per_genre: int = 0  # most training clips of a genre; 0 takes all
    curves: bool = False  # also score test clips after each epoch, only to plot them
    models: tuple[str, ...] = ("random",)  # of `MODELS`; they take turns, fold by fold
    start: files.PathLike | None = None  # tagger, for all models but `random` and `svm`

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "strict"):
            raise ValueError(f"protocol={self.protocol!r}: choose 'paper' or 'strict'")
        if set(self.models) - set(MODELS) or not self.models:
            raise ValueError(f"models={self.models}: choose from {', '.join(MODELS)}")
        if _NEED_START.isdisjoint(self.models) != (self.start is None):
            raise ValueError(
                "--model=random and --model=svm have no use for --start, a pre-trained "
                "tagger; the others need it"
            )
        for name, least in (("num_repeats", 1), ("clips_per_genre", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= {least}")


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """Rows to train on, to choose the epoch by (or none), and to test on."""

    repeat: int
    number: int
    seed: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def divide(
    table: datasets.Dataset, plan: Plan, parts: run_folder.Parts | None = None
) -> list[Fold]:
    """Returns all folds of all repeats; groups of clips stay together.

    With `parts`, a published split, there is one fold, and repeats differ in the seed.
    Raises a ValueError if the table does not have enough clips.
    """
    folds = []
    for repeat in range(plan.num_repeats):
        seed = _mix(plan.seed, repeat)
        tests = [parts["test"]] if parts else splits.folds(table, plan.num_folds, seed)
        for number, test in enumerate(tests):
            seed = _mix(plan.seed, repeat, number)
            train, valid = _training_rows(table, plan, test, seed, parts)
            folds.append(Fold(repeat, number, seed, train, valid, test))
    return folds


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _training_rows(
    table: datasets.Dataset,
    plan: Plan,
    test: np.ndarray,
    seed: int,
    parts: run_folder.Parts | None,
) -> tuple[np.ndarray, np.ndarray]:
    train = parts["train"] if parts else np.setdiff1d(np.arange(len(table)), test)
    valid = test[:0]
    if parts and plan.protocol == "strict":
        valid = parts["valid"]
    elif plan.protocol == "strict":
        fewest = min(splits.groups_by_genre(inner := table.select(train)))
        if fewest < 2:
            raise ValueError(
                f"{table.root}: --protocol=strict needs two groups of training clips "
                "of each genre, and one has a single one: use more folds or "
                "--protocol=paper"
            )
        held = splits.folds(inner, min(_INNER_FOLDS, fewest), seed)[0]
        valid, train = train[held], np.delete(train, held)
    if plan.clips_per_genre:
        shuffled = np.random.default_rng(seed).permutation(train)
        classes = table.classes[shuffled]
        some = [shuffled[classes == c][: plan.clips_per_genre] for c in set(classes)]
        train = np.sort(np.concatenate(some))
    return train, valid
