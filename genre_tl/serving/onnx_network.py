"""Writes the layers of a trained network as ONNX operations.

The same computation as `network_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from genre_tl import params
from genre_tl.model import networks, transfer
from genre_tl.serving.onnx_builder import Builder

_BIDIRECTIONAL = keras.layers.Bidirectional
_LSTM_GATES = [0, 3, 1, 2]  # ONNX has the output gate second, Keras last


class Network:
    """A tagger or classifier that adds its operations to a graph.

    Attributes:
      num_labels: number of scores.
      num_units: length of an embedding.
    """

    def __init__(self, build: Builder, network: keras.Model) -> None:
        self._build = build
        self._weights = {x.name: x.get_weights() for x in network.layers}
        self._recurrent = [x for x in network.layers if _is_recurrent(x)]
        self._reads_all = networks.READOUT in self._weights
        head = network.get_layer(networks.HEAD)
        self._activation = head.activation.__name__
        self._num_paths = len(self._weights[networks.STANDARDIZE][0])
        self.num_labels = head.units
        if networks.EMBEDDING in self._weights:
            self.num_units = len(self._weights[networks.EMBEDDING][1])
        else:
            sizes = [layer.output.shape[-1] for layer in self._recurrent]
            self.num_units = (
                sum(sizes, self._num_paths) if self._reads_all else sizes[-1]
            )

    def states(self, frames: str, counts: str) -> list[str]:
        """Returns what is read of every frame, in parts `[frames, segments, units]`.

        With read-out `all` these are the standardised frames and all layers' states,
        else the last layer's. `frames` is `[segments, frames, paths]`; `counts` are the
        valid ones, float32 `[segments]`.
        """
        build = self._build
        steps = build.op("Transpose", frames, perm=[1, 0, 2])
        parts = [self._standardized(steps, networks.STANDARDIZE)]
        lengths = build.cast(counts, np.int32)
        for layer in self._recurrent:
            parts.append(_run(build, layer, parts[-1], lengths))
        return parts if self._reads_all else parts[-1:]

    def read_out(self, parts: Sequence[str], counts: str) -> str:
        """Returns what the network reads of a segment, `[segments, units]`."""
        build = self._build
        numbers = self._numbers(parts[0])
        if not self._reads_all:
            last = build.op("Equal", numbers, build.op("Sub", counts, 1.0))
            weights = build.cast(last, np.float32)
        else:
            is_valid = build.cast(build.op("Less", numbers, counts), np.float32)
            weights = build.op("Div", is_valid, counts)
        weights = build.op("Unsqueeze", weights, [2])  # [frames, segments, 1]
        read = [
            build.op("ReduceSum", build.op("Mul", part, weights), [0], keepdims=0)
            for part in parts
        ]
        return build.op("Concat", *read, axis=1)

    def local(self, parts: Sequence[str], counts: str, reach: int) -> str:
        """Returns what it reads around each frame, `[segments, frames, units]`.

        With read-out `all` it is the mean of the valid states up to `reach` frames
        away, else the state.
        """
        build = self._build
        states = build.op("Concat", *parts, axis=2)
        states = build.op("Transpose", states, perm=[1, 0, 2])
        if not self._reads_all:
            return states
        numbers = self._numbers(parts[0])  # [frames, 1]
        row = build.op("Transpose", numbers, perm=[1, 0])
        distance = build.op("Abs", build.op("Sub", numbers, row))
        is_near = build.op("LessOrEqual", distance, float(reach))
        is_valid = build.op("Less", row, build.op("Unsqueeze", counts, [1]))
        is_valid = build.op("Unsqueeze", is_valid, [1])
        weights = build.cast(build.op("And", is_near, is_valid), np.float32)
        total = build.op("ReduceSum", weights, [2])
        weights = build.op("Div", weights, build.op("Max", total, 1.0))
        return build.op("MatMul", weights, states)

    def scores(self, vectors: str) -> tuple[str, str]:
        """Returns scores `[..., labels]` and embeddings `[..., units]`."""
        build = self._build
        embedding = self._dense(vectors, networks.EMBEDDING)
        features = embedding
        if transfer.LOGITS in self._weights:
            mean = build.op("Slice", vectors, [0], [self._num_paths], [-1])
            logits = self._dense(embedding, transfer.LOGITS)
            features = build.op("Concat", mean, logits, axis=-1)
        if transfer.SCALE in self._weights:
            features = self._standardized(features, transfer.SCALE)
        if transfer.SIMILARITY in self._weights:
            features = self._gaussian(features)
        logits = self._dense(features, networks.HEAD)
        if self._activation == "calibrated_softmax":
            logits = self._calibrated(logits)
        kind = "Sigmoid" if self._activation == "sigmoid" else "Softmax"
        return build.op(kind, logits), embedding

    def _calibrated(self, logits: str) -> str:
        # See `networks.calibrated_softmax`.
        build = self._build
        centred = build.op("Sub", logits, build.op("ReduceMean", logits, axes=[-1]))
        squares = build.op("ReduceSum", build.op("Mul", centred, centred), [-1])
        norm = build.op("Max", build.op("Sqrt", squares), 1e-6)
        ratio = build.op("Div", params.CALIBRATION_NORM, norm)
        factor = build.op("Pow", ratio, params.CALIBRATION_POWER)
        return build.op("Mul", centred, factor)

    def _numbers(self, steps: str) -> str:
        """Returns the numbers of frames, float32 `[frames, 1]`."""
        count = self._build.op("Squeeze", self._build.size(steps, 0))
        numbers = self._build.cast(self._build.op("Range", 0, count, 1), np.float32)
        return self._build.op("Unsqueeze", numbers, [1])

    def _dense(self, values: str, name: str) -> str:
        """Returns the output of a layer; its input if the network does not have it."""
        if name not in self._weights:
            return values
        kernel, bias = map(self._build.weight, self._weights[name])
        return self._build.op("Add", self._build.op("MatMul", values, kernel), bias)

    def _standardized(self, values: str, name: str) -> str:
        mean, stddev = map(self._build.weight, self._weights[name])
        return self._build.op("Div", self._build.op("Sub", values, mean), stddev)

    def _gaussian(self, points: str) -> str:
        # See `networks.gaussian`.
        build = self._build
        centres = build.weight(self._weights[transfer.SIMILARITY][0])
        squares = build.op("ReduceSum", build.op("Mul", points, points), [-1])
        others = build.op("ReduceSum", build.op("Mul", centres, centres), [0])
        products = build.op("Mul", build.op("MatMul", points, centres), 2.0)
        distances = build.op("Sub", build.op("Add", squares, others), products)
        return build.op("Exp", build.op("Neg", build.op("Relu", distances)))


def _is_recurrent(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _BIDIRECTIONAL) or type(layer).__name__ in ("GRU", "LSTM")


def _run(build: Builder, layer: keras.layers.Layer, steps: str, lengths: str) -> str:
    """Returns the states of a recurrent layer, `[frames, segments, units]`."""
    is_both = isinstance(layer, _BIDIRECTIONAL)
    cells = [layer.forward_layer, layer.backward_layer] if is_both else [layer]
    kind = type(cells[0]).__name__
    weights = [_onnx_weights(kind, cell.get_weights()) for cell in cells]
    names = [build.weight(np.stack(part)) for part in zip(*weights, strict=True)]
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    states = build.op(
        kind,
        *(steps, *names, lengths),
        hidden_size=cells[0].units,
        direction="bidirectional" if is_both else "forward",
        **options,
    )  # [frames, directions, segments, units]
    if not is_both:
        return build.op("Squeeze", states, [1])
    forward, backward = (
        build.op("Squeeze", x, [1]) for x in build.ops("Split", 2, states, axis=1)
    )
    if not layer.return_sequences:
        # The backward layer's last state is at the first frame.
        first = build.op("Slice", backward, [0], [1], [0])
        backward = build.op("Expand", first, build.op("Shape", backward))
    return build.op("Concat", forward, backward, axis=2)


def _onnx_weights(kind: str, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns kernel, recurrent kernel and biases of a direction as ONNX has them."""
    kernel, recurrent_kernel, bias = weights
    if kind == "LSTM":
        bias = np.stack([bias, np.zeros_like(bias)])
        kernel, recurrent_kernel, bias = (
            np.concatenate([np.split(x, 4, -1)[i] for i in _LSTM_GATES], -1)
            for x in (kernel, recurrent_kernel, bias)
        )
    return [kernel.T, recurrent_kernel.T, bias.ravel()]
