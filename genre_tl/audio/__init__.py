"""Audio files as mono waveforms at 16 kHz.

`decoding.read` turns paths into float32 waveforms, each with a note or an error. It
decodes with `libsndfile` or `ffmpeg`, or optionally with `tensorflow_io_decoder`, and
resamples with `resampling`. `wav_graph` decodes and
resamples WAV files inside a TensorFlow graph, for serving.
"""
