"""A stand-in for TensorFlow Serving: its REST and gRPC, over real exports and files.

    with tf_serving.Server(["--model_base_path=/models/x", ...], mounts) as server:
        requests.get(f"http://localhost:{server.rest_port}/v1/models/x")

It follows the server's documents and sources, takes its flags and configuration files,
and runs an export as the server does, in a session that gets what was sent, whatever
its shape. It serves what it finds at start: `read_config` is what the server does from
time to time. Regression is refused, since no export has it.
"""

import collections
import concurrent.futures
import functools
import http.server
import json
import pathlib
import re
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from support import serving_files, serving_json
from support.serving_json import Refused, invalid

DEFAULT_SIGNATURE = "serving_default"
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Session:
    """A SavedModel in a TensorFlow session, which gets what it is fed, of any shape."""

    def __init__(self, folder):
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            meta = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self.signatures = meta.signature_def
        self._computations, self._lock = {}, threading.Lock()

    def computation(self, name, outputs):
        """Returns a function of a signature: input arrays -> these of its outputs."""
        with self._lock:
            if (name, outputs) not in self._computations:
                made = self._computation(self.signatures[name], outputs)
                self._computations[name, outputs] = made
            return self._computations[name, outputs]

    def _computation(self, signature, outputs):
        options = config_pb2.CallableOptions(
            feed=[info.name for info in signature.inputs.values()],
            fetch=[signature.outputs[key].name for key in outputs],
        )
        # `Session.run` would compare shapes first, which the server does not do.
        run = self._session._make_callable_from_options(options)

        def compute(arrays):
            found = run(*(arrays[key] for key in signature.inputs))
            return dict(zip(outputs, found, strict=True))

        return compute


_session = functools.cache(Session)  # servers of the tests share what they load


class Servable:
    """One version of a model, loaded and warmed up."""

    def __init__(self, folder, batching):
        self.version, self._batching = int(folder.name), batching
        self.session = _session(folder.resolve())
        self.signatures = self.session.signatures
        self._queues, self._lock = {}, threading.Lock()
        path = folder / "assets.extra/tf_serving_warmup_requests"
        self.warm_ups = self._warm_up(path)

    def _warm_up(self, path):
        count = 0
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") == "classify_log":
                self.classify(log.classify_log.request)
            else:
                self.predict(log.predict_log.request)
            count += 1
        return count

    def predict(self, request):
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            text = f'Serving signature key "{name}" not found.'
            raise Refused("FAILED_PRECONDITION", text)
        inputs = self.signatures[name].inputs
        if set(request.inputs) != set(inputs):
            given, wanted = ",".join(request.inputs), ",".join(inputs)
            raise invalid(
                f"input size does not match signature: {len(request.inputs)}!="
                f"{len(inputs)} len({{{given}}}) != len({{{wanted}}})."
            )
        arrays = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for key, value in self._run(name, arrays, request.output_filter).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        self._complete(response.model_spec, request, name)
        return response

    def classify(self, request):
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise invalid(f"No signature was found with the name: {name}")
        method = self.signatures[name].method_name
        if method != tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME:
            text = "Expected classification signature method_name to be "
            raise invalid(f"{text}tensorflow/serving/classify. Was: {method}")
        examples = request.input.example_list.examples
        if not examples:
            raise invalid("Input is empty")
        batch = np.array([each.SerializeToString() for each in examples], object)
        found = self._run(name, {"inputs": batch}, [])
        response = classification_pb2.ClassificationResponse()
        for labels, scores in zip(found["classes"], found["scores"], strict=True):
            row = response.result.classifications.add()
            for label, score in zip(labels, scores, strict=True):
                row.classes.add(label=label.decode(), score=score)
        self._complete(response.model_spec, request, name)
        return response

    def _complete(self, spec, request, signature):
        spec.name, spec.signature_name = request.model_spec.name, signature
        spec.version.CopyFrom(wrappers_pb2.Int64Value(value=self.version))

    def _run(self, name, arrays, chosen):
        outputs = self.signatures[name].outputs
        if wrong := set(chosen) - set(outputs):
            raise invalid(f"output tensor alias not found in signature: {min(wrong)}")
        key = name, tuple(sorted(chosen or outputs))
        with self._lock:
            if key not in self._queues:
                compute = self.session.computation(*key)
                self._queues[key] = Queue(compute, self._batching)
        try:
            return self._queues[key].run(arrays)
        except tf.errors.OpError as error:
            raise Refused(_CODES[error.error_code], error.message) from None


