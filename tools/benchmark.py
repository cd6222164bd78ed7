"""Measures speed and memory on this machine, beside a peer in the same run.

    python -m tools.benchmark scattering
    python -m tools.benchmark training
    python -m tools.benchmark serving --model=saved_models/genres
    python -m tools.benchmark predict --model=saved_models/genres music/
    python -m tools.benchmark memory --model=saved_models/genres

`scattering` is the layer, beside kymatio's back ends; `training` a step of training,
beside Keras's own layers; `serving` an export, as a server calls it; `predict` files
in, scores or features out, beside a loop over soundfile and kymatio; `memory` that of
prediction, over many files and long ones, as a picture too. Prints tables in Markdown;
docs/benchmarks.md holds those of one machine. Let nothing else run meanwhile. A peer
that is not installed is left out, and said to be.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags

from . import benchmark_files, command, timing

FLAGS = flags.FLAGS

flags.DEFINE_integer("repeats", 7, "Measurements of each thing.", lower_bound=1)
flags.DEFINE_string(
    "model", "saved_models/genres", "Export to measure; not of `scattering`."
)
flags.DEFINE_integer(
    "max_files", None, "Files that `predict` takes; all if not given.", lower_bound=1
)
flags.DEFINE_integer("num_files", 5000, "Files that `memory` makes.", lower_bound=1)
flags.DEFINE_float("hours", 10, "Length of the files that `memory` makes then.")
flags.DEFINE_string("picture", "memory.png", "PNG that `memory` writes.")

_RATE_HZ = 16_000


def main(argv: list[str]) -> None:
    subjects = {
        "scattering": _scattering,
        "training": _training,
        "serving": _serving,
        "predict": _predict,
        "memory": _memory,
    }
    if len(argv) < 2 or argv[1] not in subjects:
        raise app.UsageError(f"name what to measure: {', '.join(subjects)}")
    print(timing.machine(FLAGS.repeats))
    subjects[argv[1]](*argv[2:])


def _training() -> None:
    from . import training_benchmark

    training_benchmark.run(FLAGS.repeats)


def _scattering() -> None:
    """J=13, Q=8, order 2: the frontend of the default preset."""
    _scattering_beside_kymatio()
    _scattering_by_length()
    _scattering_in_itself()
    _scattering_by_operation()


def _scattering_beside_kymatio() -> None:
    from genre_tl import scattering

    num_samples = 30 * _RATE_HZ
    for batch in (1, 8):
        clips = np.random.default_rng(0).standard_normal([batch, num_samples])
        clips = clips.astype(np.float32)
        ours = scattering.Scattering1D(13, 8)
        calls: dict[str, timing.Call] = {
            "genre_tl": _graph(ours, clips),
            **_kymatio(clips),
        }
        secs = dict(
            zip(
                calls,
                timing.seconds(list(calls.values()), FLAGS.repeats),
                strict=True,
            )
        )
        fastest = timing.median(secs["genre_tl"])
        rows = [
            [
                name,
                timing.milliseconds(own),
                f"{batch * 30 / timing.median(own):.0f}",
                f"{timing.median(own) / fastest:.1f}",
            ]
            for name, own in secs.items()
        ]
        head = ["", "time", "times real time", "times ours"]
        timing.table(f"Clips of 30 s, a batch of {batch}", head, rows)


def _graph(layer: Any, clips: Any) -> timing.Call:
    import tensorflow as tf

    # One graph for any batch, as in a model.
    spec = tf.TensorSpec([None, clips.shape[1]], tf.float32)
    graph = tf.function(layer, [spec], autograph=False).get_concrete_function()
    return lambda: graph(tf.constant(clips)).numpy()


def _kymatio(clips: Any) -> dict[str, timing.Call]:
    """Returns kymatio's back ends by name, each a call that transforms the clips."""
    import tensorflow as tf
    from kymatio.tensorflow import Scattering1D as InTensorFlow

    size = {"J": 13, "Q": 8, "shape": clips.shape[1]}
    in_tensorflow = InTensorFlow(**size)
    calls: dict[str, timing.Call] = {
        "kymatio, TensorFlow, eager": lambda: in_tensorflow(tf.constant(clips)).numpy(),
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
    from genre_tl import scattering

    rows = []
    for secs, batch in [(3, 1), (30, 1), (300, 1), (30, 2), (30, 4), (30, 8), (30, 16)]:
        clips = np.zeros([batch, secs * _RATE_HZ], np.float32)
        call = _graph(scattering.Scattering1D(13, 8), clips)
        taken = timing.seconds([call], FLAGS.repeats)[0]
        real_time = batch * secs / timing.median(taken)
        rows.append(
            [f"{batch} of {secs} s", timing.milliseconds(taken), f"{real_time:.0f}"]
        )
    timing.table(
        "Cost by length and number", ["clips", "time", "times real time"], rows
    )


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
        found = timing.fresh(_MAKE_LAYER, folder)
        size = sum(
            os.path.getsize(os.path.join(root, name))
            for root, _, names in os.walk(folder)
            for name in names
        )
        found |= timing.fresh(_LOAD_LAYER, folder)
    idle, *peaks = (
        timing.fresh(_RUN_LAYER, str(batch))["peak_mb"] for batch in (0, 1, 8)
    )
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
    timing.table("The layer at 30 s", ["", ""], rows)


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
    secs = timing.median(
        timing.seconds([lambda: function(clip).numpy()], FLAGS.repeats)[0]
    )
    shares, flops = _by_operation(function)
    rows: dict[str, float] = {}
    for kind, share in shares.items():
        purpose = _PURPOSES.get(kind, "moving data")
        rows[purpose] = rows.get(purpose, 0) + share
    timing.table(
        f"Where the time of a clip of 30 s goes: {flops / 1e9:.1f} GFLOP, at "
        f"{flops / secs / 1e9:.0f} GFLOP/s",
        ["", "share of the processors' time"],
        [[purpose, f"{100 * share:.0f} %"] for purpose, share in rows.items()],
    )


def _by_operation(function: Any) -> tuple[dict[str, float], int]:
    """Returns the share of each operation, and the floating-point operations."""
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


_SERVE = """
import sys, time
import numpy as np, tensorflow as tf
imported = time.time()
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
loaded = time.time()
secs = {}
for batch, length, repeats in eval(sys.argv[2]):
    clips = tf.random.uniform([batch, length], -0.1, 0.1)
    for attempt in range(repeats + 1):
        start = time.time()
        serve(waveform=clips)["scores"].numpy()
        secs.setdefault(f"{batch} {length}", []).append(time.time() - start)
        answered = time.time() if attempt == 0 else answered
found = {"imported": imported, "loaded": loaded, "secs": secs}
"""


def _serving() -> None:
    from genre_tl.serving import export

    folder = str(export.newest(FLAGS.model) or FLAGS.model)
    clip, many = 30 * _RATE_HZ, 20 * FLAGS.repeats
    start = time.time()
    found = timing.fresh(_SERVE, folder, str([(1, clip, many)]))
    first, *secs = found["secs"][f"1 {clip}"]
    late = sorted(secs)[math.ceil(0.99 * len(secs)) - 1]
    batches = [(batch, clip, FLAGS.repeats) for batch in (1, 2, 4, 8, 16)]
    batched = timing.fresh(_SERVE, folder, str(batches))
    hour = timing.fresh(_SERVE, folder, str([(1, 3600 * _RATE_HZ, 0)]))
    rows = [
        ["TensorFlow imported", f"{found['imported'] - start:.1f} s"],
        ["export loaded", f"{found['loaded'] - found['imported']:.1f} s"],
        ["first answer after that", f"{first:.1f} s"],
        [f"a clip, {len(secs)} times", timing.milliseconds(secs)],
        ["99th percentile", f"{1e3 * late:.0f} ms"],
        ["peak memory of the process", f"{found['peak_mb']:.0f} MB"],
        ["one hour", f"{hour['secs'][f'1 {3600 * _RATE_HZ}'][0]:.1f} s"],
        ["peak memory, one hour", f"{hour['peak_mb']:.0f} MB"],
    ]
    timing.table("An export, clips of 30 s, on waveforms", ["", ""], rows)
    rows = []
    for batch, *_ in batches:
        own = batched["secs"][f"{batch} {clip}"][1:]
        rate = batch / timing.median(own)
        rows.append([str(batch), timing.milliseconds(own), f"{rate:.1f}"])
    head = ["clips of 30 s at once", "time", "clips a second"]
    timing.table("Throughput", head, rows)


def _predict(*folders: str) -> None:
    names = benchmark_files.names_in(folders, FLAGS.max_files)
    benchmark_files.speed(FLAGS.model, names)


def _memory() -> None:
    hours, picture = FLAGS.hours, FLAGS.picture
    benchmark_files.memory(FLAGS.model, FLAGS.num_files, hours, picture)


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
