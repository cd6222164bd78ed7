"""Audio files to mono waveforms at 16 kHz.

`decoding.read` takes paths and yields float32 waveforms with a note or an error;
`resampling` changes the rate; `wav_graph` does both for encoded WAV inside a
TensorFlow graph, for serving.
"""