class Queue:
    """Joins the requests that arrive within a time, as the server's batching does."""

    def __init__(self, compute, settings):
        self._compute, self._settings = compute, settings
        self._changed, self._open = threading.Condition(), []

    def run(self, arrays):
        if self._settings is None:
            return self._compute(arrays)
        if not all(array.ndim for array in arrays.values()):
            raise invalid(
                "Batching Run() input tensors must have at least one dimension"
            )
        size = _rows(arrays)
        most = self._settings.max_batch_size.value
        if size > most:
            text = f"Task size {size} is larger than maximum input batch size {most}"
            raise invalid(text)
        task = arrays, concurrent.futures.Future()
        with self._changed:
            if sum(_rows(x) for x, _ in self._open) + size > most:
                self._close()
            batch = self._open
            batch.append(task)
            if sum(_rows(x) for x, _ in batch) == most:
                self._close()
            elif len(batch) == 1:  # this request waits for others, and computes them
                secs = self._settings.batch_timeout_micros.value / 1e6
                self._changed.wait_for(lambda: self._open is not batch, secs)
                if self._open is batch:
                    self._close()
        if batch[0] is task:
            self._process(batch)
        return task[1].result()

    def _close(self):
        self._open = []
        self._changed.notify_all()

    def _process(self, batch):
        sizes = [_rows(arrays) for arrays, _ in batch]
        try:
            found = self._compute(self._joined([arrays for arrays, _ in batch]))
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        ends = np.cumsum(sizes)
        for (_, future), end, size in zip(batch, ends, sizes, strict=True):
            future.set_result({k: v[end - size : end] for k, v in found.items()})

    def _joined(self, tasks):
        joined = {}
        for name in tasks[0]:
            arrays = [arrays[name] for arrays in tasks]
            if len({array.ndim for array in arrays}) > 1:
                raise Refused(
                    "INTERNAL", "Tensor concat operation failed: ranks differ"
                )
            if self._settings.pad_variable_length_inputs:
                widest = np.max([array.shape[1:] for array in arrays], axis=0)
                arrays = [_padded(array, widest) for array in arrays]
            elif len({array.shape[1:] for array in arrays}) > 1:
                text = "have different shapes and padding is turned off."
                raise Refused("FAILED_PRECONDITION", f"Tensors with name {name} {text}")
            joined[name] = np.concatenate(arrays)
        return joined


def _rows(arrays):
    return len(next(iter(arrays.values())))


def _padded(array, widest):
    missing = [
        (0, 0),
        *((0, w - n) for w, n in zip(widest, array.shape[1:], strict=True)),
    ]
    if not np.any(missing):
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    return np.pad(array, missing, constant_values=array.flat[0])


class Server:
    """Serves on ports of its own: `rest_port` and `grpc_port`.

    Args:
      arguments: those of `tensorflow_model_server`.
      mounts: folder or file in the container -> the one it is.
    """

    def __init__(self, arguments, mounts):
        self.flags, self._mounts = serving_files.flags_of(arguments), mounts
        self.models, self._labels = {}, {}
        self.counts, self._lock = collections.Counter(), threading.Lock()
        self.read_config()
        self.metrics_path = None
        if "monitoring_config_file" in self.flags:
            config = self._read("MonitoringConfig", "monitoring_config_file")
            if config.prometheus_config.enable:
                self.metrics_path = config.prometheus_config.path
        self._grpc = grpc.server(
            concurrent.futures.ThreadPoolExecutor(20),
            options=[("grpc.max_receive_message_length", -1)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Prediction(self), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelStatus(self), self._grpc
        )
        self.grpc_port = self._grpc.add_insecure_port("localhost:0")
        self._http = http.server.ThreadingHTTPServer(("localhost", 0), Rest)
        self._http.core = self
        self.rest_port = self._http.server_address[1]
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait()

    def _host(self, path):
        """Returns where a path of the container is."""
        path = pathlib.PurePosixPath(path)
        for mount in sorted(self._mounts, key=len, reverse=True):
            if path.is_relative_to(mount):
                rest = path.relative_to(mount)
                place = pathlib.Path(self._mounts[mount])
                return place / rest if rest.parts else place
        raise FileNotFoundError(f"{path} is in no volume")

    def _read(self, kind, flag):
        return serving_files.read(kind, self._host(self.flags[flag]))

    def read_config(self):
        """Loads what the configuration names, and what is new; moves the labels."""
        if "model_config_file" in self.flags:
            config = self._read("ModelServerConfig", "model_config_file")
        else:
            config = serving_files.new("ModelServerConfig")
            single = config.model_config_list.config.add()
            single.name = self.flags["model_name"]
            single.base_path = self.flags["model_base_path"]
            single.model_platform = "tensorflow"
        for each in config.model_config_list.config:
            if each.model_platform != "tensorflow":
                raise invalid(f"unknown platform: {each.model_platform}")
            self._check_labels(each)
            base, loaded = self._host(each.base_path), self.models.get(each.name, {})
            self.models[each.name] = {
                number: loaded.get(number)
                or Servable(base / str(number), self._batching(base / str(number)))
                for number in _wanted(base, each.model_version_policy)
            }
            self._labels[each.name] = dict(each.version_labels)

    def _check_labels(self, config):
        known = self._labels.get(config.name, {})
        allowed = self.flags.get("allow_version_labels_for_unavailable_models")
        for label, version in config.version_labels.items():
            is_moved = known.get(label, version) != version
            is_loaded = version in self.models.get(config.name, {})
            if not is_loaded and (is_moved or not allowed):
                raise Refused(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {version} of model "
                    f"{config.name}, which is not currently available for inference",
                )

    def _batching(self, folder):
        if not self.flags.get("enable_batching"):
            return None
        if self.flags.get("enable_per_model_batching_parameters"):
            path = folder / "batching_params.pbtxt"
            return serving_files.read("BatchingParameters", path)
        return self._read("BatchingParameters", "batching_parameters_file")

    def servable(self, spec):
        """Returns the version that a request is for."""
        loaded = self.models.get(spec.name, {})
        version = max(loaded, default=None)
        wanted = f"Latest({spec.name})"
        if spec.HasField("version"):
            version = spec.version.value
            wanted = f"Specific({spec.name}, {version})"
        elif spec.version_label:
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                label = spec.version_label
                raise invalid(f"Unrecognized servable version label: {label}")
        if version not in loaded:
            raise Refused("NOT_FOUND", f"Servable not found for request: {wanted}")
        return loaded[version]

    def answer(self, method, request):
        """Answers and counts a request: `method` is that of a `Servable`."""
        status = "OK"
        try:
            return getattr(self.servable(request.model_spec), method)(request)
        except Refused as error:
            status = error.code
            raise
        finally:
            with self._lock:
                self.counts[request.model_spec.name, status] += 1

    def status(self, spec):
        loaded = self.models.get(spec.name, {})
        if spec.HasField("version") or spec.version_label:
            loaded = {servable.version: servable for servable in [self.servable(spec)]}
        if not loaded:
            text = f"Could not find any versions of model {spec.name}"
            raise Refused("NOT_FOUND", text)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(loaded, reverse=True):
            found = response.model_version_status.add(version=version)
            found.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            found.status.SetInParent()
        return response

    def metadata(self, spec):
        servable = self.servable(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = servable.version
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signatures.items():
            definitions.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(definitions)
        return response

    def metrics(self):
        name = ":tensorflow:serving:request_count"
        lines = [f"# TYPE {name} counter"]
        with self._lock:
            for (model, status), count in sorted(self.counts.items()):
                labels = f'model_name="{model}",status="{status}"'
                lines.append(f"{name}{{{labels}}} {count}")
        return "\n".join(lines) + "\n"


def _wanted(base, policy):
    numbers = sorted(int(x.name) for x in base.iterdir() if x.name.isdecimal())
    if policy.HasField("specific"):
        return [number for number in policy.specific.versions if number in numbers]
    if policy.HasField("all"):
        return numbers
    return numbers[-(policy.latest.num_versions or 1) :]


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, core):
        self._core = core

    def Predict(self, request, context):
        return _call(context, self._core.answer, "predict", request)

    def Classify(self, request, context):
        return _call(context, self._core.answer, "classify", request)

    def GetModelMetadata(self, request, context):
        if list(request.metadata_field) != ["signature_def"]:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "Metadata field unsupported"
            )
        return _call(context, self._core.metadata, request.model_spec)


