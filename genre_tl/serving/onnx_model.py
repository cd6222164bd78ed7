"""The whole model as an ONNX graph: from waveforms to all answers.

The same computation as `saved_model.Answers`.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from genre_tl.data import datasets
from genre_tl.model import familiarity
from genre_tl.serving import onnx_frontend, runtimes, saved_model
from genre_tl.serving.onnx_builder import Builder, info
from genre_tl.serving.onnx_frontend import Segments
from genre_tl.serving.onnx_network import Network

_INPUTS = {
    "waveform": (np.float32, ["batch", "samples"]),
    "starts": (np.int64, ["batch or 1"]),
    "padding": (np.float32, ["batch or 1"]),
}
_DEFAULTS = {"starts": np.array([-1]), "padding": np.array([np.nan], np.float32)}


def build(trained: saved_model.TrainedModel) -> onnx.ModelProto:
    """Returns the model; `docs/serving.md` describes its inputs and outputs."""
    graph = Builder(half=trained.half)
    network = Network(graph, trained.network)
    found = _answers(graph, network, trained)
    for name, value in found.items():
        graph.rename(value, name)
    outputs = {
        "scores": ["batch", network.num_labels],
        "embedding": ["batch", network.num_units],
        "valid_frames": ["batch"],
        "familiarity": ["batch"],
        "scores_over_time": ["batch", "times", network.num_labels],
        "times": ["batch", "times"],
    }
    return graph.model(
        [info(name, *kind) for name, kind in _INPUTS.items()],
        _DEFAULTS,
        [
            info(name, np.float32, shape)
            for name, shape in outputs.items()
            if name in found
        ],
    )


def _answers(
    build: Builder, network: Network, trained: saved_model.TrainedModel
) -> dict[str, str]:
    frontend = trained.frontend
    # At least one sample, so that a clip has a first one.
    missing = build.op("Max", build.op("Sub", 1, build.size("waveform", 1)), 0)
    amounts = build.op("Concat", [0, 0, 0], missing, axis=0)
    waveform = build.op("Pad", "waveform", amounts)
    padding = onnx_frontend.padding(build, waveform, "padding")
    starts = onnx_frontend.starts(build, waveform, "starts")
    segments = onnx_frontend.segments(build, waveform, frontend, starts, padding)
    frames = onnx_frontend.frames(build, waveform, frontend, segments)
    states = network.states(frames, segments.weights)

    num_clips = build.size(waveform, 0)
    weights = _weights(build, num_clips, segments)
    means = build.op("Div", weights, build.op("ReduceSum", weights, [1]))
    has_sound = build.cast(build.op("Greater", segments.lengths, 0), np.float32)
    valid = build.op("ReduceSum", build.op("Mul", weights, has_sound), [1], keepdims=0)
    of_segments = network.scores(network.read_out(states, segments.weights))
    scores, embedding = (build.op("MatMul", means, x) for x in of_segments)

    reach = saved_model.window_frames(frontend)
    local = network.scores(network.local(states, segments.weights, reach))[0]
    times = onnx_frontend.times(build, frontend, segments)
    is_frame = build.op("Unsqueeze", build.op("GreaterOrEqual", times, 0.0), [2])
    local = build.op("Where", is_frame, local, 0.0)
    return {
        "scores": scores,
        "embedding": embedding,
        "valid_frames": valid,
        **_familiarity(build, trained, means, of_segments[1], (scores, valid)),
        "scores_over_time": _in_clips(build, local, segments, num_clips, 0.0),
        "times": _in_clips(build, times, segments, num_clips, runtimes.NO_TIME),
    }


def _log_distance(
    build: Builder, embedding: str, known: familiarity.Familiarity
) -> str:
    """Returns what `Familiarity.log_distance` does, `[segments]`."""
    least = familiarity.LEAST_SQUARE
    centred = build.op("Sub", embedding, known.mean)
    norms = _sum_of_squares(build, centred)
    along = _sum_of_squares(build, build.op("MatMul", centred, known.directions))
    squares = build.op("Sub", build.op("Div", norms, known.variance), along)
    squares = build.op("Squeeze", squares, [1])
    lengths = np.sum(known.segments**2, axis=1)
    products = build.op("MatMul", centred, -2 * known.segments.T)
    found = build.op("Add", build.op("Add", norms, products), lengths)
    count = min(familiarity.NUM_NEAREST, len(known.segments))
    nearest, _ = build.ops("TopK", 2, found, [count], axis=1, largest=0)
    nearest = build.op("Sqrt", build.op("Max", nearest, 0.0))
    nearest = build.op("ReduceMean", nearest, axes=[1], keepdims=0)
    nearest = build.op("Max", build.op("Mul", nearest, nearest), least)
    both = build.op("Mul", build.op("Max", squares, least), nearest)
    return build.op("Log", both)


def _sum_of_squares(build: Builder, rows: str) -> str:
    """Returns the squared length of each row, `[rows, 1]`."""
    return build.op("ReduceSum", build.op("Mul", rows, rows), [1])


def _familiarity(
    build: Builder,
    trained: saved_model.TrainedModel,
    means: str,
    embedding: str,
    of_clips: tuple[str, str],
) -> dict[str, str]:
    """Returns the familiarity of clips, `[clips]`, if the model knows it.

    `of_clips` are their scores and valid frames; see `saved_model.Answers`.
    """
    (scores, valid), known = of_clips, trained.known
    if known is None:
        return {}
    distances = build.op("Unsqueeze", _log_distance(build, embedding, known), [1])
    distance = build.op("Squeeze", build.op("MatMul", means, distances), [1])
    standard = build.op("Div", build.op("Sub", distance, known.centre), known.spread)
    error = build.op("Erf", build.op("Div", standard, math.sqrt(2)))
    share = build.op("Mul", build.op("Sub", 1.0, error), 0.5)
    if datasets.BACKGROUND in trained.labels:
        place = list(trained.labels).index(datasets.BACKGROUND)
        background = build.op("Gather", scores, place, axis=1)
        share = build.op("Mul", share, build.op("Sub", 1.0, background))
    has_sound = build.op("Greater", valid, 0.0)
    return {"familiarity": build.op("Where", has_sound, share, 0.0)}


def _weights(build: Builder, num_clips: str, segments: Segments) -> str:
    """Returns the weight of each segment in each clip, `[clips, segments]`."""
    rows = build.op("Range", 0, build.op("Squeeze", num_clips), 1)
    is_of_clip = build.op("Equal", build.op("Unsqueeze", rows, [1]), segments.clips)
    return build.op("Mul", build.cast(is_of_clip, np.float32), segments.weights)


def _in_clips(
    build: Builder, values: str, segments: Segments, num_clips: str, missing: float
) -> str:
    """Puts `[segments, frames, ...]` where they belong: `[clips, times, ...]`.

    Segments without sound have the value `missing`.
    """
    last = build.op("ReduceMax", segments.numbers, axes=[0])
    count = build.op("Add", last, 1)
    places = build.op("Mul", segments.clips, count)
    places = build.op("Unsqueeze", build.op("Add", places, segments.numbers), [1])
    of_segment = build.op("Shape", values, start=1)
    num_places = build.op("Mul", num_clips, count)
    shape = build.op("Concat", num_places, of_segment, axis=0)
    everywhere = build.op("Expand", missing, shape)
    placed = build.op("ScatterND", everywhere, places, values)
    of_frame = build.op("Shape", values, start=2)
    shape = build.op("Concat", num_clips, [-1], of_frame, axis=0)
    return build.op("Reshape", placed, shape)
