"""Trained networks as SavedModels, and audio files as predictions from them.

`export` publishes a network as the next version of a SavedModel: `inference_graph`
is its network, `saved_model` its signatures, `warmup` and `model_card` what ships
with it, `checks` what it must pass. `tflite` and `keras_files` write other formats.
`predictor` loads a SavedModel and scores waveforms and files; `recording_analysis`
computes what `tools.explore` shows.
"""

from genre_tl.serving.predictor import Predictor as Predictor
