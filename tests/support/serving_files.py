"""Reads the files of a deployment as TensorFlow Serving and Triton do: strictly.

A field or flag that the server does not know is an error.
"""

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401
)
from tensorflow_serving.config import model_server_config_pb2

# Of tensorflow_serving/model_servers/main.cc, and their types.
FLAGS = {
    "port": int,
    "rest_api_port": int,
    "rest_api_timeout_in_ms": int,
    "model_name": str,
    "model_base_path": str,
    "model_config_file": str,
    "model_config_file_poll_wait_seconds": int,
    "allow_version_labels_for_unavailable_models": bool,
    "enable_batching": bool,
    "batching_parameters_file": str,
    "enable_per_model_batching_parameters": bool,
    "monitoring_config_file": str,
}

# Messages that tensorflow-serving-api does not ship, from its session_bundle_config and
# monitoring_config, and from Triton's model_config: what is used of them.
_INT64, _STRING, _BOOL = ".google.protobuf.Int64Value", "string", "bool"
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "pad_variable_length_inputs": _BOOL,
    },
    "PrometheusConfig": {"enable": _BOOL, "path": _STRING},
    "MonitoringConfig": {"prometheus_config": ".files.PrometheusConfig"},
    "Reshape": {"shape": "int64*"},
    "Tensor": {
        "name": _STRING,
        "data_type": ".files.DataType",
        "dims": "int64*",
        "reshape": ".files.Reshape",
    },
    "DynamicBatching": {"max_queue_delay_microseconds": "uint64"},
    "ModelConfig": {
        "name": _STRING,
        "backend": _STRING,
        "max_batch_size": "int32",
        "input": ".files.Tensor*",
        "output": ".files.Tensor*",
        "dynamic_batching": ".files.DynamicBatching",
    },
}
_DATA_TYPES = ("TYPE_INVALID", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_STRING")


def _classes():
    file = descriptor_pb2.FileDescriptorProto(
        name="files.proto",
        package="files",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    kinds = file.enum_type.add(name="DataType").value
    for number, name in enumerate(_DATA_TYPES):
        kinds.add(name=name, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            made = message.field.add(name=field, number=number)
            made.label = made.LABEL_REPEATED if kind[-1] == "*" else made.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind[0] == ".":
                is_enum = kind.endswith("DataType")
                made.type = made.TYPE_ENUM if is_enum else made.TYPE_MESSAGE
                made.type_name = kind
            else:
                made.type = getattr(made, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    return {
        name: message_factory.GetMessageClass(find(f"files.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _classes()
_CLASSES["ModelServerConfig"] = model_server_config_pb2.ModelServerConfig


def new(kind):
    """Returns an empty message of that name."""
    return _CLASSES[kind]()


def read(kind, path):
    """Parses a text file as the message of that name."""
    return text_format.Parse(path.read_text("utf8"), new(kind))


def flags_of(arguments):
    """Returns the values of the server's flags: `--name=value`, or `--name` for true.

    The last of a name counts.
    """
    values = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in FLAGS:
            raise ValueError(f"unknown argument: {argument}")
        kind = FLAGS[name]
        is_true = kind is bool and value in ("", "true")
        if kind is bool and not is_true and value != "false":
            raise ValueError(f"neither true nor false: {argument}")
        values[name] = is_true if kind is bool else kind(value)
    return values
