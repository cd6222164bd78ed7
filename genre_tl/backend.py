"""Checks that Keras runs on TensorFlow, before anything imports Keras.

Raises:
  ValueError: if the variable KERAS_BACKEND names another backend.
"""

import os

if os.environ.get("KERAS_BACKEND", "") not in ("", "tensorflow"):
    raise ValueError(
        f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: genre_tl runs on TensorFlow "
        "only; unset the variable"
    )
