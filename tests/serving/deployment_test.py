"""Exports behind a server with the files of docs/serving/, and these files themselves.

The server is a stand-in for TensorFlow Serving (`support.tf_serving`).
"""

import concurrent.futures
import shutil

import grpc
import numpy as np
import onnxruntime
import pytest
import requests
import tensorflow as tf
import yaml
from support import containers, serving_files, tf_serving
from support.serving_json import Refused
from support.tiny_export import CLIPS, music
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from genre_tl.audio import wav_graph
from genre_tl.serving import warmup

DTYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)"}


@pytest.fixture(scope="module")
def server(deployment):
    """The server of the compose file."""
    with containers.start_compose(deployment / "docs/serving/compose.yaml") as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"localhost:{server.grpc_port}", options) as channel:
        yield channel


@pytest.fixture(scope="module")
def service(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(signature="serving_default", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "genres"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def scores(service, batch):
    request = predict_request(waveform=np.asarray(batch, np.float32))
    return tf.make_ndarray(service.Predict(request, timeout=60).outputs["scores"])


def error_of(service, request):
    with pytest.raises(grpc.RpcError) as caught:
        service.Predict(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def post(server, body, what="predict", place=""):
    url = f"http://localhost:{server.rest_port}/v1/models/genres{place}:{what}"
    answer = requests.post(url, json=body, timeout=60)
    return answer.status_code, answer.json()


WRONG = [
    ("serving_default", "waveform", [0.1, 0.2], "[2]", "[batch, samples]"),
    ("embedding", "waveform", [0.1, 0.2], "[2]", "[batch, samples]"),
    ("taggram", "waveform", [], "[0]", "[batch, samples]"),
    ("serving_default", "waveform", [[[0.1, 0.2]]], "[1, 1, 2]", "[batch, samples]"),
    ("audio_bytes", "audio_bytes", [["RIFF"]], "[1, 1]", "[batch]"),
    ("classify", "inputs", [["x"], ["y"]], "[2, 1]", "[batch]"),
]


@pytest.mark.parametrize("signature, name, value, given, expected", WRONG)
def test_a_wrong_shape_is_named_beside_the_expected_one(
    server, service, signature, name, value, given, expected
):
    dtype = np.float32 if name == "waveform" else object
    request = predict_request(signature, **{name: np.array(value, dtype)})
    text = f"{name}: shape {given}, expected {expected}"
    code, details = error_of(service, request)
    assert code == "INVALID_ARGUMENT" and text in details
    code, answer = post(server, {"inputs": value, "signature_name": signature})
    assert code == 400 and text in answer["error"]


def test_one_value_is_no_batch(deployment, server, service):
    text = "Batching Run() input tensors must have at least one dimension"
    request = predict_request(waveform=np.float32(1))
    assert error_of(service, request) == ("INVALID_ARGUMENT", text)
    flags = ["--model_name=genres", "--model_base_path=/models/genres"]
    mounts = {"/models": deployment / "saved_models"}
    with tf_serving.Server(flags, mounts) as plain:
        _, answer = post(plain, {"inputs": 1.0})
        assert "waveform: shape [], expected [batch, samples]" in answer["error"]
        wav = {"inputs": "RIFF", "signature_name": "audio_bytes"}
        assert "audio_bytes: shape [], expected [batch]" in post(plain, wav)[1]["error"]


@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_another_type_is_named_beside_the_expected_one(server, service, dtype):
    request = predict_request(waveform=np.ones([1, 100], dtype))
    code, details = error_of(service, request)
    assert code == "INVALID_ARGUMENT" and "expect float" in details
    assert "serving_default_waveform" in details
    code, answer = post(server, {"instances": [["a"]]})
    assert code == 400 and "is not of expected type: float" in answer["error"]


def test_no_clips_have_no_scores_and_clips_without_samples_those_of_silence(
    server, service
):
    silent = scores(service, np.zeros([1, 500]))
    np.testing.assert_allclose(scores(service, np.zeros([1, 0])), silent, atol=1e-6)
    assert scores(service, np.zeros([0, 500])).shape == (0, silent.shape[1])
    code, answer = post(server, {"inputs": [[]]})
    found = answer["outputs"]["scores"]
    np.testing.assert_allclose(found, silent, atol=1e-6)
    assert answer["outputs"]["familiarity"] == [0]
    code, answer = post(server, {"instances": []})
    assert code == 400 and "No values in 'instances'" in answer["error"]


def test_rest_and_grpc_have_the_scores_of_the_graph_in_rows_and_columns(
    server, service, genres
):
    clip = CLIPS[0][:3000]
    expected = scores(service, clip[np.newaxis])[0]
    assert np.ptp(expected) > 0.01
    rows = {"instances": [{"waveform": clip.tolist()}, {"waveform": clip.tolist()}]}
    code, answer = post(server, rows)
    for row in answer["predictions"]:
        np.testing.assert_allclose(row["scores"], expected, atol=1e-6)
        assert row["classes"] == genres.labels and 0 < row["familiarity"] < 1
    code, answer = post(server, {"inputs": {"waveform": [clip.tolist()]}})
    np.testing.assert_allclose(answer["outputs"]["scores"], [expected], atol=1e-6)
    code, answer = post(server, {"instances": [[0.1, 0.2], [0.1]]})
    assert code == 400 and "Expecting tensor size: 2 but got: 1" in answer["error"]


def test_joined_requests_have_the_scores_that_they_have_alone(server, service):
    clips = [CLIPS[1], CLIPS[0], music(5000, 7), CLIPS[3]]
    alone = [scores(service, clip[np.newaxis]) for clip in clips]
    queue = _slow_queue(server)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        batches = [np.stack([clip] * 4) for clip in clips]  # sixteen in all
        answers = [pool.submit(queue.run, {"waveform": batch}) for batch in batches]
        found = [answer.result()["scores"] for answer in answers]
    assert queue.sizes == [len(clips)]
    for scores_of_four, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(scores_of_four, np.repeat(expected, 4, 0), atol=1e-6)


def test_a_request_that_is_refused_fails_those_it_is_joined_with(server):
    queue = _slow_queue(server)
    long = np.ones([1, wav_graph.MAX_BATCH_SAMPLES // 16 + 1], np.float32)
    short = np.ones([15, 1], np.float32)
    for batch in ([short, long], [short[:, 0], short[:1, 0]]):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            answers = [pool.submit(queue.run, {"waveform": each}) for each in batch]
            for answer in answers:
                with pytest.raises(tf.errors.InvalidArgumentError, match="waveform: "):
                    answer.result()
    assert queue.sizes == [2, 2]


def _slow_queue(server):
    """Returns a queue of the server's that waits until a batch is full."""
    servable = server.models["genres"][2]
    settings = servable._batching
    slow = type(settings)()
    slow.CopyFrom(settings)
    slow.batch_timeout_micros.value = 10**9
    outputs = tuple(sorted(servable.signatures["serving_default"].outputs))
    compute = servable.session.computation("serving_default", outputs)
    queue = tf_serving.Queue(compute, slow)
    queue.sizes, process = [], queue._process

    def counted(batch):
        queue.sizes.append(len(batch))
        process(batch)

    queue._process = counted
    return queue


def test_with_batching_a_request_holds_as_many_clips_as_a_batch(server, service):
    request = predict_request(waveform=np.ones([17, 10], np.float32))
    text = "Task size 17 is larger than maximum input batch size 16"
    assert error_of(service, request) == ("INVALID_ARGUMENT", text)


def test_both_versions_are_ready_warmed_up_and_described(server, channel, service):
    warm_ups = [each.warm_ups for each in server.models["genres"].values()]
    assert warm_ups == [len(warmup.requests())] * 2
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "genres"
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    found = stub.GetModelStatus(request, timeout=60).model_version_status
    assert [x.version for x in found] == [2, 1]
    url = f"http://localhost:{server.rest_port}/v1/models/genres"
    states = requests.get(url, timeout=60).json()["model_version_status"]
    assert [(x["version"], x["state"]) for x in states] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "genres"
    request.metadata_field.append("signature_def")
    definitions = get_model_metadata_pb2.SignatureDefMap()
    answer = service.GetModelMetadata(request, timeout=60)
    answer.metadata["signature_def"].Unpack(definitions)
    rest = requests.get(f"{url}/metadata", timeout=60).json()
    described = rest["metadata"]["signature_def"]["signature_def"]
    for name, (argument, value) in warmup.requests().items():
        (info,) = definitions.signature_def[name].inputs.values()
        assert [dim.size for dim in info.tensor_shape.dim] == [-1] * value.ndim
        dims = described[name]["inputs"][argument]["tensor_shape"]["dim"]
        assert [dim["size"] for dim in dims] == ["-1"] * value.ndim


def test_requests_reach_a_version_by_number_and_by_label(server, service):
    body = {"instances": [[0.1, 0.2]]}
    for place in ("", "/versions/1", "/labels/stable", "/labels/canary"):
        assert post(server, body, place=place)[0] == 200
    assert post(server, body, place="/versions/3")[0] == 404
    code, answer = post(server, body, place="/labels/old")
    assert code == 400 and "Unrecognized servable version label" in answer["error"]
    request = predict_request(waveform=[[0.1, 0.2]])
    request.model_spec.version_label = "stable"
    assert service.Predict(request, timeout=60).model_spec.version.value == 1
    del request.inputs["waveform"]
    request.inputs["samples"].CopyFrom(tf.make_tensor_proto([[0.1]]))
    assert "does not match signature" in error_of(service, request)[1]
    request = predict_request(waveform=[[0.1, 0.2]])
    request.model_spec.name = "other"
    assert error_of(service, request)[0] == "NOT_FOUND"
    unknown = predict_request("scores", waveform=[[0.1]])
    assert error_of(service, unknown)[0] == "FAILED_PRECONDITION"
    code, answer = post(server, {**body, "signature_name": "scores"})
    assert code == 400 and "not found in signature def" in answer["error"]
    for what in ("classify", "regress"):
        assert post(server, {"examples": [{"waveform": [0.5]}]}, what)[0] == 400


def test_labels_move_to_loaded_versions_alone(deployment, tmp_path):
    place = tmp_path / "docs/serving"
    shutil.copytree(deployment / "docs/serving", place)
    (tmp_path / "saved_models").symlink_to(deployment / "saved_models")
    config = place / "models.config"
    text = config.read_text()
    with containers.start_compose(place / "compose.yaml") as server:
        assert server._labels["genres"] == {"stable": 1, "canary": 2}
        config.write_text(text.replace("value: 1", "value: 2"))
        server.read_config()
        assert server._labels["genres"] == {"stable": 2, "canary": 2}
        config.write_text(text.replace("value: 1", "value: 3"))
        with pytest.raises(Refused, match="not currently available"):
            server.read_config()
    config.write_text(text)
    compose = (place / "compose.yaml").read_text()
    flag = "--allow_version_labels_for_unavailable_models"
    (place / "compose.yaml").write_text(
        compose.replace(f"{flag}=true", f"{flag}=false")
    )
    with pytest.raises(Refused, match="not currently available"):
        containers.start_compose(place / "compose.yaml")


def test_prometheus_collects_what_the_server_counts(deployment, server, service):
    services = yaml.safe_load((deployment / "docs/serving/compose.yaml").read_text())
    path = deployment / "docs/serving/prometheus.yml"
    assert "./prometheus.yml:" in services["services"]["prometheus"]["volumes"][0]
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    assert job["static_configs"] == [
        {"targets": [f"serving:{server.flags['rest_api_port']}"]}
    ]
    assert "serving" in services["services"]
    scores(service, [[0.1, 0.2]])
    error_of(service, predict_request(waveform=[0.1]))
    url = f"http://localhost:{server.rest_port}{job['metrics_path']}"
    lines = requests.get(url, timeout=60).text.splitlines()
    counted = [
        line for line in lines if line.startswith(":tensorflow:serving:request_")
    ]
    assert any('status="OK"' in line for line in counted)
    assert any('status="INVALID_ARGUMENT"' in line for line in counted)


def test_kserve_gets_models_and_flags_that_exist(deployment):
    text = (deployment / "docs/serving/kserve.yaml").read_text()
    saved_model, onnx = yaml.safe_load_all(text)
    for each in (saved_model, onnx):
        assert each["apiVersion"] == "serving.kserve.io/v1beta1"
        assert each["kind"] == "InferenceService"
        name = each["metadata"]["name"]
        assert (deployment / "saved_models" / name / "1").is_dir()
    model = saved_model["spec"]["predictor"]["model"]
    flags = serving_files.flags_of(model["args"])
    assert flags["enable_per_model_batching_parameters"]
    assert model["storageUri"].endswith(f"/{saved_model['metadata']['name']}")
    compose = yaml.safe_load((deployment / "docs/serving/compose.yaml").read_text())
    image = compose["services"]["serving"]["image"]
    assert image == f"tensorflow/serving:{model['runtimeVersion']}"
    assert onnx["spec"]["predictor"]["model"]["protocolVersion"] == "v2"


def test_tritons_file_is_about_the_inputs_and_outputs_of_the_onnx_file(deployment):
    path = deployment / "docs/serving/config.pbtxt"
    config = serving_files.read("ModelConfig", path)
    base = deployment / "saved_models" / config.name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(base / "1/model.onnx", options)
    inputs = {x.name: x for x in session.get_inputs()}
    outputs = {x.name: x for x in session.get_outputs()}
    assert [x.name for x in config.input] == list(inputs)
    assert {x.name for x in config.output} <= set(outputs)
    for each in [*config.input, *config.output]:
        actual = (inputs | outputs)[each.name]
        kind = each.DESCRIPTOR.fields_by_name["data_type"].enum_type
        name = kind.values_by_number[each.data_type].name
        assert DTYPES[name] == actual.type
        shape = each.reshape.shape if each.HasField("reshape") else each.dims
        stated = ["batch", *shape]
        sizes = [x if isinstance(x, int) else -1 for x in actual.shape[1:]]
        assert stated == [actual.shape[0], *sizes]
    assert config.max_batch_size == warmup_batch(deployment)


def warmup_batch(deployment):
    path = deployment / "saved_models/genres/1" / warmup.BATCHING
    return serving_files.read("BatchingParameters", path).max_batch_size.value
