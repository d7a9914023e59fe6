"""Tasks that outlast their exchange: the server drains, waits for and cancels them, and survives them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
import trio.testing

from engine.transport.background import Background
from engine.transport.watchdog import Watchdog

if TYPE_CHECKING:
    import pytest

settle = trio.testing.wait_all_tasks_blocked


async def test_a_task_is_told_of_the_drain_once_and_waited_for(nursery: trio.Nursery) -> None:
    background = Background(nursery, Watchdog())
    told: list[str] = []
    stop = trio.Event()

    def on_draining() -> None:
        told.append("draining")
        stop.set()

    background.start(stop.wait, on_draining)
    await settle()
    assert (len(background), background.draining) == (1, False)
    background.drain()
    background.drain()
    await background.idle()
    assert (told, len(background), background.draining) == (["draining"], 0, True)


async def test_stop_cancels_what_does_not_end(nursery: trio.Nursery) -> None:
    background = Background(nursery, Watchdog())
    for _ in range(3):
        background.start(trio.sleep_forever, lambda: None)
    await settle()
    background.stop()
    await background.idle()
    assert len(background) == 0


async def test_an_error_in_a_task_is_logged_and_ends_nothing_else(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    background = Background(nursery, Watchdog())

    async def fail() -> None:
        raise ValueError("broken")

    background.start(trio.sleep_forever, lambda: None)
    with caplog.at_level(logging.ERROR):
        background.start(fail, lambda: None)
        await settle()
    assert len(background) == 1
    assert "a task in the background failed" in caplog.text
    nursery.cancel_scope.cancel()
