"""Settings and fixtures of all tests: a quiet TensorFlow on the CPU, fixed seeds."""

import os
import pathlib
import random
import subprocess
import sys
import tempfile

# Before anything imports TensorFlow, here and in the programs that tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # Ray would write a token at home.

import hypothesis
import numpy as np
import pytest
from matplotlib import figure
from matplotlib.backends import backend_agg

ROOT = pathlib.Path(__file__).resolve().parent.parent

# No deadline and no database: results depend on neither speed nor earlier runs.
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data beside the tree; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"NOT RUN ON REAL DATA: there is no {folder / 'data'}")
    return folder


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures drawn during the test, in order."""
    figures: list[figure.Figure] = []
    original = backend_agg.FigureCanvasAgg.__init__

    def remember(self, fig, *args):
        original(self, fig, *args)
        figures.append(fig)

    monkeypatch.setattr(backend_agg.FigureCanvasAgg, "__init__", remember)
    return figures


@pytest.fixture
def public_folder():
    """A temporary folder that other users may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NOT RUN ON A FULL DISK: only root may mount one")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
