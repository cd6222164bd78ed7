"""The command-line programs: flags and one call into the library each.

Run them as `python -m tools.<name>` in the tree, or as `genre-tl-<name>` once
the package is installed.

This is the one place where importing has an effect. TensorFlow's C++ side reads
its log level when it is first loaded, and a program that reports "Unable to
register cuFFT factory" before its first word has lost its reader; so the level
is set before any tool can import it. A level that is set already is kept:
`TF_CPP_MIN_LOG_LEVEL=0` shows everything.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
