"""A model whose scores are known, and files for it."""

import pathlib
import wave

import numpy as np
import tensorflow as tf

from genre_tl.serving import model_card

LABELS = ["quiet", "loud, very", "long"]


def write_wav(
    path: str | pathlib.Path, amplitude: float, num_samples: int = 8000
) -> None:
    signs = 1 - 2 * (np.arange(num_samples) // 20 % 2)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, num_samples, "NONE", ""))
        file.writeframes((signs * round(32768 * amplitude)).astype("<i2").tobytes())


def export(folder: pathlib.Path) -> pathlib.Path:
    """Exports a model that gives the largest magnitude and seconds / 10."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], name="waveform")])
    def serve(waveform):
        loudness = tf.reduce_max(tf.abs(waveform), 1)
        sounding = tf.cast(tf.not_equal(waveform, 0), tf.float32)
        secs = tf.reduce_sum(sounding, 1) / 16_000
        scores = tf.stack([1 - loudness, loudness, secs / 10], 1)
        classes = tf.tile(tf.constant([LABELS]), [tf.shape(scores)[0], 1])
        return {"scores": scores, "classes": classes}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None], "int32"),
            tf.TensorSpec([None]),
        ]
    )
    def score_and_embed(waveform, starts, padding):
        scores = serve(waveform)["scores"]
        return scores, scores, tf.ones_like(padding)

    module = tf.Module()
    module.score_and_embed = score_and_embed
    module.labels = tf.function(lambda: tf.constant(LABELS), input_signature=[])
    tf.saved_model.save(module, str(folder / "1"), {"serving_default": serve})
    genres = {"quiet": 0.6, "loud, very": None, "long": 0.9}
    model_card.write(folder / "1", {"thresholds": {"0.9": {"genres": genres}}})
    return folder
