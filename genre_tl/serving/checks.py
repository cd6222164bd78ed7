"""What a SavedModel must pass before it is published.

It is looked at (operations, traces of this machine) and called in a process of its
own, as a server would: with TensorFlow and nothing of this package.
"""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl import features, params
from genre_tl.features import framing
from genre_tl.model import networks
from genre_tl.serving import warmup

TOLERANCE = 1e-5
"""Largest difference between scores that count as the same."""

OPERATIONS = frozenset(
    """
    Abs Add AddN AddV2 All Any AsString Assert AssignVariableOp Atan2 BatchMatMulV2
    BiasAdd BroadcastArgs BroadcastTo Case Cast Ceil CheckNumerics ClipByValue Concat
    ConcatV2 Const Conv2D Cos Cumprod Cumsum DecodeRaw DisableCopyOnRead DivNoNan Einsum
    EnsureShape Equal Erf Erfc Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod
    GatherNd GatherV2 Greater GreaterEqual IRFFT Identity IdentityN If IsFinite Less
    LessEqual LinSpace Log Log1p LogicalAnd LogicalNot LogicalOr LoopCond MatMul Max
    Maximum Mean MergeV2Checkpoints Min Minimum MirrorPad Mod Mul Neg NoOp NotEqual
    OnesLike Pack Pad PadV2 ParseExampleV2 PartitionedCall Placeholder
    PlaceholderWithDefault Pow Prod RFFT RaggedTensorToTensor Range Rank ReadVariableOp
    RealDiv Reciprocal Relu Reshape RestoreV2 ReverseV2 Rint Roll Round Rsqrt SaveV2
    ScatterNd SegmentSum Select SelectV2 Shape ShardedFilename Sigmoid Sign Sin Size
    Slice Softmax Split SplitV Sqrt Square Squeeze StatefulPartitionedCall StatelessCase
    StatelessIf StatelessWhile StaticRegexFullMatch StopGradient StridedSlice StringJoin
    StringLength Sub Substr Sum Switch Tanh TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListReserve TensorListResize TensorListSetItem TensorListStack
    TensorScatterUpdate Tile Transpose TruncateDiv Unpack UnsortedSegmentSum VarHandleOp
    VarIsInitializedOp Where While ZerosLike
    """.split()
)
"""What an export may consist of: all are in TensorFlow Serving, and run on CPU."""

FILES = frozenset(
    {
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/labels.txt",
        str(warmup.REQUESTS),
        warmup.BATCHING,
    }
)
"""What an export consists of before its card is added."""

# What no export may have loaded, as a program that calls it. The arguments are
# the export, an .npz of clips and requests, and where the .npz of answers goes.
_CALLER = """
import sys, time
start = time.monotonic()
import numpy as np
import tensorflow as tf
imported = time.monotonic()
model = tf.saved_model.load(sys.argv[1])
loaded = time.monotonic()
serve = model.signatures["serving_default"]

def scores(*clips, padding=0, first=False):
    batch = np.zeros([len(clips), max(map(len, clips)) + padding], np.float32)
    for row, clip in zip(batch, clips):
        row[: len(clip)] = clip
        if first:
            row[len(clip) :] = clip[0]
    return serve(waveform=tf.constant(batch))["scores"].numpy()

with np.load(sys.argv[2], allow_pickle=True) as file:
    given = dict(file)
clips = [given[f"clip_{number}"] for number in range(given["count"])]
first = scores(clips[0])
answered = time.monotonic()
answers = {
    "alone": np.concatenate([first, *(scores(clip) for clip in clips[1:])]),
    "in a batch": scores(*clips),
    "padded": scores(*clips, padding=len(clips[0]) + 17),
    "padded by a server": scores(*clips, padding=100, first=True),
    "classes": serve(waveform=tf.zeros([1, 0]))["classes"].numpy().astype("S"),
    "secs": [imported - start, loaded - imported, answered - loaded],
}
for name in model.signatures:
    signature = model.signatures[name]
    (argument,) = signature.structured_input_signature[1]
    value = given["request_" + name]
    value = value.tolist() if value.dtype == object else value
    for output, tensor in signature(**{argument: tf.constant(value)}).items():
        if tensor.dtype == tf.float32:
            answers[name + "/" + output] = tensor.numpy()
encoded = tf.constant([given["encoded"].item()])
answers["as bytes"] = model.signatures["audio_bytes"](encoded)["scores"].numpy()
foreign = {"genre_tl", "kymatio", "tensorflow_io", "soundfile"} & set(sys.modules)
assert not foreign, f"loading it imported {foreign}"
np.savez(sys.argv[3], **answers)
"""


