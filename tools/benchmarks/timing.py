"""Times, memory and tables of the benchmarks."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[], object]

median = statistics.median


def machine(repeats: int) -> str:
    """Returns a line about the processor and its speed."""
    import tensorflow as tf

    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    matrix = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])
    gflops = 2 * 2048**3 / median(seconds([product], repeats)[0]) / 1e9
    return (
        f"{model[1] if model else 'unknown processor'}, {os.cpu_count()} cores; "
        f"TensorFlow {tf.__version__}; matrix product: {gflops:.0f} GFLOP/s; "
        f"medians of {repeats} (fastest to slowest)"
    )


def seconds(calls: Sequence[Call], repeats: int) -> list[list[float]]:
    """Times calls in turn, after a warm-up, so that all share the noise."""
    for call in calls:
        call()
    rounds = [[_warm_secs(call) for call in calls] for _ in range(repeats)]
    return [list(own) for own in zip(*rounds, strict=True)]


def _warm_secs(call: Call) -> float:
    # Repeats the call for a second and times the last one.
    begin = time.perf_counter()
    while True:
        secs = once(call)
        if time.perf_counter() - begin > 1:
            return secs


def once(call: Call) -> float:
    """Times one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_new_process(
    function: Callable[..., Any], *arguments: object
) -> tuple[Any, float]:
    """Returns the result of a call in a new process, and its peak memory in MB."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(
    function: Callable[..., Any], arguments: Sequence[object]
) -> tuple[Any, float]:
    result = function(*arguments)
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    return result, int(peak[1]) / 1024 if peak else math.nan


def milliseconds(secs: Sequence[float]) -> str:
    """Returns the median, and in brackets the fastest and the slowest."""
    low, high = 1e3 * min(secs), 1e3 * max(secs)
    return f"{1e3 * median(secs):.4g} ms ({low:.4g} to {high:.4g})"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *rows]]
    print("\n".join([f"\n{title}\n", *(f"| {x} |" for x in lines)]), flush=True)