class ModelStatus(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core):
        self._core = core

    def GetModelStatus(self, request, context):
        return _call(context, self._core.status, request.model_spec)


def _call(context, function, *arguments):
    try:
        return function(*arguments)
    except Refused as error:
        context.abort(grpc.StatusCode[error.code], error.text)


_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"


class Rest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        core = self.server.core
        if core.metrics_path and self.path == core.metrics_path:
            return self._send(200, core.metrics().encode(), "text/plain")
        self._answer(_MODEL + "(/metadata)?", self._about)

    def do_POST(self):
        self._answer(_MODEL + ":(classify|regress|predict)", self._compute)

    def _answer(self, pattern, function):
        size = int(self.headers.get("Content-Length", 0))
        body, code = self.rfile.read(size), 200
        try:
            found = re.fullmatch(pattern, self.path)
            if not found:
                raise invalid(f"Malformed request: {self.command} {self.path}")
            name, version, label, what = found.groups()
            request = predict_pb2.PredictRequest()
            spec = request.model_spec
            spec.name = name
            if version:
                spec.version.value = int(version)
            elif label:
                spec.version_label = label
            answer = function(what, spec, body)
        except Refused as error:
            code, answer = _HTTP[error.code], {"error": error.text}
        self._send(code, json.dumps(answer).encode(), "application/json")

    def _about(self, what, spec, body):
        if what:
            return serving_json.of_metadata(self.server.core.metadata(spec))
        return serving_json.of_message(self.server.core.status(spec))

    def _compute(self, what, spec, body):
        core, document = self.server.core, serving_json.parsed(body)
        spec.signature_name = document.get("signature_name", "")
        if what == "regress":
            name = spec.signature_name or DEFAULT_SIGNATURE
            raise invalid(f"Expected regression signature, was: {name}")
        if what == "classify":
            request = classification_pb2.ClassificationRequest(model_spec=spec)
            serving_json.fill_classify(document, request)
            return serving_json.of_classify(core.answer("classify", request))
        request = predict_pb2.PredictRequest(model_spec=spec)
        definitions = core.servable(spec).signatures
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name not in definitions:
            text = f'Serving signature name: "{name}" not found in signature def'
            raise invalid(text)
        by_rows = serving_json.fill_predict(document, definitions[name].inputs, request)
        return serving_json.of_predict(core.answer("predict", request), by_rows)

    def _send(self, code, content, kind):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass
