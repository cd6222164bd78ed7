"""Requests and settings for TensorFlow Serving."""

import re

import pytest
import tensorflow as tf
from support.tiny_export import answer

from genre_tl.serving import runtimes, warmup


def test_the_warm_up_file_holds_requests_that_a_server_understands(exported):
    name = "tensorflow_serving.apis.prediction_log_pb2"
    logs = pytest.importorskip(name, reason="NOT RUN: needs tensorflow-serving-api")
    replayed = set()
    for record in tf.data.TFRecordDataset(str(exported.folder / warmup.REQUESTS)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.SerializeToString(deterministic=True) == record.numpy()
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        name = request.model_spec.signature_name
        if kind == "classify_log":
            examples = request.input.example_list.examples
            batch = [each.SerializeToString() for each in examples]
        else:
            (tensor,) = request.inputs.values()
            batch = tf.make_ndarray(tensor)
        results = answer(exported, name, *batch).values()
        assert all(len(result) == 1 for result in results)
        replayed.add(name)
    assert replayed == set(exported.model.signatures)


def test_batches_of_a_server_are_those_that_are_computed_at_once(exported):
    text = (exported.folder / warmup.BATCHING).read_text("utf-8")
    fields = dict(re.findall(r"^(\w+)(?: \{ value)?: (\w+)(?: \})?$", text, re.M))
    # Of tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    assert set(fields) == {
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "pad_variable_length_inputs",
    }
    assert int(fields["max_batch_size"]) == runtimes.CHUNK_SEGMENTS
    assert fields["pad_variable_length_inputs"] == "true"
