"""Trained models to SavedModels, and audio files to predictions.

`export` writes, checks and publishes a version; `saved_model` defines its signatures;
`prediction` scores files with an exported model in bounded memory; `lite` writes
TensorFlow Lite and Keras files.
"""
