"""Trained networks as SavedModels, and predictions from them.

`trained_model` holds what is exported, `export` publishes it as the next version:
`inference_graph` computes its layers, `saved_model` its signatures, `warmup` and
`model_card` add what ships with it, `checks` compares it with the Keras model.
`tflite` and `keras_files` write other formats. `predictor` loads a SavedModel and
scores waveforms and files; `recording_analysis` is what `tools.explore` shows.
"""

from genre_tl.serving.predictor import Predictor as Predictor
from genre_tl.serving.predictor import predict as predict
