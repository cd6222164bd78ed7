"""The recurrent network: frames `[batch, frames, paths]` to tag or genre scores.

`networks` builds, saves and loads taggers and classifiers; `transfer` moves weights
from one to the other; `gru` is a GRU layer, faster on a CPU than Keras's own.
"""

from genre_tl import backend  # noqa: F401
