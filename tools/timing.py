"""Times, memory and tables, for `benchmark`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[..., object]


def machine(repeats: int) -> str:
    """Returns a line on the processor and how fast it can be."""
    import tensorflow as tf

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":")[1].strip() for line in file if "model name" in line]
    matrix = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])
    gflops = 2 * 2048**3 / median(seconds([product], repeats)[0]) / 1e9
    return (
        f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores; "
        f"TensorFlow {tf.__version__}; a product of matrices runs at {gflops:.0f} "
        f"GFLOP/s; medians of {repeats}, in brackets the fastest and slowest."
    )


def seconds(calls: Sequence[Call], repeats: int) -> list[list[float]]:
    """Returns the seconds of each call, taken in turn so that all share the noise."""
    for call in calls:
        call()
    secs: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, secs, strict=True):
            own.append(_warm_secs(call))
    return secs


def _warm_secs(call: Call) -> float:
    """Returns the seconds of the last call of those begun within one second."""
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        if end - begin > 1:
            return end - start


median = statistics.median


def milliseconds(secs: Sequence[float]) -> str:
    """Returns the median, and in brackets the least and the most."""
    low, high = 1e3 * min(secs), 1e3 * max(secs)
    return f"{1e3 * median(secs):.4g} ms ({low:.4g} to {high:.4g})"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    lines = [f"\n{title}\n", *(" | ".join(row) for row in [head, ["---"] * len(head)])]
    lines += [" | ".join(row) for row in rows]
    print("\n".join(lines[:1] + [f"| {line} |" for line in lines[1:]]), flush=True)


def fresh(program: str, *arguments: str) -> dict[str, Any]:
    """Runs a program of its own and returns what it prints, JSON, and `peak_mb`."""
    program += textwrap.dedent("""
        import json, re
        with open("/proc/self/status") as status:
            peak = re.search("VmHWM: *([0-9]+) kB", status.read().replace("\\t", " "))
        found["peak_mb"] = int(peak[1]) / 1024
        print(json.dumps(found))
        """)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def resident(process: subprocess.Popen[Any]) -> tuple[list[float], list[float]]:
    """Waits for a process; returns times, in seconds, and its memory then, in MB."""
    start = time.perf_counter()
    secs: list[float] = []
    megabytes: list[float] = []
    while process.poll() is None:
        with contextlib.suppress(OSError, TypeError):  # as it ends
            with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
                found = re.search(r"VmRSS:\s*(\d+) kB", status.read())
            megabytes.append(int(found[1]) / 1024)  # type: ignore[index]
            secs.append(time.perf_counter() - start)
        time.sleep(0.5)
    return secs, megabytes
