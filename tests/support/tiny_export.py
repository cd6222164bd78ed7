"""A tiny classifier, its run folder and its export."""

import dataclasses
import functools
import pathlib
import subprocess
import sys
import types
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from genre_tl import features, params
from genre_tl.model import gru, networks, transfer
from genre_tl.training import heads

PRESET = params.PRESETS["tiny"]
FRONTEND = PRESET.frontend
SEGMENT, HOP = FRONTEND.segment_samples, FRONTEND.hop_samples
LABELS = ["blues", "drum & bass", "schlager/ünïcode"]


def sensitive(network: keras.Sequential) -> keras.Sequential:
    """Gives random weights the size that training gives them, so that scores vary."""
    for layer in network.layers[:-1]:
        if isinstance(layer, gru.GRU):
            layer.set_weights([3 * weight for weight in layer.get_weights()])
    generator = np.random.default_rng(5)
    num_paths = network.input_shape[-1]
    statistics = generator.normal(-4, 1, num_paths), generator.uniform(2, 6, num_paths)
    networks.standardize(network, *statistics)
    return network


def with_kernel() -> keras.Model:
    """Returns a classifier like those of `finetune` by default."""
    tagger = networks.tagger(PRESET.model, num_paths(), 4, seed=3)
    backbone = transfer.backbone(sensitive(tagger))
    clips = np.stack([music(SEGMENT, seed) for seed in range(1, 13)])
    head = heads.fit(
        backbone(frames_of()(clips)).numpy().astype(np.float64),
        np.arange(len(clips)) % len(LABELS),
        list(map(str, range(len(clips)))),
        num_genres=len(LABELS),
        block_sizes=transfer.block_sizes(backbone),
        kernel=True,
    )
    # Classes are chance, so the head is unsure; this makes its scores vary.
    return transfer.with_head(
        backbone, dataclasses.replace(head, kernel=100 * head.kernel)
    )


@functools.cache
def frames_of() -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns waveforms of one segment -> log-scattering frames."""
    layer = features.LogScattering.from_params(FRONTEND)
    return tf.function(layer, [tf.TensorSpec([None, SEGMENT], tf.float32)])


@functools.cache
def traced(network: keras.Sequential) -> Callable[[tf.Tensor], tf.Tensor]:
    frames = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return tf.function(lambda x: network(x, training=False), [frames])


def num_paths() -> int:
    return frames_of()(tf.zeros([1, SEGMENT])).shape[-1]


def music(num_samples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16_000
    phase = 2 * np.pi * generator.uniform(100, 2000) * time * (1 + 0.1 * time)
    tone = np.sin(1 + phase)  # the first sample is sound
    noise = generator.standard_normal(num_samples) * (np.sin(9 * time * seed) > 0)
    return (0.3 * tone + 0.1 * noise).astype(np.float32)


def data(**clips: list[str]) -> dict:
    return {"name": "gtzan", "split": "fold 0 of 7", "num_clips": 4} | clips


RECORD = {
    "kind": "finetune",
    "preset": PRESET.to_dict(),
    "seed": 0,
    "start": {
        "name": "magnatagatune",
        "metrics": {"valid": {"macro_auc_roc": 0.75}},
    },
    "data": data(train=["a/1.wav", "a/2.wav"], valid=[], test=["b/1.wav"]),
    "vocabulary": LABELS,
    "command": "/home/someone/genre_tl/tools/finetune.py --data_dir=data/gtzan",
    "versions": {"tensorflow": tf.__version__},
    "metrics": {"test": {"accuracy": 0.875, "confusion": [[1, 0], [0, 1]]}},
    "epochs": 4,
    "best_epoch": 4,
}


def run_export(run: types.SimpleNamespace, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-m", "tools.export", f"--run_dir={run.run_dir}"),
            *(f"--saved_models_dir={run.saved_models}", "--name=test", *flags),
        ],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


def scores_of(run: types.SimpleNamespace, batch: np.ndarray) -> np.ndarray:
    serve = run.model.signatures["serving_default"]
    return serve(waveform=tf.constant(batch, tf.float32))["scores"].numpy()


def keras_scores(network: keras.Sequential, clip: np.ndarray) -> np.ndarray:
    """Scores a clip segment by segment, by the definition."""
    total, frames = 0.0, 0
    for start in range(0, len(clip), SEGMENT):
        piece = np.trim_zeros(clip[start : start + SEGMENT], "b")
        if len(piece):
            padded = np.pad(piece, [0, SEGMENT - len(piece)])[np.newaxis]
            weight = -(-len(piece) // HOP)
            total += weight * traced(network)(frames_of()(padded)).numpy()[0]
            frames += weight
    return total / frames


def answer(run: types.SimpleNamespace, name: str, *batch) -> dict[str, np.ndarray]:
    (value,) = run.model.signatures[name].structured_input_signature[1].values()
    dtype = value.dtype
    (argument,) = run.model.signatures[name].structured_input_signature[1]
    given = {argument: tf.constant(list(batch), dtype)}
    return {k: v.numpy() for k, v in run.model.signatures[name](**given).items()}


def files_of(folder: pathlib.Path) -> set[str]:
    paths = folder.rglob("*")
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


CLIPS = [
    music(SEGMENT, 1),
    music(SEGMENT // 2, 2),
    music(3 * SEGMENT + 1234, 3),
    music(HOP // 3, 4),
    np.concatenate([music(900, 5), np.zeros(2 * SEGMENT, np.float32), music(5000, 6)]),
]
