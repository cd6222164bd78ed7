"""Music collections as tables of clips: paths, labels and groups.

`collection.load` turns a folder, and `tables.load` a CSV, into a `datasets.Dataset`;
`joining.join` makes one of several; `splits` divides its rows. Audio files are listed
but never opened. No TensorFlow.
"""
