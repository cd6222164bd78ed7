"""Builds ONNX graphs node by node; values are known by their names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17
"""Version of the standard operations, of June 2022."""

_IR_VERSION = 8  # of the same release of ONNX


class Builder:
    """A graph under construction.

    Inputs of operations are names, or numbers and arrays, which become constants. A
    loop has constants of its own: ONNX Runtime optimizes no convolution whose weights
    come from outside. With `half`, weights are stored in half precision.
    """

    def __init__(self, parent: Builder | None = None, *, half: bool = False) -> None:
        self._root: Builder = parent._root if parent else self
        self._nodes: list[onnx.NodeProto] = []
        self._half = half
        self._stored: dict[Any, onnx.TensorProto] = {}
        self._numbers = itertools.count()

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Adds an operation and returns its only output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(
        self, kind: str, num_outputs: int, *inputs: Any, **attributes: Any
    ) -> list[str]:
        """Adds an operation and returns its outputs."""
        outputs = [self.name(kind) for _ in range(num_outputs)]
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self._nodes.append(helper.make_node(kind, names, outputs, **attributes))
        return outputs

    def constant(self, values: Any) -> str:
        """Returns a constant: float32, int64 or bool."""
        array = np.asarray(values)
        kinds = {"f": np.float32, "i": np.int64, "b": np.bool_}
        return self._store(array.astype(kinds[array.dtype.kind]))

    def weight(self, values: np.ndarray) -> str:
        """Returns a weight of the network, in single precision."""
        if not self._root._half:
            return self.constant(values)
        return self.cast(self._store(values.astype(np.float16)), np.float32)

    def cast(self, value: str, dtype: Any) -> str:
        """Converts a value."""
        return self.op("Cast", value, to=_element_type(dtype))

    def size(self, value: str, axis: int) -> str:
        """Returns the length of an axis, int64 `[1]`."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def rename(self, value: str, name: str) -> None:
        """Gives a value another name, as an output of the model."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    def loop(
        self, count: str, body: Builder, number: str, output: str, dtype: Any
    ) -> str:
        """Runs a body several times; returns its outputs, stacked.

        Args:
          count: how often, int64 `[]`.
          body: a builder whose parent this is.
          number: the name by which the body knows the number of a round, int64 `[]`.
          output: a value of the body.
          dtype: that of the output.
        """
        goes_on = body.op("Identity", True)
        inputs = [info(number, np.int64, []), info(self.name("unused"), bool, [])]
        outputs = [info(goes_on, bool, []), info(output, dtype, None)]
        stored = [*body._stored.values()]
        graph = helper.make_graph(body._nodes, "body", inputs, outputs, stored)
        return self.op("Loop", count, "", body=graph)

    def choose(self, condition: str, yes: Builder, no: Builder, dtype: Any) -> str:
        """Computes one of two branches, and returns its last value."""
        branches = {
            f"{name}_branch": helper.make_graph(
                branch._nodes,
                name,
                [],
                [info(branch._nodes[-1].output[0], dtype, None)],
                [*branch._stored.values()],
            )
            for name, branch in (("then", yes), ("else", no))
        }
        return self.op("If", condition, **branches)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        defaults: dict[str, np.ndarray],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Returns the whole model; inputs with `defaults` may be absent."""
        stored = [*self._stored.values()]
        stored += [numpy_helper.from_array(x, name) for name, x in defaults.items()]
        graph = helper.make_graph(self._nodes, "genre_tl", inputs, outputs, stored)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph,
            opset_imports=[opset],
            ir_version=_IR_VERSION,
            producer_name="genre_tl",
        )

    def _store(self, array: np.ndarray) -> str:
        stored = self._stored
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in stored:
            stored[key] = numpy_helper.from_array(array, self.name("constant"))
        return stored[key].name

    def name(self, kind: str) -> str:
        """Returns a name that is new."""
        return f"{kind}_{next(self._root._numbers)}"


def info(
    name: str, dtype: Any, shape: Sequence[int | str] | None
) -> onnx.ValueInfoProto:
    """Describes an input or output; lengths that vary have names."""
    return helper.make_tensor_value_info(name, _element_type(dtype), shape)


def _element_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
