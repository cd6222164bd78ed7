"""Requests and settings for TensorFlow Serving."""

import tensorflow as tf
from support import serving_files
from support.tiny_export import answer
from tensorflow_serving.apis import prediction_log_pb2

from genre_tl.serving import runtimes, warmup


def test_the_warm_up_file_holds_requests_that_a_server_understands(exported):
    replayed = set()
    for record in tf.data.TFRecordDataset(str(exported.folder / warmup.REQUESTS)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
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
    path = exported.folder / warmup.BATCHING
    settings = serving_files.read("BatchingParameters", path)
    assert settings.max_batch_size.value == runtimes.CHUNK_SEGMENTS
    assert settings.pad_variable_length_inputs
