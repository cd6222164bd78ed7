"""The command-line programs: flags and one call into the library each.

Run them as `python -m tools.<name>` in the tree, or as `genre-tl-<name>` once
the package is installed.

Importing this package has three effects, all before anything heavy is loaded.
TensorFlow's C++ log is silenced, unless TF_CPP_MIN_LOG_LEVEL is set (0 shows
everything). A GPU's memory is taken as it is needed, so that several workers can share
it, unless TF_FORCE_GPU_ALLOW_GROWTH is set to false. And Ctrl-C while a program still
imports prints one word, not a stack.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from typing import Any

_SILENT = "3"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _SILENT)
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


class _SilentTensorFlow(importlib.abc.MetaPathFinder):
    """Imports TensorFlow without the lines that its libraries print meanwhile.

    TensorFlow 2.18 to 2.21 load before they read their log level, and look for a GPU
    without regard to it.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def silently(module: types.ModuleType) -> None:
                with _errors_kept():
                    execute(module)
                    module.config.list_physical_devices()

            spec.loader.exec_module = silently  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _errors_kept() -> Iterator[None]:
    """Keeps back what is written to standard error; shows it only after a failure."""
    try:
        shown = os.dup(2)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as kept, os.fdopen(shown, "wb") as file:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            file.write(kept.read())
            raise
        finally:
            os.dup2(shown, 2)


def _hook(
    kind: type[BaseException], *args: Any, previous: Any = sys.excepthook
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        previous(kind, *args)


sys.excepthook = _hook
if os.environ["TF_CPP_MIN_LOG_LEVEL"] == _SILENT:
    sys.meta_path.insert(0, _SilentTensorFlow())
