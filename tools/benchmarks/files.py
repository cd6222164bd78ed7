"""Speed and memory of prediction from audio files."""

from __future__ import annotations

import multiprocessing
import pathlib
import re
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
    # What is measured includes the memory of the program that starts it: a small one.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        all_secs, peak = pool.apply(_measure, (model, names))
        one_secs, _ = pool.apply(_measure, (model, names[:1]))
    start = time.perf_counter()
    clips = decoding.read(names, piece_samples=_PIECE_SAMPLES)
    samples = sum(len(clip.waveform) for clip in clips if clip.waveform is not None)
    decoding_secs = time.perf_counter() - start
    audio_secs = samples / params.SAMPLE_RATE_HZ
    rate = f"{audio_secs / decoding_secs:.0f}"
    rows = [
        ["predict", f"{all_secs:.1f} s", f"{audio_secs / all_secs:.0f}"],
        ["predict, one file", f"{one_secs:.1f} s", ""],
        ["decoding and resampling", f"{decoding_secs:.2f} s", rate],
    ]
    head = ["", "time", "times real time"]
    timing.table(f"{len(names)} files, {audio_secs:.0f} s of audio", head, rows)
    print(f"\nPeak memory of predict: {peak}")


def peak_memory(*, of_children: bool = False) -> str:
    """Returns the peak memory of this program, or of those that it waited for."""
    status = pathlib.Path("/proc/self/status")
    if status.is_file() and not of_children:
        # `resource` counts the memory of the program that started this one, too.
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", status.read_text())
        return f"{int(kilobytes) / 1024:.0f} MB"
    if sys.platform == "win32":
        return "not known on Windows"
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    number = resource.getrusage(who).ru_maxrss
    return f"{number / 1024 ** (1 + (sys.platform == 'darwin')):.0f} MB"


def _measure(model: str, names: Sequence[str]) -> tuple[float, str]:
    """Returns the seconds and the peak memory of `predict`."""
    secs = timing.once(lambda: _predict(model, names))
    return secs, peak_memory(of_children=True)


def _predict(model: str, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        module = f"{__package__.rpartition('.')[0]}.predict"
        options = f"--model={model}", "--format=csv", f"--output={folder}/scores.csv"
        command = [sys.executable, "-m", module, *options, "--null", "-"]
        stdin = "\0".join(names).encode()
        done = subprocess.run(command, input=stdin, capture_output=True)
    if done.returncode not in (0, 1):  # 1: some files are broken
        raise ValueError(f"predict failed: {done.stderr.decode()[-500:]}")
