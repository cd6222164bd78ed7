"""Tiny training runs on made-up features, and processes that are killed."""

import dataclasses
import hashlib
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np

from genre_tl import params
from genre_tl.data import datasets
from genre_tl.model import networks
from genre_tl.serving import model_card, saved_model
from genre_tl.training import (
    cross_validation,
    finetune,
    fold_plan,
    pretrain,
    run_folder,
)
from support import small_features

# A single layer: most of the time of these tests is tracing.
TINY = params.PRESETS["tiny"]
TINY = dataclasses.replace(
    TINY,
    frontend=params.Frontend(J=3, Q=1, segment_frames=64),
    model=dataclasses.replace(TINY.model, num_layers=1),
    finetune=dataclasses.replace(TINY.finetune, max_epochs=3),
)
NUM_PATHS, NUM_CLIPS, GENRES = 7, 24, tuple("abc")
PLAN = fold_plan.Plan(num_folds=3, num_repeats=2, seed=4, curves=True)


def tuned(**changes):
    """The tiny preset with another fine-tuning."""
    return dataclasses.replace(
        TINY, finetune=dataclasses.replace(TINY.finetune, **changes)
    )


def as_by_default(training):
    """A training with schedule, augmentation and excerpts like those of the default."""
    return dataclasses.replace(
        training, schedule="cosine", augment=True, crop_frames=(6, 10)
    )


def data(multi_label=False, seed=0, num_dims=0):
    """Clips whose label shifts the mean of one path; a third is held out.

    With `num_dims` half of the clips have target vectors.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(NUM_CLIPS) % len(GENRES)
    clips = [
        rng.standard_normal([n, NUM_PATHS]) for n in rng.integers(10, 40, NUM_CLIPS)
    ]
    for clip, label in zip(clips, classes, strict=True):
        clip[:, label] += 3
    frames = np.concatenate(clips).astype("float32")
    features = small_features.in_memory(frames, [(len(clip),) for clip in clips])
    digests = tuple(hashlib.sha256(clip.tobytes()).hexdigest() for clip in clips)
    table = datasets.Dataset(
        name="made up",
        root=pathlib.Path("nowhere"),
        paths=tuple(f"{n:02d}.wav" for n in range(NUM_CLIPS)),
        labels=np.eye(len(GENRES), dtype=np.uint8)[classes],
        vocabulary=GENRES,
        groups=tuple(str(n) for n in range(NUM_CLIPS)),
        multi_label=multi_label,
    )
    if num_dims:
        vectors = rng.standard_normal([NUM_CLIPS, num_dims]).astype("float32")
        vectors[::2] = np.nan
        table = dataclasses.replace(table, vectors=vectors)
    rows = np.arange(NUM_CLIPS)
    parts = {"train": rows[:15], "valid": rows[15:], "test": rows[15:]}
    parts["test" if multi_label else "valid"] = rows[:0]
    features = dataclasses.replace(features, digests=digests)
    return run_folder.Data(features, table, TINY.frontend, "made up", parts)


def pretrained(folder, **changes):
    """Pre-trains and returns the content of run.json."""
    arguments = {"seed": 1, "min_positives": 1, "preset": TINY} | changes
    preset, num_dims = arguments.pop("preset"), arguments.pop("num_dims", 0)
    made = data(True, num_dims=num_dims) if num_dims else data(multi_label=True)
    return pretrain.pretrain(folder, made, preset, **arguments)


def exported(run_dir, base, half=False):
    """Exports a run as the version 1, without checks; returns the folder of it."""
    record = run_folder.read_run(run_dir)
    network = run_folder.read_model(run_dir)
    network = networks.to_half(network) if half else network
    labels = record["vocabulary"]
    trained = saved_model.TrainedModel(network, TINY.frontend, labels, half)
    saved_model.save(trained, base / "1")
    content = (run_dir / "model.keras").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    card = model_card.from_run(record, "test", digest)
    model_card.write(base / "1", card | trained.facts())
    return base / "1"


def finetuned(folder, preset, **changes):
    """Fine-tunes and returns the content of run.json."""
    return finetune.finetune(folder, data(), preset, **{"seed": 2} | changes)


def validated(folder, *models, plan=PLAN, preset=TINY, start=None, **changes):
    """Cross-validates and returns the record."""
    plan = dataclasses.replace(plan, models=models or ("random",), start=start)
    made = dataclasses.replace(data(), parts={}, split="folds")
    return cross_validation.cross_validate(folder, made, preset, plan, **changes)


class Killed(BaseException):
    """Ends a run like a kill, in the same process."""


def kill_at(epoch, step):
    """Keras callbacks that end a run within an epoch."""

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            self.epoch = number + 1

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch + 1) == (epoch, step):
                raise Killed

    return [Kill()]


_KILL = """
import os, signal, sys
sys.path[:0] = {paths!r}
fsync, left = os.fsync, iter(range({number}))
def kill(file):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)
os.fsync = kill
folder = sys.argv[1]
from support import runs
runs.{call}
"""


def kill_while_writing(call, root, folder, number):
    """Calls a function of this module in a process that ends itself with SIGKILL.

    Args:
      call: the call; `folder` is where it writes.
      root: the source tree.
      folder: that folder.
      number: how many times it may flush a file or folder to the disk before.
    """
    code = _KILL.format(
        paths=[str(root), str(root / "tests")], number=number, call=call
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)])
    assert done.returncode == -signal.SIGKILL


def weights(folder):
    """Returns the weights of a finished run."""
    return keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
