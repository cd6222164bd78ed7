"""Waveforms to log-scattering frames on disk, and from there to batches.

`extraction` decodes the clips of a table, cuts them into segments and computes their
frames; `feature_store` keeps the frames in TFRecord shards; `pipeline` reads them as
batches for training and evaluation.
"""
