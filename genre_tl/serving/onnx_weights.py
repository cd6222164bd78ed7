"""Lets an ONNX file take its weights from the SavedModel beside it.

Weights are nearly all of both files. A SavedModel stores them uncompressed, and ONNX
may refer to a part of another file ("external data").
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper

FILE = "variables/variables.data-00000-of-00001"
"""The weights of a SavedModel, in its folder."""

_MIN_BYTES = 4096  # of a value that is worth a reference


def share(model: onnx.ModelProto, folder: pathlib.Path) -> None:
    """Replaces the weights of a model by references to the SavedModel in `folder`.

    A value that the SavedModel does not store stays in the model.
    """
    stored = (folder / FILE).read_bytes()
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        if len(tensor.raw_data) < _MIN_BYTES:
            continue
        if _refer(tensor, stored):
            continue
        if len(tensor.dims) == 3 and tensor.dims[0] == 1:
            # Of a recurrent layer: ONNX wants the transpose, of each direction.
            kernel = np.ascontiguousarray(numpy_helper.to_array(tensor)[0].T)
            kernel = numpy_helper.from_array(kernel, f"{tensor.name}_kernel")
            if _refer(kernel, stored):
                nodes += _transposed(kernel.name, tensor.name)
                graph.initializer.remove(tensor)
                graph.initializer.append(kernel)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def _refer(tensor: onnx.TensorProto, stored: bytes) -> bool:
    """Replaces a value by a reference; returns whether it is stored."""
    offset = stored.find(tensor.raw_data)
    if offset < 0:
        return False
    size = len(tensor.raw_data)
    external_data_helper.set_external_data(tensor, FILE, offset, size)
    tensor.ClearField("raw_data")
    return True


def _transposed(kernel: str, name: str) -> list[onnx.NodeProto]:
    """Returns what computes the value `name`, `[1, columns, rows]`, of a kernel."""
    axes = numpy_helper.from_array(np.array([0]), "")
    middle, axis = f"{name}_transposed", f"{name}_axis"
    return [
        helper.make_node("Constant", [], [axis], value=axes),
        helper.make_node("Transpose", [kernel], [middle], perm=[1, 0]),
        helper.make_node("Unsqueeze", [middle, axis], [name]),
    ]
