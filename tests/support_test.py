"""The test helpers themselves."""

import os
import pathlib
import subprocess
import sys

import pytest
from support import other_user

PROGRAM = """
import os, sys
from support import other_user
other_user.drop_root()
print(os.geteuid() != 0, os.access(sys.argv[1], os.W_OK))
"""


def test_an_ordinary_user_enters_the_public_folder_and_not_a_closed_one(public_folder):
    other_user.require(public_folder)
    closed = public_folder / "closed"
    closed.mkdir(mode=0)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, closed],
        env=os.environ | {"PYTHONPATH": str(other_user.ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_closed_parent_folder_skips_the_test_with_the_reason(tmp_path, monkeypatch):
    # The clone itself may lie in a folder that is closed to others.
    monkeypatch.setattr(other_user, "ROOT", pathlib.Path("/"))
    monkeypatch.setattr(sys, "prefix", "/")
    tmp_path.chmod(0o700)
    with pytest.raises(pytest.skip.Exception, match=f"may not enter {tmp_path}"):
        other_user.require(tmp_path)
