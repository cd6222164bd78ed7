"""An ordinary user, for tests of permissions that root would not notice.

As root, a test checks `require` and its child process calls `drop_root`, with all
modules that it needs imported before. Any other user is ordinary already.
"""

import os
import pathlib
import subprocess
import sys

import pytest

NOBODY = 65534
ROOT = pathlib.Path(__file__).resolve().parents[2]


def require(*folders: pathlib.Path) -> None:
    """Skips the test unless an ordinary user may enter the tree and the folders."""
    if os.geteuid():
        return
    for folder in (ROOT, pathlib.Path(sys.prefix), *folders):
        command = ["test", "-r", str(folder), "-a", "-x", str(folder)]
        ids = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        if subprocess.run(command, **ids).returncode:
            pytest.skip(
                f"NOT RUN AS ANOTHER USER: user {NOBODY} may not enter {folder}"
            )


def drop_root() -> None:
    """Makes a process of root one of an ordinary user."""
    if not os.geteuid():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
