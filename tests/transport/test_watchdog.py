"""Watchdog: exact, lazy, one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.transport.watchdog import Watchdog

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.fixture
async def watchdog(nursery: trio.Nursery) -> Watchdog:
    dog = Watchdog()
    nursery.start_soon(dog.run)
    return dog


async def test_a_timer_fires_exactly_at_its_deadline(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    fired: list[float] = []
    timer = watchdog.timer(lambda: fired.append(trio.current_time()))
    start = trio.current_time()
    timer.set(start + 5)
    await trio.sleep(4.999)
    assert fired == []
    await trio.sleep(1)
    assert fired == [start + 5]
    assert not timer.armed


async def test_an_earlier_deadline_wakes_the_sleeping_task(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    fired: list[str] = []
    late = watchdog.timer(lambda: fired.append("late"))
    late.set(trio.current_time() + 100)
    await trio.sleep(1)
    soon = watchdog.timer(lambda: fired.append("soon"))
    soon.set(trio.current_time() + 1)
    late.set(trio.current_time() + 2)
    await trio.sleep(1.5)
    assert fired == ["soon"]
    await trio.sleep(1)
    assert fired == ["soon", "late"]


async def test_moving_a_deadline_later_costs_no_entry(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    fired: list[float] = []
    timer = watchdog.timer(lambda: fired.append(trio.current_time()))
    start = trio.current_time()
    for step in range(1000):
        timer.set(start + 10 + step)
    assert watchdog.entries == 1
    await trio.sleep(2000)
    assert fired == [start + 1009]


async def test_a_cleared_timer_does_not_fire(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    fired: list[int] = []
    timer = watchdog.timer(lambda: fired.append(1))
    timer.set(trio.current_time() + 1)
    timer.clear()
    await trio.sleep(5)
    assert fired == []


async def test_a_timer_can_set_itself_again(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    fired: list[float] = []
    start = trio.current_time()

    def again() -> None:
        fired.append(trio.current_time() - start)
        if len(fired) < 3:
            timer.set(trio.current_time() + 1)

    timer = watchdog.timer(again)
    timer.set(start + 1)
    await trio.sleep(10)
    assert fired == [1, 2, 3]


async def test_cleared_timers_do_not_pile_up(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    for _ in range(10):
        for _ in range(1000):
            timer = watchdog.timer(lambda: None)
            timer.set(trio.current_time() + 1000)
            timer.clear()
        await trio.sleep(0.1)
        watchdog.timer(lambda: None).set(trio.current_time())
        await trio.sleep(0.1)
    assert watchdog.entries < 2200


async def test_cleared_timers_do_not_pile_up_while_the_watchdog_sleeps(
    watchdog: Watchdog, autojump_clock: MockClock
) -> None:
    armed = [watchdog.timer(lambda: None) for _ in range(1500)]
    for timer in armed:
        timer.set(trio.current_time() + 2000)
    for _ in range(20_000):
        timer = watchdog.timer(lambda: None)
        timer.set(trio.current_time() + 1000)
        timer.clear()
    assert watchdog.entries <= 2 * len(armed) + 1
