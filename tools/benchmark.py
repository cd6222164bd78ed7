"""Measures speed and memory on this machine, beside a peer in the same run.

    python -m tools.benchmark scattering

What is measured: `scattering` (the layer, beside kymatio's back ends). Prints tables
in Markdown; docs/benchmarks.md holds those of one machine. Let nothing else run
meanwhile. A peer that is not installed is left out, and said to be.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from . import command

FLAGS = flags.FLAGS

flags.DEFINE_integer("repeats", 7, "Measurements of each thing.", lower_bound=1)

_Call = Callable[..., object]
_RATE_HZ = 16_000


def main(argv: list[str]) -> None:
    subjects = {"scattering": _scattering}
    if len(argv) != 2 or argv[1] not in subjects:
        raise app.UsageError(f"name what to measure: {', '.join(subjects)}")
    print(_machine())
    subjects[argv[1]]()


def _machine() -> str:
    import tensorflow as tf

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":")[1].strip() for line in file if "model name" in line]
    matrix = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])
    gflops = 2 * 2048**3 / _median(_time([product], FLAGS.repeats)[0]) / 1e9
    return (
        f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores; "
        f"TensorFlow {tf.__version__}; a product of matrices runs at {gflops:.0f} "
        f"GFLOP/s; medians of {FLAGS.repeats}, in brackets the fastest and slowest."
    )


def _time(calls: Sequence[_Call], repeats: int) -> list[list[float]]:
    """Returns the seconds of each call, taken in turn so that all share the noise."""
    for call in calls:
        call()
    secs: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, secs, strict=True):
            own.append(_warm_secs(call))
    return secs


def _warm_secs(call: _Call) -> float:
    """Returns the seconds of the last call of those begun within one second."""
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        if end - begin > 1:
            return end - start


_median = statistics.median


def _ms(secs: Sequence[float]) -> str:
    low, high = 1e3 * min(secs), 1e3 * max(secs)
    return f"{1e3 * _median(secs):.4g} ms ({low:.4g} to {high:.4g})"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [f"\n{title}\n", *(" | ".join(row) for row in [head, ["---"] * len(head)])]
    lines += [" | ".join(row) for row in rows]
    print("\n".join(lines[:1] + [f"| {line} |" for line in lines[1:]]), flush=True)


def _fresh(program: str, *arguments: str) -> dict[str, Any]:
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


def _scattering() -> None:
    """J=13, Q=8, order 2: the frontend of the default preset."""
    _scattering_beside_kymatio()
    _scattering_by_length()
    _scattering_in_itself()
    _scattering_by_operation()


def _scattering_beside_kymatio() -> None:
    import numpy as np

    from genre_tl import scattering

    num_samples = 30 * _RATE_HZ
    for batch in (1, 8):
        clips = np.random.default_rng(0).standard_normal([batch, num_samples])
        clips = clips.astype(np.float32)
        ours = scattering.Scattering1D(13, 8)
        calls: dict[str, _Call] = {"genre_tl": _graph(ours, clips), **_kymatio(clips)}
        secs = dict(zip(calls, _time(list(calls.values()), FLAGS.repeats), strict=True))
        fastest = _median(secs["genre_tl"])
        rows = [
            [
                name,
                _ms(own),
                f"{batch * 30 / _median(own):.0f}",
                f"{_median(own) / fastest:.1f}",
            ]
            for name, own in secs.items()
        ]
        head = ["", "time", "times real time", "times ours"]
        _table(f"Clips of 30 s, a batch of {batch}", head, rows)


def _graph(layer: Any, clips: Any) -> _Call:
    import tensorflow as tf

    # One graph for any batch, as in a model.
    spec = tf.TensorSpec([None, clips.shape[1]], tf.float32)
    graph = tf.function(layer, [spec], autograph=False).get_concrete_function()
    return lambda: graph(tf.constant(clips)).numpy()


def _kymatio(clips: Any) -> dict[str, _Call]:
    """Returns kymatio's back ends by name, each a call that transforms the clips."""
    import tensorflow as tf
    from kymatio.numpy import Scattering1D as InNumpy
    from kymatio.tensorflow import Scattering1D as InTensorFlow

    size = {"J": 13, "Q": 8, "shape": clips.shape[1]}
    in_numpy, in_tensorflow = InNumpy(**size), InTensorFlow(**size)
    calls: dict[str, _Call] = {
        "kymatio, TensorFlow, eager": lambda: in_tensorflow(tf.constant(clips)).numpy(),
        "kymatio, NumPy": lambda: in_numpy(clips),
    }
    try:
        import torch
        from kymatio.torch import Scattering1D as InTorch
    except ImportError:
        print("PyTorch is not installed: left out")
        return calls
    torch.set_num_threads(os.cpu_count() or 1)
    in_torch, tensor = InTorch(**size), torch.from_numpy(clips)

    def with_torch() -> object:
        with torch.no_grad():
            return in_torch(tensor).numpy()

    return {**calls, f"kymatio, PyTorch {torch.__version__}": with_torch}


def _scattering_by_length() -> None:
    import numpy as np

    from genre_tl import scattering

    rows = []
    for secs, batch in [(3, 1), (30, 1), (300, 1), (30, 2), (30, 4), (30, 8), (30, 16)]:
        clips = np.zeros([batch, secs * _RATE_HZ], np.float32)
        call = _graph(scattering.Scattering1D(13, 8), clips)
        taken = _time([call], FLAGS.repeats)[0]
        real_time = batch * secs / _median(taken)
        rows.append([f"{batch} of {secs} s", _ms(taken), f"{real_time:.0f}"])
    _table("Cost by length and number", ["clips", "time", "times real time"], rows)


