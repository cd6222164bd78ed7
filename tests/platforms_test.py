"""Imports and runs the library and the tools without what other systems lack.

No system but Linux is at hand. What stands in for Windows here: Python's modules and
functions that exist on POSIX only are blocked, and msvcrt is a stand-in.
"""

import subprocess
import sys

import pytest

# Everything that these import is loaded before: their own use of POSIX is tested by
# their authors.
LIBRARIES = (
    "absl.app av keras kymatio.scattering1d.frontend.tensorflow_frontend "
    "matplotlib.backends.backend_agg numpy onnx onnxruntime scipy.signal sklearn.svm "
    "soundfile "
    "tensorflow tensorflow.lite.python.interpreter"
)
PREPARE = f"""
import importlib, os, pkgutil, signal, sys, types, warnings
for name in {LIBRARIES.split()}:
    importlib.import_module(name)

MODULES = "fcntl grp nis posix pwd pty resource spwd syslog termios tty".split()
FUNCTIONS = (
    "fork forkpty geteuid getgid getuid killpg memfd_create mkfifo nice pread "
    "preadv pwrite register_at_fork sched_getaffinity sched_setaffinity sendfile "
    "setsid statvfs sysconf uname wait4"
).split()
for name in MODULES:
    sys.modules[name] = None
for name in FUNCTIONS:
    vars(os).pop(name, None)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1"):
    delattr(signal, name)
locked = []
sys.modules["msvcrt"] = types.SimpleNamespace(
    LK_NBLCK=2, locking=lambda *args: locked.append(args)
)
"""
IMPORT = """
sys.platform = "win32"
import absl.flags, genre_tl, tools
# Several tools define the same flag; only one is loaded at a time elsewhere.
absl.flags.Flag.allow_override = property(lambda flag: True, lambda *args: None)
for package in (genre_tl, tools):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
USE = """
from genre_tl import files
with files.lock("."):
    assert locked
    files.write_text("text", "words")

sys.platform = "linux"  # Libraries load more of themselves while they work.
import numpy as np, soundfile
from genre_tl.audio import decoding
time = np.arange(32_000) / 16_000
for name in ("tone.wav", "tone.ogg", "tone.mp3"):
    soundfile.write(name, 0.5 * np.sin(2000 * time), 16_000)
soundfile.write("empty.wav", np.zeros([0]), 16_000)
for clip in decoding.read(["tone.wav", "tone.ogg", "tone.mp3"]):
    assert not clip.error, clip
    assert abs(len(clip.waveform) - 32_000) < 1200
print("done")
"""


@pytest.fixture
def run(tmp_path, root):
    def run_(program):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:0] = [{str(root)!r}]\n{program}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run_


def test_every_module_imports_and_files_are_read_without_posix(run):
    done = run(PREPARE + IMPORT + USE)
    assert done.stdout == "done\n", done.stderr
