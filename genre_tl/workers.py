"""Runs units of work: in this process, in a pool of processes, or on a Ray cluster.

A unit may be run any number of times with the same result, so a unit whose process died
is simply run again.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import multiprocessing
import pickle
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Protocol

_ATTEMPTS = 3
_PATIENCE_SECS = 20.0  # for a process that is to end

_TRIED = "the process that ran it {}, {} times"

Function = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Died:
    """Result of a unit whose process died each time, such as by a crash."""

    reason: str


def expect_progress(secs: int) -> None:
    """Ends this process unless the unit ends or calls this again within `secs`.

    This ends loops without end, also those of libraries. It has no effect in a process
    that is not a worker's, nor on Windows.
    """
    if _is_watched and hasattr(signal, "alarm"):
        signal.alarm(secs)


class Executor(Protocol):
    """Runs units of work."""

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yields position and result of each unit, in the order in which they end.

        The result is what `function` returns, or `Died`. What it raises is raised here.
        """


class Here:
    """Runs one unit after another in this process."""

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`."""
        yield from enumerate(map(function, units))


class Pool:
    """Runs units in `num_workers` processes of this machine."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`. A process has `function` until all units have ended."""
        due = collections.deque((place, 1) for place in range(len(units)))
        workers: list[_Worker] = []
        content = pickle.dumps(function)
        try:
            while due or any(worker.task for worker in workers):
                for _ in range(min(self._num_workers - len(workers), len(due))):
                    workers.append(_Worker(content))
                for worker in workers:
                    if due and not worker.task:
                        worker.start(due.popleft(), units)
                for worker in _ready([x for x in workers if x.task]):
                    (place, attempt), answer = worker.end()
                    if not isinstance(answer, Died):
                        yield place, answer
                        continue
                    workers.remove(worker)
                    if attempt < _ATTEMPTS:
                        due.append((place, attempt + 1))
                    else:
                        yield place, answer
        finally:
            for worker in workers:
                worker.stop()


class Ray:
    """Runs units as tasks on a running Ray cluster; needs the extra `ray`.

    The nodes need this package, the same versions of others, and the same folders.

    Args:
      address: of the cluster; `auto` finds that of this machine.

    Raises:
      ValueError: if Ray is not installed or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                "--ray needs Ray: pip install 'genre_tl[ray]', on all nodes"
            ) from error
        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"--ray={address}: no Ray cluster answers there ({error}); start "
                    "one with: ray start --head"
                ) from error

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`. A process of the cluster loads `function` once."""
        import ray

        content, key = ray.put(pickle.dumps(function)), uuid.uuid4().hex
        task = ray.remote(max_retries=0)(_run_on_ray)
        due = collections.deque((place, 1) for place in range(len(units)))
        running: dict[Any, tuple[int, int]] = {}
        try:
            while due or running:
                # A few more than can run, so that a million units are no burden.
                most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while due and len(running) < most:
                    place, attempt = due.popleft()
                    reference = task.remote(key, [content], units[place])
                    running[reference] = place, attempt
                ended, _ = ray.wait([*running])
                place, attempt = running.pop(ended[0])
                try:
                    yield place, ray.get(ended[0])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    if attempt < _ATTEMPTS:
                        due.append((place, attempt + 1))
                    else:
                        what = f"died ({type(error).__name__})"
                        yield place, Died(_TRIED.format(what, _ATTEMPTS))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Runs units as `executor`, after `prepare` has been called in their process.

    `prepare` may be called more than once.
    """

    executor: Executor
    prepare: Callable[[], None]

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`."""
        prepared = functools.partial(_prepared, self.prepare, function)
        yield from self.executor.run(prepared, units)


def _prepared(prepare: Callable[[], None], function: Function, unit: Any) -> Any:
    prepare()
    return function(unit)


_is_watched = False  # whether a worker runs a unit in this process


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """While a unit runs, `expect_progress` has an effect."""
    global _is_watched
    _is_watched = True
    try:
        yield
    finally:
        expect_progress(0)
        _is_watched = False


_functions: dict[str, Function] = {}  # of a process of a Ray cluster, by run


def _run_on_ray(key: str, content: list[Any], unit: Any) -> Any:
    import ray

    if key not in _functions:
        _functions.clear()
        _functions[key] = pickle.loads(ray.get(content[0]))
    with _watched():
        return _functions[key](unit)


class _Worker:
    """A process that runs one unit at a time; `task` is its position and attempt."""

    def __init__(self, content: bytes) -> None:
        # Processes that are forked from one with threads, as TensorFlow's, can hang.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, content))
        self._process.daemon = True  # It ends with this process.
        with _ignoring_interrupts():  # Ctrl-C: this process ends the other one.
            self._process.start()
        other.close()
        self.task: tuple[int, int] | None = None

    def start(self, task: tuple[int, int], units: Sequence[Any]) -> None:
        """Begins a unit."""
        self.task = task
        with contextlib.suppress(OSError):  # It has died: `end` says so.
            self.pipe.send(units[task[0]])

    def end(self) -> tuple[tuple[int, int], Any]:
        """Returns the task and its result; raises what the function raised."""
        assert self.task
        task, self.task = self.task, None
        try:
            is_error, answer = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return task, Died(_died(self._process.exitcode or 0))
        if is_error:
            raise answer
        return task, answer

    def stop(self) -> None:
        """Ends the process; it removes its unfinished files."""
        self._process.terminate()
        self._process.join(_PATIENCE_SECS)
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread is interrupted, and may change that.
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Waits until some workers have ended their units, or died, and returns these."""
    pipes = connection.wait([worker.pipe for worker in workers])
    return [worker for worker in workers if worker.pipe in pipes]


def _died(code: int) -> str:
    """Returns why a process died, from its exit code."""
    what = f"died with exit code {code}"
    if code == -getattr(signal, "SIGALRM", 0):
        what = "made no progress"
    elif code < 0:
        with contextlib.suppress(ValueError):
            what = f"died of {signal.Signals(-code).name}"
    return _TRIED.format(what, _ATTEMPTS)


def _serve(pipe: connection.Connection, content: bytes) -> None:
    """Runs units until the pipe is closed."""
    signal.signal(signal.SIGTERM, _terminate)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        function: Function | None = None
        while True:
            unit = pipe.recv()
            try:
                function = function or pickle.loads(content)
                with _watched():
                    answer = False, function(unit)
            except Exception as error:
                answer = True, error
            pipe.send(answer)


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt(number)
