"""Speed and memory of prediction from audio files."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from genre_tl import params
from genre_tl.audio import decoding

from . import timing

if sys.platform != "win32":
    import resource

_PIECE_SAMPLES = 240 * params.SAMPLE_RATE_HZ


def speed(model: str, folders: Sequence[str]) -> None:
    """Prints the time of `predict`, and of decoding alone, for the files of folders."""
    paths = sorted(x for each in folders for x in pathlib.Path(each).rglob("*"))
    names = [str(x) for x in paths if x.suffix.lower() in (".mp3", ".wav", ".flac")]
    if not names:
        raise ValueError(f"no audio files in {', '.join(folders) or 'no folder'}")
    secs = {"predict": timing.once(lambda: _predict(model, names))}
    peak = peak_memory()
    secs["predict, one file"] = timing.once(lambda: _predict(model, names[:1]))
    start = time.perf_counter()
    clips = decoding.read(names, piece_samples=_PIECE_SAMPLES)
    samples = sum(len(clip.waveform) for clip in clips if clip.waveform is not None)
    secs["decoding and resampling"] = time.perf_counter() - start
    audio_secs = samples / params.SAMPLE_RATE_HZ
    rows = [[name, f"{x:.1f} s", f"{audio_secs / x:.0f}"] for name, x in secs.items()]
    head = ["", "time", "times real time"]
    timing.table(f"{len(names)} files, {audio_secs:.0f} s of audio", head, rows)
    print(f"\nPeak memory of predict: {peak}")


def peak_memory(of_children: bool = True) -> str:
    """Returns the peak memory of the programs that this one waited for, or its own."""
    if sys.platform == "win32":
        return "not known on Windows"
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    kilobytes = resource.getrusage(who).ru_maxrss
    return f"{kilobytes / 1024 ** (1 + (sys.platform == 'darwin')):.0f} MB"


def _predict(model: str, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        module = f"{__package__.rpartition('.')[0]}.predict"
        options = f"--model={model}", "--format=csv", f"--output={folder}/scores.csv"
        command = [sys.executable, "-m", module, *options, "--null", "-"]
        stdin = "\0".join(names).encode()
        done = subprocess.run(command, input=stdin, capture_output=True)
    if done.returncode not in (0, 1):  # 1: some files are broken
        raise ValueError(f"predict failed: {done.stderr.decode()[-500:]}")
