"""A task that waits to be woken by name, for half of what `trio.lowlevel` takes for it.

Owns: the two objects that would be made anew for each wait and each wake-up and are the same every time:
what a parked task yields to Trio's scheduler, and what the scheduler sends back to it. The first is
taken from `wait_task_rescheduled` itself, so that Trio's own rules hold: exactly one wake-up for each
wait, and none after an abort function has said SUCCEEDED.

    message = parking_message(abort)   # once
    await park(message)                # each time; `abort` is called where the task is cancelled
    wake(task)                         # by somebody else
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import coroutine
from typing import Any, NoReturn

import outcome
import trio


def parking_message(abort: Callable[[object], trio.lowlevel.Abort]) -> Any:
    """What `park` yields; `abort` is that of `trio.lowlevel.wait_task_rescheduled`, and may be called often."""
    waiting = trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105  # looked into, not waited for
    message = waiting.send(None)
    waiting.close()
    return message


@coroutine
def park(message: Any) -> Generator[Any, outcome.Outcome[object], None]:
    """Wait until `wake`, or raise `trio.Cancelled`."""
    (yield message).unwrap()


class _Woken(outcome.Outcome[None]):
    """Success, as often as anybody asks; `outcome.Value` is good for once."""

    def unwrap(self) -> None:
        pass

    def send(self, gen: Generator[Any, Any, Any]) -> NoReturn:
        raise AssertionError("Trio sends this itself")

    async def asend(self, agen: Any) -> NoReturn:
        raise AssertionError("Trio sends this itself")


_WOKEN = _Woken()


def wake(task: trio.lowlevel.Task) -> None:
    """Let a parked task go on; once for each `park`."""
    trio.lowlevel.reschedule(task, _WOKEN)
