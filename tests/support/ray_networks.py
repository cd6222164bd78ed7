"""A Ray cluster whose nodes have networks of their own, which can be cut."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

_NETWORK, _PORT = "10.77.0", 6399
ADDRESS = f"{_NETWORK}.1:{_PORT}"

# Of all processes: without proxies; a node counts as dead after three seconds.
ENVIRONMENT = {
    **{x: y for x, y in os.environ.items() if not x.lower().endswith("_proxy")},
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Cluster:
    """A head in the network of this process, and other nodes in theirs.

    Use it as a context. It skips the test where networks cannot be made, which takes
    root on Linux.
    """

    def __init__(self, num_nodes: int) -> None:
        self._names = [f"genre-tl-{n}" for n in range(2, num_nodes + 1)]
        # Sockets are made in it, whose paths have at most 107 characters.
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="ray-"))

    def __enter__(self) -> "Cluster":
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            self._connect()
            head = f"--head --port={_PORT} --include-dashboard=false"
            self._start([], 1, *head.split(), f"--temp-dir={self._folder}")
            for number, name in enumerate(self._names, start=2):
                inside = ["ip", "netns", "exec", name]
                self._start(inside, number, f"--address={ADDRESS}")
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def set_network(self, node: int, state: str) -> None:
        """Cuts a node's network, or connects it again; `state` is down or up."""
        _ip("link", "set", f"gtl{node + 2}", state)

    def _connect(self) -> None:
        if not shutil.which("ip") or os.geteuid() != 0:
            pytest.skip("NOT RUN WITH CUT NETWORKS: needs root, and ip on Linux")
        try:
            _ip("link", "add", "gtl", "type", "bridge")
        except subprocess.CalledProcessError:
            pytest.skip("NOT RUN WITH CUT NETWORKS: networks cannot be made here")
        _ip("address", "add", f"{_NETWORK}.1/24", "dev", "gtl")
        _ip("link", "set", "gtl", "up")
        for number, name in enumerate(self._names, start=2):
            _ip("netns", "add", name)
            peer = "type", "veth", "peer", "name", "eth0", "netns", name
            _ip("link", "add", f"gtl{number}", *peer)
            _ip("link", "set", f"gtl{number}", "master", "gtl", "up")
            _ip("-n", name, "address", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def _start(self, inside: list[str], number: int, *arguments: str) -> None:
        ray = pathlib.Path(sys.executable).parent / "ray"
        address = f"--node-ip-address={_NETWORK}.{number}"
        command = [*inside, ray, "start", "--num-cpus=1", address, *arguments]
        with open(self._folder / "log", "a") as file:
            subprocess.run(
                command, env=ENVIRONMENT, stdout=file, stderr=file, check=True
            )

    def _stop(self) -> None:
        for name in self._names:
            _run("ip", "netns", "pids", name, then_kill=True)
        _run("pgrep", "-f", f"{self._folder}|{ADDRESS}", then_kill=True)
        time.sleep(0.5)
        for name in self._names:
            _run("ip", "netns", "delete", name)
        _run("ip", "link", "delete", "gtl")
        shutil.rmtree(self._folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stderr=subprocess.PIPE)


def _run(*command: str, then_kill: bool = False) -> None:
    """Runs a command that may fail; ends the processes that it lists."""
    done = subprocess.run(command, capture_output=True, text=True)
    for process in done.stdout.split() if then_kill else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
