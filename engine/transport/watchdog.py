"""All deadlines of a server in one task.

Owns: a heap of timers and the only task that sleeps on them. A connection has a dozen deadlines that
are moved at every message and almost never fire; a task or a cancel scope for each would cost
microseconds a move and kilobytes at rest. Here moving a deadline later is one attribute.

A timer's callback runs synchronously in the watchdog's task and must not raise.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import outcome
import trio

_COMPACT_FROM = 1024  # entries of the heap before a sweep of those that nobody needs is worth it


class Timer:
    """A deadline that calls back once when it passes; made by `Watchdog.timer`."""

    __slots__ = ("_queued_at", "_watchdog", "callback", "deadline")

    def __init__(self, watchdog: Watchdog, callback: Callable[[], None]) -> None:
        self._watchdog = watchdog
        self._queued_at = math.inf  # the time of the heap entry that stands for this timer
        self.callback = callback
        self.deadline = math.inf

    @property
    def armed(self) -> bool:
        """A deadline is set and has not passed."""
        return self.deadline != math.inf

    def set(self, deadline: float) -> None:
        """Fire at `deadline` (`trio.current_time()` seconds) instead of whatever was set before."""
        self.deadline = deadline
        # A later deadline is found out when the old entry comes up; only an earlier one needs its own.
        if deadline < self._queued_at:
            self._watchdog._push(deadline, self)

    def clear(self) -> None:
        """Do not fire."""
        self.deadline = math.inf


class Watchdog:
    """Timers, and the task that fires them."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._compact_at = _COMPACT_FROM
        self._order = count()
        self._sleeper: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A new timer, not yet set."""
        return Timer(self, callback)

    @property
    def entries(self) -> int:
        """Entries in the heap, armed or not; for tests and statistics."""
        return len(self._heap)

    def _push(self, deadline: float, timer: Timer) -> None:
        if deadline == math.inf:
            return
        if len(self._heap) >= self._compact_at:
            # Calls with a time-out far away come and go by the thousand: none must be kept until then.
            self._compact()
        timer._queued_at = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), timer))
        if self._scope is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline
        elif self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper, outcome.Value(None))

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            self._fire(trio.current_time())
            if not self._heap:
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_sleep)
                continue
            with trio.CancelScope(deadline=self._heap[0][0]) as self._scope:
                await trio.sleep_forever()
            self._scope = None

    def _abort_sleep(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _fire(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            queued_at, _, timer = heapq.heappop(self._heap)
            if timer._queued_at != queued_at:
                continue  # superseded by an earlier entry
            timer._queued_at = math.inf
            if timer.deadline > now:
                self._push(timer.deadline, timer)
            else:
                timer.deadline = math.inf
                timer.callback()

    def _compact(self) -> None:
        """Forget entries of timers that were cleared or superseded; each sweep pays for itself."""
        live = [entry for entry in self._heap if entry[2]._queued_at == entry[0] and entry[2].deadline != math.inf]
        kept = {id(entry[2]) for entry in live}
        for _, _, timer in self._heap:
            if id(timer) not in kept:
                timer._queued_at = math.inf
        heapq.heapify(live)
        self._heap = live
        self._compact_at = max(_COMPACT_FROM, 2 * len(live))
