"""Trained networks as SavedModels and ONNX files, and predictions from them.

`export` publishes a `saved_model.TrainedModel` as the next version: `network_graph`
computes its layers, `saved_model` its signatures, `warmup` and `model_card` add what
ships with it, `checks` compares it with the Keras model; `run_export` reads what a
training run gives to it. `tflite_and_keras` are TensorFlow Lite and Keras,
`onnx_export` is ONNX: `onnx_model` joins `onnx_frontend` (with `onnx_scattering`) and
`onnx_network`, with the help of `onnx_builder`.

`predictor` scores waveforms and files with an export that `versions` finds and
`runtimes` loads; `recording_analysis` is what `tools.explore` shows. Up to `predictor`
nothing imports TensorFlow before an export needs it.
"""

from genre_tl.serving.predictor import Predictor as Predictor
from genre_tl.serving.predictor import predict as predict
