"""Times and tables of the benchmarks."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

Call = Callable[[], object]
median = statistics.median


def machine(repeats: int) -> str:
    """Returns a line about the processor, or GPU, and its speed."""
    import tensorflow as tf

    matrix = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])
    gflops = 2 * 2048**3 / median(seconds([product], repeats)[0]) / 1e9
    names = [f"{os.cpu_count()} cores"]
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        names.append(details.get("device_name", gpu.name))
    return (
        f"{', '.join(names)}; TensorFlow {tf.__version__}; matrix product: "
        f"{gflops:.0f} GFLOP/s; medians of {repeats} (fastest to slowest)"
    )


def seconds(calls: Sequence[Call], repeats: int) -> list[list[float]]:
    """Times calls in turn, after a warm-up, so that all share the noise."""
    for call in calls:
        call()
    rounds = [[_warm_secs(call) for call in calls] for _ in range(repeats)]
    return [list(own) for own in zip(*rounds, strict=True)]


def _warm_secs(call: Call) -> float:
    """Repeats a call for a second and times the last one."""
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


def milliseconds(secs: Sequence[float]) -> str:
    """Returns the median, and in brackets the fastest and the slowest."""
    low, high = 1e3 * min(secs), 1e3 * max(secs)
    return f"{1e3 * median(secs):.4g} ms ({low:.4g} to {high:.4g})"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *rows]]
    print("\n".join([f"\n{title}\n", *(f"| {x} |" for x in lines)]), flush=True)
