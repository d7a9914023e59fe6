"""Ctrl-C for commands that talk to a server.

Owns: that it cancels what the command does. As an exception it would hit whatever runs at that moment,
Trio between two of its own steps included.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

Result = TypeVar("Result")


def run_until_interrupted(main: Callable[[], Awaitable[Result]]) -> Result:
    """What `main` returns; its errors come as they are.

    Raises:
        KeyboardInterrupt: Ctrl-C came, and `main` was cancelled.
    """
    return trio.run(_until_interrupted, main)


async def _until_interrupted(main: Callable[[], Awaitable[Result]]) -> Result:
    results: list[Result] = []
    failure: Exception | None = None

    async def watch() -> None:
        async for _ in signals:
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                results.append(await main())
            except Exception as error:
                failure = error  # the nursery would put it into a group
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise KeyboardInterrupt
    return results[0]
