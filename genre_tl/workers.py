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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Protocol

_ATTEMPTS = 3
_PATIENCE_SECS = 20.0  # for a process that is to end
_LOOK_SECS = 1.0  # between looks at the nodes of a cluster
_MOST_FAILED_STARTS = 20

_TRIED = "the process that ran it {}, {} times"

Function = Callable[[Any], Any]
_Task = tuple[int, int]  # position and attempt


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
    """Runs units in processes of a running Ray cluster; needs the extra `ray`.

    There is a process for each GPU of the cluster, which has that GPU to itself, or for
    each processor if there are no GPUs. Nodes may join and leave. The nodes need this
    package, the same versions of others, and the same folders.

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
                    "one with: ray start --head. If it has a token, set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
                ) from error

    def run(
        self, function: Function, units: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`. A process has `function` until all units have ended.

        Raises:
          ValueError: if processes end as they start.
        """
        import ray

        due = collections.deque((place, 1) for place in range(len(units)))
        actors = _RayActors(ray, function)
        try:
            while due or actors.are_at_work():
                actors.start(len(due))
                for actor, task, answer in actors.ended():
                    if actor and due:
                        place, _ = following = due.popleft()
                        actors.give(actor, following, units[place])
                    if not task:
                        continue
                    place, attempt = task
                    if isinstance(answer, Died) and attempt < _ATTEMPTS:
                        due.append((place, attempt + 1))
                    else:
                        yield place, answer
        finally:
            actors.stop()


class _RayActors:
    """Processes of a Ray cluster: those that start, and those that run a task."""

    def __init__(self, ray: Any, function: Function) -> None:
        self._ray, self._content = ray, ray.put(pickle.dumps(function))
        self._class = ray.remote(_RayWorker)
        # By what is awaited of them; a task is None while they start.
        self._actors: dict[Any, tuple[Any, _Task | None]] = {}
        self._failed_starts = 0  # one after another

    def are_at_work(self) -> bool:
        """Whether some process runs a task."""
        return any(task for _, task in self._actors.values())

    def start(self, num_due: int) -> None:
        """Starts processes: one for each GPU, or each processor if there are none.

        As many more wait. They start on nodes that join, and let a cluster grow.
        """
        resources = self._ray.cluster_resources()
        num_gpus = int(resources.get("GPU", 0) >= 1)
        size = max(1, int(resources.get("GPU" if num_gpus else "CPU", 1)))
        actor_class = self._class.options(num_cpus=1, num_gpus=num_gpus)
        for _ in range(min(2 * size - len(self._actors), num_due)):
            # In a list Ray leaves the reference as it is.
            actor = actor_class.remote([self._content])
            self._actors[actor.start.remote()] = actor, None

    def give(self, actor: Any, task: _Task, unit: Any) -> None:
        """Lets a process run a task."""
        self._actors[actor.run.remote(unit)] = actor, task

    def ended(self) -> Iterator[tuple[Any, _Task | None, Any]]:
        """Waits a moment; yields processes without work, with task and result.

        The process is None, and the result `Died`, if it has died. What a task raised
        is raised here.
        """
        errors = self._ray.exceptions
        references, _ = self._ray.wait([*self._actors], timeout=_LOOK_SECS)
        for reference in references:
            actor, task = self._actors.pop(reference)
            try:
                answer = self._ray.get(reference)
                self._failed_starts = 0
            except errors.RayTaskError as error:
                raise error.cause from error
            except errors.RayError as error:
                self._failed_starts += task is None
                if self._failed_starts > _MOST_FAILED_STARTS:
                    raise ValueError(
                        f"processes of the Ray cluster end as they start: {error}; "
                        "install the same versions of all packages on all nodes"
                    ) from error
                actor, what = None, f"died ({type(error).__name__})"
                answer = Died(_TRIED.format(what, _ATTEMPTS))
            yield actor, task, answer

    def stop(self) -> None:
        """Ends all processes."""
        for actor, _ in self._actors.values():
            self._ray.kill(actor)


class _RayWorker:
    """A process of a Ray cluster."""

    def __init__(self, content: list[Any]) -> None:
        self._content = content

    def start(self) -> None:
        """Ends once the process has started."""

    @functools.cached_property
    def _function(self) -> Function:
        import ray

        return pickle.loads(ray.get(self._content[0]))

    def run(self, unit: Any) -> Any:
        """Returns the result of a unit."""
        with _watched():
            return self._function(unit)


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
        self.task: _Task | None = None

    def start(self, task: _Task, units: Sequence[Any]) -> None:
        """Begins a unit."""
        self.task = task
        with contextlib.suppress(OSError):  # It has died: `end` says so.
            self.pipe.send(units[task[0]])

    def end(self) -> tuple[_Task, Any]:
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
