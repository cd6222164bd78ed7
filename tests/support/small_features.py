"""A small collection of synthetic WAV files, and features traced in a moment."""

import dataclasses
import hashlib
import pathlib
import shutil

import numpy as np
import soundfile

from genre_tl import params
from genre_tl.data import collection, datasets
from genre_tl.features import extraction, pipeline

FRONTEND = params.Frontend(J=6, Q=1, max_order=1, segment_frames=16)
SEGMENT = FRONTEND.segment_samples
NUM_FILES = 7


def noise(num_samples: int, seed: int) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).uniform(-1, 1, num_samples)


def write(path: pathlib.Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, params.SAMPLE_RATE_HZ, subtype="FLOAT")


def make(root: pathlib.Path) -> None:
    """Writes two genres: seven clips, of which one is no audio and one a copy."""
    for index in range(5):
        length = SEGMENT // 2 + 300 * index
        write(root / f"{'ab'[index % 2]}/{index}.wav", noise(length, index))
    shutil.copy(root / "a/2.wav", root / "b/copy.wav")
    (root / "a/broken.wav").write_text("this is no audio")


def table(root: pathlib.Path) -> datasets.Dataset:
    return collection.load("folder", str(root))


def extract(root: pathlib.Path, store: pathlib.Path, **kwargs) -> extraction.Summary:
    return extraction.extract(table(root), store, FRONTEND, **kwargs)


def load(root, store, **kwargs) -> tuple[pipeline.Features, datasets.Dataset]:
    return pipeline.load(store, table(root), FRONTEND, **kwargs)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def frames_of(features: pipeline.Features, clip: int) -> np.ndarray:
    return features.read(clip, 0, features.counts[clip])


@dataclasses.dataclass
class InMemory:
    arrays: list[np.ndarray]

    def __call__(self, clip: int, start: int, count: int) -> np.ndarray:
        return self.arrays[clip][start : start + count]


def in_memory(frames: np.ndarray, segments) -> pipeline.Features:
    """Returns features of frames `[total_frames, paths]` and the segments' lengths."""
    clips = tuple(map(tuple, segments))
    arrays = np.split(frames, np.cumsum([sum(clip) for clip in clips])[:-1])
    digests = tuple(hashlib.sha256(clip.tobytes()).hexdigest() for clip in arrays)

    flat = np.concatenate(clips)
    sizes = np.array([len(clip) for clip in clips])
    read = InMemory(arrays)
    return pipeline.Features(frames.shape[1], flat, sizes, digests, None, read)
