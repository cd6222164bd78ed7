"""Simulates units of work on a cluster whose machines are slow or fail.

A discrete-event simulation, not a measurement: it shows how much work is lost if units
take so long. A unit whose machine fails begins anew elsewhere, as with `workers`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable

import numpy as np

from . import timing

_NUM_NODES, _PROCESSORS, _HOURS = 100, 16, 4
_FAILURES_AN_HOUR = 0.01  # of each machine
_NOTICED_SECS, _REPLACED_SECS = 30.0, 300.0  # after a failure
_SLOW, _TIMES_SLOWER = 0.05, 3.0  # share of the machines
_SPREAD = 0.3  # standard deviation of the logarithm of a unit's time
_UNITS = {"10 s": 10.0, "10 minutes": 600.0, "1 hour": 3600.0}
_REPEATS = 5


@dataclasses.dataclass
class Outcome:
    """Times in seconds: used by units that ended, lost by failures, and elapsed."""

    used: float = 0.0
    lost: float = 0.0
    elapsed: float = 0.0
    num_failures: int = 0


class Cluster:
    """Machines with `_PROCESSORS` processors each, which fail at random.

    Args:
      slowness: of each machine; 1 is normal speed.
      failures_an_hour: of each machine, on average.
      seed: of the times of failures.
    """

    def __init__(
        self, slowness: np.ndarray, failures_an_hour: float, seed: int
    ) -> None:
        self._slowness, self._failures_an_hour = slowness, failures_an_hour
        self._generator = np.random.default_rng(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # of events and of attempts
        # Of each machine that works: the unit and the begin of each attempt.
        self._running: dict[int, dict[int, tuple[int, float]]] = {}
        self._now = 0.0

    def run(self, secs: np.ndarray) -> Outcome:
        """Returns the outcome of units that take so long at normal speed."""
        self._secs, self._due = secs, collections.deque(range(len(secs)))
        self._num_ended, self._outcome = 0, Outcome()
        for node in range(len(self._slowness)):
            self._join(node)
        while self._num_ended < len(secs):
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        self._outcome.elapsed = self._now
        return self._outcome

    def _after(self, secs: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + secs, next(self._numbers), happen))

    def _join(self, node: int) -> None:
        self._running[node] = {}
        if self._failures_an_hour:
            hours = self._generator.exponential(1 / self._failures_an_hour)
            self._after(3600 * hours, lambda: self._fail(node))
        self._begin(node)

    def _begin(self, node: int) -> None:
        running = self._running[node]
        while self._due and len(running) < _PROCESSORS:
            unit, attempt = self._due.popleft(), next(self._numbers)
            running[attempt] = unit, self._now
            secs = self._secs[unit] * self._slowness[node]
            self._after(secs, functools.partial(self._end, node, attempt))

    def _end(self, node: int, attempt: int) -> None:
        if attempt in self._running.get(node, {}):
            _, begin = self._running[node].pop(attempt)
            self._outcome.used += self._now - begin
            self._num_ended += 1
            self._begin(node)

    def _fail(self, node: int) -> None:
        attempts = self._running.pop(node).values()
        self._outcome.num_failures += 1
        self._outcome.lost += sum(self._now - begin for _, begin in attempts)
        units = [unit for unit, _ in attempts]
        self._after(_NOTICED_SECS, lambda: self._return(units))
        self._after(_REPLACED_SECS, lambda: self._join(node))

    def _return(self, units: list[int]) -> None:
        self._due.extendleft(units)
        for node in self._running:
            self._begin(node)


def losses() -> None:
    """Prints what failures and slow machines cost, for units of several lengths."""
    rows = []
    for name, unit_secs in _UNITS.items():
        num_units = round(_HOURS * 3600 * _NUM_NODES * _PROCESSORS / unit_secs)
        found = [_simulated(num_units, unit_secs, seed) for seed in range(_REPEATS)]
        lost = [100 * x.lost / (x.used + x.lost) for x, _ in found]
        longer = [x.elapsed / ideal for x, ideal in found]
        failures = [float(x.num_failures) for x, _ in found]
        cells = [timing.median(failures), timing.median(lost), timing.median(longer)]
        rows.append([name, f"{num_units:,}", *(f"{x:.2g}" for x in cells)])
    timing.table(
        f"{_NUM_NODES} machines of {_PROCESSORS} processors, work for {_HOURS} hours; "
        f"simulated, median of {_REPEATS}",
        ["a unit", "units", "failures", "work lost, %", "elapsed, times the ideal"],
        rows,
    )


def _simulated(num_units: int, unit_secs: float, seed: int) -> tuple[Outcome, float]:
    """Returns an outcome and the elapsed seconds if nothing failed or waited."""
    generator = np.random.default_rng(seed)
    spread = generator.normal(-(_SPREAD**2) / 2, _SPREAD, num_units)
    is_slow = np.arange(_NUM_NODES) < _SLOW * _NUM_NODES
    slowness = np.where(is_slow, _TIMES_SLOWER, 1.0)
    secs = unit_secs * np.exp(spread)
    outcome = Cluster(slowness, _FAILURES_AN_HOUR, seed).run(secs)
    return outcome, secs.sum() / (_PROCESSORS * np.sum(1 / slowness))
