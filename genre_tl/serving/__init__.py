"""Trained networks as SavedModels, and predictions from them.

`export` publishes a `saved_model.TrainedModel` as the next version: `network_graph`
computes its layers, `saved_model` its signatures, `warmup` and `model_card` add what
ships with it, `checks` compares it with the Keras model. `tflite_and_keras` are
TensorFlow Lite and Keras. `predictor` loads a SavedModel and scores waveforms and
files; `recording_analysis` is what `tools.explore` shows.
"""

from genre_tl.serving.predictor import Predictor as Predictor
from genre_tl.serving.predictor import predict as predict
