"""Music collections as tables of clips: paths, labels and groups.

`collection.load` turns a folder, and `tables.load` a CSV, into a `datasets.Dataset`;
`splits` divides its rows into training, validation and test sets. Audio files are
listed (`audio_files`) but never opened. No TensorFlow.
"""
