"""Tasks that outlast the exchange that began them.

Owns: the place where they live, their number, and what they learn of a server's drain. A hub
connection over Long Polling is many short exchanges; one that survives a cut has none for a while.

The server makes one `Background` and sets it as `current` in the context of each of its connections,
so that an endpoint finds the one of the server that it is run by.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from engine.transport.watchdog import Timer, Watchdog

_log = logging.getLogger(__name__)

current: ContextVar[Background] = ContextVar("background")
"""Of the server that runs this task."""


class Background:
    """A server's long-lived tasks.

    Args:
        nursery: outlives all connections of the server.
        watchdog: the server's.
    """

    def __init__(self, nursery: trio.Nursery, watchdog: Watchdog) -> None:
        # immutable
        self._nursery = nursery
        self._watchdog = watchdog
        # owned by whoever runs
        self._running: dict[trio.CancelScope, Callable[[], None]] = {}
        self._draining = False
        self._changed = trio.Event()  # replaced each time it is set: a task has ended

    def __len__(self) -> int:
        """Tasks that run."""
        return len(self._running)

    @property
    def draining(self) -> bool:
        """The server wants to stop: begin nothing that lasts."""
        return self._draining

    def start(self, function: Callable[[], Awaitable[Any]], on_draining: Callable[[], None]) -> None:
        """Run a coroutine in a task of its own, within the barrier that connections have (R7).

        Args:
            function: what to run.
            on_draining: called once, synchronously, when the server begins to drain.
        """
        scope = trio.CancelScope()
        self._running[scope] = on_draining
        self._nursery.start_soon(self._run, scope, function)

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer that calls back synchronously; whoever sets it clears it."""
        return self._watchdog.timer(callback)

    async def _run(self, scope: trio.CancelScope, function: Callable[[], Awaitable[Any]]) -> None:
        try:
            with scope:
                await function()
        except* Exception:
            _log.exception("a task in the background failed; this is a bug in the engine, please report it")
        finally:
            del self._running[scope]
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    def drain(self) -> None:
        """Tell all tasks that the server wants to stop. Idempotent."""
        if not self._draining:
            self._draining = True
            for on_draining in list(self._running.values()):
                on_draining()

    def stop(self) -> None:
        """Cancel what still runs."""
        for scope in list(self._running):
            scope.cancel()

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await self._changed.wait()
