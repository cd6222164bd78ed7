"""TensorFlow Serving's mapping between JSON and messages, with its error messages.

After tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import json

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2


class Refused(Exception):
    """A status other than OK: the name of its code, and a message."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


def invalid(text):
    return Refused("INVALID_ARGUMENT", text)


def parsed(body):
    """Returns the object that a request's body holds."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {json.dumps(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        text = "not formatted correctly. 'signature_name' key must be a string value."
        raise invalid(f"JSON Value: {json.dumps(document)} {text}")
    return document


def fill_predict(document, inputs, request):
    """Fills a request; `inputs` are those of its signature. True if it is by rows."""
    rows, columns = document.get("instances"), document.get("inputs")
    if (rows is None) == (columns is None):
        text = "Missing" if rows is None else "Not formatted correctly expecting only"
        raise invalid(f"{text} 'inputs' or 'instances' key")
    if columns is not None:
        if _is_bytes(columns) or not isinstance(columns, dict):
            columns = {next(iter(inputs)): columns}
        tensors = {}
        for name, info in inputs.items():
            if name not in columns:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
            tensors[name] = _array(columns[name], info.dtype)
    else:
        tensors = _of_rows(rows, inputs)
    for name, array in tensors.items():
        proto = tf.make_tensor_proto(array, inputs[name].dtype, array.shape)
        request.inputs[name].CopyFrom(proto)
    return rows is not None


def _of_rows(rows, inputs):
    if not isinstance(rows, list) or not rows:
        what = "No values in 'instances' array"
        what = what if isinstance(rows, list) else "Excepting 'instances' to be an list"
        raise invalid(f"JSON Value: {json.dumps(rows)} {what}")
    columns = {name: [] for name in inputs}
    for number, row in enumerate(rows):
        if _is_bytes(row) or not isinstance(row, dict):
            row = {next(iter(inputs)): row}
        failed = f"Failed to process element: {number} "
        for name, value in row.items():
            try:
                columns[name].append(array := _array(value, inputs[name].dtype))
                first = columns[name][0]
                if array.shape != first.shape:
                    text = f"Expecting tensor size: {first.size} but got: {array.size}"
                    raise invalid(text)
            except (KeyError, Refused) as error:
                reason = f"INVALID_ARGUMENT: {error}"
                if isinstance(error, KeyError):
                    reason = f"JSON object: does not have named input: {name}"
                text = f"key: {name} of 'instances' list. Error: {reason}"
                raise invalid(failed + text) from None
        if set(row) != set(inputs):
            names = ",".join(inputs)
            raise invalid(
                f"{failed}of 'instances' list. keys must be equal to: {names}"
            )
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def _array(value, dtype):
    shape = _shape(value)
    values = [_scalar(each, dtype) for each in _leaves(value, shape, 0)]
    return np.array(values, tf.as_dtype(dtype).as_numpy_dtype).reshape(shape)


def _shape(value):
    if not isinstance(value, list):
        return []
    return [len(value), *(_shape(value[0]) if value else [])]


def _leaves(value, shape, level):
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {json.dumps(value)} found at incorrect level: "
                f"{level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        yield value
        return
    if level >= len(shape):
        text = f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        raise invalid(text)
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for each in value:
        yield from _leaves(each, shape, level + 1)


def _scalar(value, dtype):
    if dtype == tf.string.as_datatype_enum:
        if _is_bytes(value):
            return _decoded(value)
        if isinstance(value, str):
            return value.encode()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise invalid(
        f"JSON Value: {json.dumps(value)} Type: {type(value).__name__} is not of "
        f"expected type: {tf.as_dtype(dtype).name}"
    )


def _is_bytes(value):
    return isinstance(value, dict) and list(value) == ["b64"]


def _decoded(value):
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error:
        raise invalid("Unable to base64 decode") from None


def fill_classify(document, request):
    """Fills a request with the `tf.train.Example`s of a document."""
    if not isinstance(document.get("examples"), list) or not document["examples"]:
        text = "When method is classify, key 'examples' is expected and was not found"
        raise invalid(text)
    for given in document["examples"]:
        features = request.input.example_list.examples.add().features.feature
        for name, value in given.items():
            values = value if isinstance(value, list) else [value]
            feature = features[name]
            for each in values:
                if _is_bytes(each):
                    feature.bytes_list.value.append(_decoded(each))
                elif isinstance(each, str):
                    feature.bytes_list.value.append(each.encode())
                elif isinstance(each, float):
                    feature.float_list.value.append(each)
                elif isinstance(each, int):
                    feature.int64_list.value.append(each)
                else:
                    text = "has element with unexpected JSON type"
                    raise invalid(f"Feature: {name} {text}")


def of_predict(response, by_rows):
    """Returns the answer to `:predict`."""
    outputs = {}
    for name, proto in sorted(response.outputs.items()):
        array = tf.make_ndarray(proto)
        if array.dtype == object:
            outputs[name] = np.vectorize(bytes.decode, otypes=[object])(array).tolist()
        else:  # the shortest number that is this float32
            outputs[name] = array.astype(str).astype(float).tolist()
    if len(outputs) == 1:
        (value,) = outputs.values()
        return {"predictions" if by_rows else "outputs": value}
    if not by_rows:
        return {"outputs": outputs}
    rows = zip(*outputs.values(), strict=True)
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}


def of_classify(response):
    """Returns the answer to `:classify`."""
    rows = response.result.classifications
    return {"results": [[[x.label, x.score] for x in row.classes] for row in rows]}


def of_metadata(response):
    """Returns the answer about metadata."""
    definitions = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(definitions)
    return {
        "model_spec": of_message(response.model_spec),
        "metadata": {"signature_def": of_message(definitions)},
    }


def of_message(message):
    """Returns a message as JSON, with all fields and their names as they are."""
    return json_format.MessageToDict(message, True, True)
