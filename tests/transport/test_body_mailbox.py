"""Pieces of a body while they wait: small ones are joined, and nothing else changes."""

from __future__ import annotations

import trio
import trio.testing

from engine.transport.body_mailbox import BodyMailbox


async def test_small_pieces_that_wait_are_joined_with_their_credit() -> None:
    box = BodyMailbox()
    for _ in range(100_000):
        box.add(b"xy", 3)
    assert len(box) <= 100
    total, credit = b"", 0
    while (piece := box.get_nowait()) is not None:
        total += piece.data
        credit += piece.credit
    assert (total, credit) == (b"xy" * 100_000, 300_000)


async def test_large_pieces_stay_the_objects_that_they_are() -> None:
    box = BodyMailbox()
    pieces = [bytes([each]) * 16384 for each in range(3)]
    for each in pieces:
        box.add(each)
    assert [box.get_nowait().data is each for each in pieces] == [True] * 3


async def test_a_parked_reader_gets_what_came_until_it_runs(nursery: trio.Nursery) -> None:
    box = BodyMailbox()
    got = []

    async def read() -> None:
        while (piece := await box.get()) is not None:
            got.append(bytes(piece.data))

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    box.add(b"a")
    box.add(b"b")
    await trio.testing.wait_all_tasks_blocked()
    box.add(b"c")
    box.end()
    box.add(b"ignored")
    await trio.testing.wait_all_tasks_blocked()
    assert got == [b"ab", b"c"]
