"""The recurrent network: frames `[batch, frames, paths]` to tag or genre scores.

`networks` builds taggers and classifiers, moves weights from one to the other, and
saves and loads them; `gru` is the recurrent layer, faster on a CPU than Keras's own.
"""

from genre_tl import backend  # noqa: F401