_MAKE_LAYER = """
import sys, time
import numpy as np, tensorflow as tf
from genre_tl import scattering
found, start = {}, time.perf_counter()
layer = scattering.Scattering1D(13, 8)
layer.build((None, 480_000))
built = time.perf_counter()
module = tf.Module()
spec = tf.TensorSpec([None, 480_000], tf.float32)
module.call = tf.function(layer, [spec], autograph=False)
graph = module.call.get_concrete_function().graph
found["built"], found["traced"] = built - start, time.perf_counter() - built
nodes = list(graph.as_graph_def().node)
nodes += [n for f in graph.as_graph_def().library.function for n in f.node_def]
sizes = [n.attr["value"].tensor.ByteSize() for n in nodes if n.op == "Const"]
captured = [x.shape.num_elements() * x.dtype.size for x, _ in graph.captures]
found["largest"], found["filters"] = max(sizes + captured), sum(captured)
tf.saved_model.save(module, sys.argv[1])
"""

_LOAD_LAYER = """
import sys, time
import numpy as np, tensorflow as tf
start = time.perf_counter()
module = tf.saved_model.load(sys.argv[1])
loaded = time.perf_counter()
module.call(tf.zeros([1, 480_000])).numpy()
found = {"loaded": loaded - start, "first": time.perf_counter() - loaded}
"""

_RUN_LAYER = """
import sys
import tensorflow as tf
from genre_tl import scattering
layer, found = scattering.Scattering1D(13, 8), {}
graph = tf.function(layer, [tf.TensorSpec([None, 480_000])], autograph=False)
for _ in range(3 if int(sys.argv[1]) else 0):
    graph(tf.random.normal([int(sys.argv[1]), 480_000]))
"""


def _scattering_in_itself() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = _fresh(_MAKE_LAYER, folder)
        size = sum(
            os.path.getsize(os.path.join(root, name))
            for root, _, names in os.walk(folder)
            for name in names
        )
        found |= _fresh(_LOAD_LAYER, folder)
    idle, *peaks = (_fresh(_RUN_LAYER, str(batch))["peak_mb"] for batch in (0, 1, 8))
    rows = [
        ["layer built", f"{found['built']:.2f} s"],
        ["traced", f"{found['traced']:.2f} s"],
        ["all filters", f"{found['filters'] / 1e6:.1f} MB"],
        ["largest constant", f"{found['largest'] / 1e6:.2f} MB"],
        ["SavedModel of the layer alone", f"{size / 1e6:.1f} MB"],
        ["loaded", f"{found['loaded']:.2f} s"],
        ["first call after that", f"{found['first']:.2f} s"],
        ["peak memory of the process, nothing computed", f"{idle:.0f} MB"],
        ["peak memory, batches of 1", f"{peaks[0]:.0f} MB"],
        ["peak memory, batches of 8", f"{peaks[1]:.0f} MB"],
    ]
    _table("The layer at 30 s", ["", ""], rows)


# What TensorFlow's operations are there for in the scattering layer; the others
# move data: the circle closed, steps cut and joined.
_PURPOSES = {
    "Conv2D": "filters and halvings",
    "MatMul": "low-pass",
    "AddN": "low-pass",
    **dict.fromkeys(["Square", "AddV2", "Maximum", "Sqrt", "Sub"], "modulus"),
}


def _scattering_by_operation() -> None:
    import tensorflow as tf

    from genre_tl import scattering

    spec = tf.TensorSpec([1, 30 * _RATE_HZ], tf.float32)
    layer = tf.function(scattering.Scattering1D(13, 8), [spec], autograph=False)
    function = layer.get_concrete_function()
    clip = tf.random.normal(spec.shape)
    secs = _median(_time([lambda: function(clip).numpy()], FLAGS.repeats)[0])
    shares, flops = _by_operation(function)
    rows: dict[str, float] = {}
    for kind, share in shares.items():
        purpose = _PURPOSES.get(kind, "moving data")
        rows[purpose] = rows.get(purpose, 0) + share
    _table(
        f"Where the time of a clip of 30 s goes: {flops / 1e9:.1f} GFLOP, at "
        f"{flops / secs / 1e9:.0f} GFLOP/s",
        ["", "share of the processors' time"],
        [[purpose, f"{100 * share:.0f} %"] for purpose, share in rows.items()],
    )


def _by_operation(function: Any) -> tuple[dict[str, float], int]:
    """Returns the share of each operation, and the floating-point operations."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    v1 = tf.compat.v1
    frozen = convert_to_constants.convert_variables_to_constants_v2(function)
    [spec], [result] = frozen.inputs, frozen.outputs
    count = v1.profiler.ProfileOptionBuilder.float_operation()
    with tf.Graph().as_default() as graph, v1.Session() as session:
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
        flops = v1.profiler.profile(graph, options={**count, "output": "none"})
        feed = {spec.name: np.random.default_rng(0).standard_normal(spec.shape)}
        trace = v1.RunMetadata()
        options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
        for _ in range(3):  # The last one counts.
            session.run(result.name, feed, options, trace)
    kinds = {node.name: node.type for node in graph.get_operations()}
    secs: dict[str, float] = {}
    for device in trace.step_stats.dev_stats:
        for node in device.node_stats:
            # Where TensorFlow made a node anew, its name begins with the operation.
            made = re.split(r"_\d|_split", str(node.node_name).split("/")[-1])[0]
            kind = kinds.get(node.node_name, str(made))
            spent = node.op_end_rel_micros - node.op_start_rel_micros
            secs[kind] = secs.get(kind, 0) + spent
    total = sum(secs.values())
    return {kind: spent / total for kind, spent in secs.items()}, flops.total_float_ops


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