def run(
    folder: pathlib.Path,
    network: keras.Model,
    frontend: params.Frontend,
    labels: Sequence[str],
) -> Iterator[str]:
    """Checks an export that is not yet published.

    Args:
      folder: the SavedModel.
      network: what it was made of.
      frontend: what the network's frames were computed with.
      labels: names of the scores, in their order.

    Yields:
      What was found to be right, a line of text each.

    Raises:
      ValueError: at the first thing that is not.
    """
    yield _check_files(folder, network)
    yield _check_operations(folder)
    yield _check_traces(folder)
    clips = reference_clips(frontend)
    answers = _call(folder, clips)
    if answers["classes"].tolist() != [[label.encode() for label in labels]]:
        raise ValueError("export refused: its classes are not the labels")
    yield _check_warm_up(answers)
    yield check_difference(
        answers["alone"],
        keras_scores(network, frontend, clips),
        f"scores of {len(clips)} reference clips, reloaded in a process with "
        "TensorFlow alone, differ from the Keras model's",
    )
    for name in ("in a batch", "padded", "padded by a server"):
        yield check_difference(
            answers[name],
            answers["alone"],
            f"scores of a clip {name} differ from its scores alone",
        )
    yield check_difference(
        answers["as bytes"],
        answers["alone"][:1],
        "scores of an encoded WAV file differ from those of its samples",
    )
    imported, loaded, answered = answers["secs"]
    yield (
        f"loaded in {loaded:.1f} s, first answer ({frontend.segment_secs:.1f} s of "
        f"audio) in {answered:.1f} s, after {imported:.1f} s to import TensorFlow"
    )


def _check_files(folder: pathlib.Path, network: keras.Model) -> str:
    paths = {path for path in folder.rglob("*") if path.is_file()}
    names = {path.relative_to(folder).as_posix() for path in paths}
    if names != FILES:
        raise ValueError(
            f"export refused: files {sorted(names ^ FILES)} are missing or too many"
        )
    saved = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = saved.get_variable_to_shape_map().values()
    found = sum(math.prod(shape) for shape in shapes if shape)
    expected = sum(w.size for layer in network.layers for w in _weights(layer))
    if found != expected:
        raise ValueError(
            f"export refused: it holds {found} values and the network {expected}: "
            "something of the training is inside, or something is missing"
        )
    return f"{expected} weights, and nothing of the training"


def _weights(layer: keras.layers.Layer) -> list[np.ndarray]:
    # What else a layer keeps, a generator's state, is of use in training alone.
    return [w for w in layer.get_weights() if np.issubdtype(w.dtype, np.floating)]


def _check_operations(folder: pathlib.Path) -> str:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    names = set()
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        functions = graph.library.function
        names |= {node.op for node in graph.node}
        names |= {node.op for function in functions for node in function.node_def}
    if names - OPERATIONS:
        raise ValueError(
            f"export refused: operations {sorted(names - OPERATIONS)} are not on the "
            "list of those that every server has"
        )
    return f"{len(names)} kinds of operations, all of them in every server"


def _check_traces(folder: pathlib.Path) -> str:
    # The path of an interpreter or a home is of no use to whoever serves this.
    private = {sys.prefix, sys.base_prefix, tempfile.gettempdir(), os.getcwd()}
    private |= {str(pathlib.Path.home()), str(folder.parent.resolve())}
    private |= {str(pathlib.Path(__file__).parent)}
    private = {f"{place}/" for place in private if place != "/"}
    found = {
        f"{place} in {path.relative_to(folder)}"
        for path in folder.rglob("*")
        for place in private
        if path.is_file() and os.fsencode(place) in path.read_bytes()
    }
    if found:
        raise ValueError(f"export refused: it names {', '.join(sorted(found))}")
    return "no path of this machine inside"


