"""Mailbox: order, the end, one reader, cancellation."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.transport.mailbox import Mailbox


async def test_items_come_out_in_order_and_then_the_end() -> None:
    box: Mailbox[int] = Mailbox()
    box.put(1)
    box.put(2)
    box.end()
    box.put(3)  # after the end: ignored
    assert [await box.get(), await box.get(), await box.get()] == [1, 2, None]
    assert await box.get() is None


async def test_a_parked_reader_is_woken_by_an_item(nursery: trio.Nursery) -> None:
    box: Mailbox[str] = Mailbox()
    got: list[str | None] = []

    async def read() -> None:
        got.append(await box.get())

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    assert got == []
    box.put("x")
    await trio.testing.wait_all_tasks_blocked()
    assert got == ["x"]


async def test_an_error_comes_after_the_items_that_wait() -> None:
    box: Mailbox[int] = Mailbox()
    box.put(1)
    box.end(ValueError("gone"))
    box.end()  # the first end counts
    assert box.failed
    assert await box.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="gone"):
            await box.get()


async def test_a_second_reader_is_refused(nursery: trio.Nursery) -> None:
    box: Mailbox[int] = Mailbox()
    nursery.start_soon(box.get)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError, match="one task"):
        await box.get()
    box.end()


async def test_cancelling_a_reader_loses_nothing() -> None:
    box: Mailbox[int] = Mailbox()
    with trio.move_on_after(0) as scope:
        await box.get()
    assert scope.cancelled_caught
    box.put(7)
    with trio.CancelScope() as cancelled:
        cancelled.cancel()
        await box.get()
    assert cancelled.cancelled_caught
    assert await box.get() == 7


async def test_an_item_that_comes_while_a_cancelled_reader_has_not_run_yet_is_kept(nursery: trio.Nursery) -> None:
    box: Mailbox[int] = Mailbox()
    scope = trio.CancelScope()

    async def read() -> None:
        with scope:
            await box.get()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    box.put(1)
    box.end()
    await trio.testing.wait_all_tasks_blocked()
    assert await box.get() == 1
