"""The command-line programs: flags and one call into the library each.

Run them as `python -m tools.<name>` in the tree, or as `genre-tl-<name>` once
the package is installed.

Importing this package has two effects, both before anything heavy is loaded.
TensorFlow's C++ log is silenced, unless TF_CPP_MIN_LOG_LEVEL is set (0 shows
everything). And Ctrl-C while a program still imports prints one word, not a stack.
"""

import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _hook(
    kind: type[BaseException], *args: Any, previous: Any = sys.excepthook
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        previous(kind, *args)


sys.excepthook = _hook
