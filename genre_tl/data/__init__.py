"""Collections of music as tables: which files there are, their labels and groups.

A folder or CSV becomes a `datasets.Dataset` (paths, labels, groups); `splits`
divides its rows into training, validation and test parts. No audio is read here
and TensorFlow is not imported.

datasets → tables → splits; audio_files lists the audio files below a folder.
"""
