"""Audio files as mono waveforms at 16 kHz.

`decoding.read` turns paths into float32 waveforms, each with a note or an error. It
decodes with `libsndfile` or `ffmpeg`, or optionally with `tensorflow_io_decoder`, and
resamples with `streaming`; `sound` finds where sound begins. None of these needs
TensorFlow. `resampling` and `wav_graph` resample and decode inside a TensorFlow graph,
for serving.
"""
