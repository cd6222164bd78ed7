r"""Measures how predictions change with how music is recorded.

    python -m tools.robustness --data_dir=data/gtzan --start=starter

Fits a head to the training clips of each fold, as they are, and scores its test clips
as they are and altered: softer, filtered, noisy, as a small MP3, and so on. Prints for
each alteration the share of test clips whose genre changes, and the accuracy.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from absl import app, flags

from genre_tl import params

from . import command, common_flags, data_flags, run_flags, terminal

if TYPE_CHECKING:
    import numpy as np

    from genre_tl.training import fitting, run_folder

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_flags)

common_flags.define_start()
flags.DEFINE_integer("num_folds", 7, "Folds; each clip is tested once.", lower_bound=2)

_GAINS, _SHIFTS = (6, 12, 20, 30, 40), (0.1, 0.25, 0.5)  # decibels, seconds
_RATE_HZ = params.SAMPLE_RATE_HZ

Write: TypeAlias = "Callable[[np.ndarray, pathlib.Path], None]"
"""Writes an altered waveform as an audio file."""


def main(argv: list[str]) -> None:
    from genre_tl.data import splits
    from genre_tl.model import transfer
    from genre_tl.training import fitting, run_folder

    del argv
    if not FLAGS.start:
        raise app.UsageError("give --start=starter, a pre-training run or an export")
    frontend = run_flags.preset("finetune").frontend
    features, table = data_flags.features(data_flags.table(), frontend)
    backbone = transfer.backbone(run_folder.read_start(FLAGS.start))
    original = run_folder.Data(features, table, frontend)
    recorded = fitting.FrozenBackbone(backbone, original)
    tests = splits.folds(table, FLAGS.num_folds, FLAGS.seed)
    print("| alteration | genre changes | accuracy |\n| --- | --- | --- |")
    _report("none", recorded, recorded, tests)
    for name, write in alterations().items():
        with tempfile.TemporaryDirectory() as folder:
            data = _altered(original, write, pathlib.Path(folder))
        _report(name, recorded, fitting.FrozenBackbone(backbone, data), tests)


def _altered(
    data: run_folder.Data, write: Write, folder: pathlib.Path
) -> run_folder.Data:
    """Returns the features of altered copies of all clips."""
    from genre_tl.audio import decoding
    from genre_tl.features import extraction, pipeline

    table = dataclasses.replace(
        data.table, root=folder, paths=tuple(f"{n}" for n in range(len(data.table)))
    )
    show = terminal.meter("altered clips")
    for clip in decoding.read(data.table.files, max_secs=data.features.max_secs):
        if clip.waveform is None:
            raise ValueError(f"{clip.path}: {clip.error}")
        write(clip.waveform, folder / str(clip.index))
        show(clip.index + 1, len(table))
    extraction.extract(table, folder / "store", data.frontend)
    features, table = pipeline.load(
        folder / "store", table, data.frontend, in_memory=True
    )
    return dataclasses.replace(data, features=features, table=table)


def _report(
    name: str,
    recorded: fitting.FrozenBackbone,
    altered: fitting.FrozenBackbone,
    tests: list[np.ndarray],
) -> None:
    import numpy as np

    table, changed, right = recorded.data.table, 0, 0
    for test in tests:
        train = np.setdiff1d(np.arange(len(table)), test)
        head = recorded.fit(train, kernel=True)
        before = recorded.scores(head, test).argmax(axis=1)
        after = altered.scores(head, test).argmax(axis=1)
        changed += np.sum(before != after)
        right += np.sum(after == table.classes[test])
    print(
        f"| {name} | {changed / len(table):.0%} | {right / len(table):.1%} |",
        flush=True,
    )


def alterations() -> Mapping[str, Write]:
    """Returns functions that alter a waveform at 16 kHz and write it, by name."""
    import numpy as np
    from scipy import signal

    low_pass = signal.butter(8, 4000, output="sos", fs=_RATE_HZ)
    generator = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> np.ndarray:
        noise = generator.standard_normal(len(x))
        return x + 0.1 * np.sqrt(np.mean(x**2)) * noise

    def silence(secs: float) -> np.ndarray:
        return np.zeros(round(secs * _RATE_HZ))

    samples: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "+6 dB, clipped": lambda x: np.clip(2 * x, -1, 1),
        "polarity": lambda x: -x,
        "DC offset of 0.05": lambda x: x + 0.05,
        "stereo, one channel at half level": lambda x: np.stack([x, x / 2], 1),
        "low-pass at 4 kHz": lambda x: signal.sosfiltfilt(low_pass, x),
        "white noise, 20 dB below": noisy,
        "5 s of silence before": lambda x: np.concatenate([silence(5), x]),
        "5 s of silence after": lambda x: np.concatenate([x, silence(5)]),
    }
    gains = {
        f"-{x} dB": functools.partial(np.multiply, 10 ** (-x / 20)) for x in _GAINS
    }
    shifts = {f"first {x} s cut off": functools.partial(_cut, x) for x in _SHIFTS}
    written = {
        name: functools.partial(_write_wav, function)
        for name, function in (gains | samples | shifts).items()
    }
    mp3 = {f"MP3, {x} kbit/s": functools.partial(_write_mp3, x) for x in (32, 64)}
    return written | mp3


def _cut(secs: float, waveform: np.ndarray) -> np.ndarray:
    return waveform[round(secs * _RATE_HZ) :]


def _write_wav(
    alter: Callable[[np.ndarray], np.ndarray], waveform: np.ndarray, path: pathlib.Path
) -> None:
    import soundfile

    # 16 bits, as most recordings have: what is soft is also coarse.
    soundfile.write(path, alter(waveform), _RATE_HZ, "PCM_16", format="WAV")


def _write_mp3(kbits: int, waveform: np.ndarray, path: pathlib.Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=_RATE_HZ, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 1000 * kbits
        samples = np.clip(waveform, -1, 1)[np.newaxis].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = _RATE_HZ
        for part in (frame, None):
            container.mux(stream.encode(part))


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
