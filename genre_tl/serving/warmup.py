"""Requests and settings that ship with a SavedModel, for TensorFlow Serving.

A server that loads a version first answers the requests in
`assets.extra/tf_serving_warmup_requests`, so that its first client need not wait.
"""

from __future__ import annotations

import io
import pathlib

import numpy as np
import tensorflow as tf
from scipy.io import wavfile

from genre_tl import params

REQUESTS = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
"""Place of the requests in an export."""

BATCHING = "batching_params.pbtxt"
"""Settings for a server with `--enable_per_model_batching_parameters`."""

_WAV_RATE_HZ = 44_100  # warms up the resampling too

_BATCHING_TEXT = """\
# The graph computes 16 segments at a time. A request waits at most 5 ms for others.
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
pad_variable_length_inputs: true
"""


def requests() -> dict[str, tuple[str, np.ndarray]]:
    """Returns for every signature the name of its input and a batch of one."""
    waveform = _tone(params.SAMPLE_RATE_HZ)[np.newaxis]
    wav = wav_bytes(_tone(_WAV_RATE_HZ), _WAV_RATE_HZ)
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[wav]))
    features = tf.train.Features(feature={"audio": feature})
    example = tf.train.Example(features=features).SerializeToString()
    return {
        "serving_default": ("waveform", waveform),
        "audio_bytes": ("audio_bytes", np.array([wav], object)),
        "taggram": ("waveform", waveform),
        "embedding": ("waveform", waveform),
        "classify": ("inputs", np.array([example], object)),
    }


def write(folder: pathlib.Path) -> None:
    """Writes requests and settings into an unpublished export."""
    (folder / REQUESTS.parent).mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / REQUESTS)) as writer:
        for name, (argument, value) in requests().items():
            writer.write(_prediction_log(name, argument, value))
    (folder / BATCHING).write_text(_BATCHING_TEXT, "utf-8")


def _tone(rate_hz: int) -> np.ndarray:
    # All segments have one length, so a second warms up any.
    time = np.arange(rate_hz) / rate_hz
    return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def wav_bytes(samples: np.ndarray, rate_hz: int = params.SAMPLE_RATE_HZ) -> bytes:
    """Returns a WAV file of float32 samples `[samples]`, one channel."""
    file = io.BytesIO()
    wavfile.write(file, rate_hz, samples.astype(np.float32))
    return file.getvalue()


def _prediction_log(signature: str, argument: str, value: np.ndarray) -> bytes:
    """Returns a `PredictionLog` of TensorFlow Serving, without depending on it."""
    model_spec = _field(3, signature.encode())
    if signature == "classify":  # ClassificationRequest: Input of an ExampleList
        examples = _field(1, _field(1, value[0]))
        request, kind = _field(1, model_spec) + _field(2, examples), 2
    else:  # PredictRequest: a map's entry is a message of key and value
        tensor = tf.make_tensor_proto(value).SerializeToString()
        entry = _field(1, argument.encode()) + _field(2, tensor)
        request, kind = _field(1, model_spec) + _field(2, entry), 6
    return _field(kind, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])