def _check_warm_up(answers: Mapping[str, np.ndarray]) -> str:
    names = sorted(name for name in answers if "/" in name)
    answered = {name.partition("/")[0] for name in names}
    if answered != set(warmup.requests()):
        raise ValueError(f"export refused: its signatures are {sorted(answered)}")
    broken = [name for name in names if not np.isfinite(answers[name]).all()]
    if broken:
        raise ValueError(f"export refused: {broken} are not finite")
    return f"{len(answered)} signatures answer the requests that warm them up"


def check_difference(
    ours: np.ndarray, theirs: np.ndarray, what: str, tolerance: float = TOLERANCE
) -> str:
    """Returns what was found: the largest difference.

    Raises:
      ValueError: if it is more than `tolerance`.
    """
    difference = float(np.max(np.abs(ours - theirs)))
    if not difference <= tolerance:  # NaN must not pass
        raise ValueError(
            f"export refused: {what} by {difference:.1e}, more than {tolerance:g}"
        )
    return f"{what} by {difference:.1e} at most"


def reference_clips(frontend: params.Frontend) -> list[np.ndarray]:
    """Returns float32 `[samples]` each; the first fills one segment."""
    generator, length = np.random.default_rng(0), frontend.segment_samples
    time = np.arange(2 * length + length // 3)
    is_on = np.sin(time * (40 / length)) > 0
    bursts = 0.3 * generator.standard_normal(len(time)) * is_on
    sine = 0.5 * np.sin(2 * np.pi * 440 / params.SAMPLE_RATE_HZ * time)
    clips = [
        bursts[:length],
        sine[: length // 2],
        np.zeros(length // 4),
        bursts[: frontend.hop_samples // 3],
        (bursts + sine)[::-1],
    ]
    return [clip.astype(np.float32) for clip in clips]


def _call(folder: pathlib.Path, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the answers of the export in a process of its own, on the CPU."""
    with tempfile.TemporaryDirectory() as name:
        inputs, outputs = (str(pathlib.Path(name) / f"{x}.npz") for x in "ab")
        given = {f"clip_{number}": clip for number, clip in enumerate(clips)}
        for signature, (_, value) in warmup.requests().items():
            given[f"request_{signature}"] = value
        encoded = np.array(warmup.wav_bytes(clips[0]), object)
        np.savez(inputs, count=len(clips), encoded=encoded, **given)
        done = subprocess.run(
            [sys.executable, "-c", _CALLER, str(folder.resolve()), inputs, outputs],
            cwd=name,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2] or done.returncode
            raise ValueError(f"export refused: it cannot be used: {reason}")
        with np.load(outputs) as file:
            return dict(file)


def keras_scores(
    network: keras.Model, frontend: params.Frontend, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """Scores clips without anything of the export; on the CPU, as it was called."""
    scores = []
    with tf.device("CPU:0"):
        network = networks.portable(network)
        frames_of = features.LogScattering.from_params(frontend)
        scores_of = tf.function(
            lambda *cut: network(frames_of.of_mirrored(*cut), training=False),
            [
                tf.TensorSpec([None, frontend.segment_samples]),
                tf.TensorSpec([None], "int32"),
            ],
        )
        for clip in clips:
            batch = tf.constant(clip[np.newaxis])
            places = framing.starts(batch), framing.padding(batch)
            segments = framing.segments(batch, frontend, *places)
            rows = framing.cut(batch, segments, frontend)
            values = scores_of(rows, segments.lengths).numpy()
            scores.append(np.average(values, axis=0, weights=segments.weights))
    return np.stack(scores)


def padded(clip: np.ndarray, frontend: params.Frontend) -> np.ndarray:
    """Returns float32 `[1, segment_samples]`."""
    return np.pad(clip, [0, frontend.segment_samples - len(clip)])[np.newaxis]
