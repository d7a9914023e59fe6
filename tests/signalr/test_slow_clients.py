"""Clients that take too little: closed, or without some broadcasts; and never at the cost of others."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConfigError
from engine.signalr.backlog import Backlog
from engine.signalr.endpoint import HubEndpoint
from engine.signalr.hub import Hub
from tests.signalr.hub_peer import HubClient, HubHost, hosting

settle = trio.testing.wait_all_tasks_blocked
SIZE = 10_000
CONFIG = Config().replace(server__outbox_size=20 * SIZE)


class NewsHub(Hub):
    async def news(self, first: int, last: int) -> None:
        for number in range(first, last):
            await self.clients.all.send("News", number, "x" * SIZE)

    async def echo(self, value: Any) -> Any:
        return value


async def publish(reporter: HubClient, count: int) -> None:
    """So that the reporter itself is never slow."""
    for number in range(count):
        await reporter.invoke("News", number, number + 1)
        while (await reporter.message())["type"] != 3:
            pass


async def numbers(client: HubClient, last: int) -> list[int]:
    """What arrives, up to this number."""
    found: list[int] = []
    while not found or found[-1] != last:
        message = await client.message()
        if message["type"] == 1:
            found.append(message["arguments"][0])
    return found


async def slow_and_reporter(host: HubHost) -> tuple[HubClient, HubClient]:
    return await host.connect(lockstep=True), await host.connect()


async def test_a_slow_client_is_closed_by_default() -> None:
    async with hosting(NewsHub, config=CONFIG) as host:
        slow, reporter = await slow_and_reporter(host)
        await publish(reporter, 40)
        await settle()
        assert await slow.frame() is not None  # what was on its way
        while await slow.frame() is not None:
            pass
        assert slow.close_code is None
        assert host.endpoints["/hub"].dropped == 0


async def test_it_may_lose_the_newest_broadcasts_instead() -> None:
    async with hosting(NewsHub, config=CONFIG, slow_client="drop_newest") as host:
        slow, reporter = await slow_and_reporter(host)
        await publish(reporter, 40)
        found = []
        while not found or host.endpoints["/hub"].dropped + len(found) < 40:
            found.append((await slow.message())["arguments"][0])
        assert found == list(range(len(found)))
        assert 15 <= len(found) <= 21
        assert (await slow.call("Echo", "alive"))["result"] == "alive"
        await publish(reporter, 1)
        assert (await slow.message())["arguments"][0] == 0


async def test_it_may_lose_the_oldest_broadcasts_instead() -> None:
    async with hosting(NewsHub, config=CONFIG, slow_client="drop_oldest") as host:
        slow, reporter = await slow_and_reporter(host)
        await publish(reporter, 60)
        found = await numbers(slow, 59)
        assert found == sorted(set(found))
        assert len(found) + host.endpoints["/hub"].dropped == 60
        assert found[-15:] == list(range(45, 60)), "the newest are there"
        assert (await slow.call("Echo", "alive"))["result"] == "alive"


async def test_answers_are_not_dropped_and_keep_their_place() -> None:
    async with hosting(NewsHub, config=CONFIG, slow_client="drop_oldest") as host:
        slow, reporter = await slow_and_reporter(host)
        await publish(reporter, 30)
        await slow.invoke("Echo", "kept")
        await settle()
        await publish(reporter, 30)
        answers = []
        while True:
            message = await slow.message()
            if message["type"] == 3:
                answers.append(message["result"])
            elif message["arguments"][0] == 29 and answers:
                break
        assert answers == ["kept"]


def test_a_backlog_drops_the_oldest_that_may_be_dropped() -> None:
    backlog = Backlog(3)
    assert backlog.put(b"a", droppable=True) == 0
    assert backlog.put(b"B", droppable=False) == 0
    assert backlog.put(b"c", droppable=True) == 0
    assert backlog.put(b"d", droppable=True) == 1
    assert backlog.put(b"e", droppable=True) == 1
    assert [backlog.take() for _ in range(len(backlog))] == [b"B", b"d", b"e"]
    assert backlog.size == 0
    assert backlog.put(b"FOUR", droppable=False) == 0
    assert backlog.size == 4, "what may not be dropped is kept; the caller closes"


def test_a_policy_that_there_is_not_is_an_error_of_the_start() -> None:
    with pytest.raises(ConfigError, match=r"signalr\.slow_client"):
        HubEndpoint(NewsHub, "/hub", slow_client="wait")
