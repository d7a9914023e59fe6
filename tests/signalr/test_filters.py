"""Filters around methods, life-cycle and what is sent; checks of who may call; limits on rate."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio.testing

from engine.errors import HubError
from engine.signalr.filters import HubFilter, HubInvocation, OutgoingMessage
from engine.signalr.hub import Hub, HubCallerContext, authorize
from tests.signalr.hub_peer import hosting


class PlainHub(Hub):
    def now(self, x: Any) -> Any:
        return x

    async def later(self, x: int) -> int:
        return x

    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    async def tell(self, text: str) -> None:
        await self.clients.caller.send("News", text)

    async def ask(self) -> Any:
        return await self.clients.caller.invoke("Ask", 1)


class Log(HubFilter):
    """Writes down what passes, and in which order."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self.lines = lines

    async def invoke(self, invocation: HubInvocation, call: Any) -> Any:
        self.lines.append(f"{self.name}>{invocation.method}{list(invocation.arguments)}")
        result = await call(invocation)
        self.lines.append(f"{self.name}<{invocation.method}")
        return result

    async def on_connected(self, hub: Hub, call: Any) -> None:
        self.lines.append(f"{self.name} connected {len(hub.context.connection_id)}")
        await call(hub)

    async def on_disconnected(self, hub: Hub, error: Exception | None, call: Any) -> None:
        self.lines.append(f"{self.name} disconnected {error}")
        await call(hub, error)

    async def send(self, message: OutgoingMessage, call: Any) -> Any:
        self.lines.append(f"{self.name} sends {message.method} {message.wants_result}")
        return await call(message)


async def test_the_first_filter_is_the_outermost() -> None:
    lines: list[str] = []
    async with hosting(PlainHub, filters=[Log("a", lines), HubFilter(), Log("b", lines)]) as host:
        client = await host.connect()
        assert (await client.call("Now", 1))["result"] == 1
        assert (await client.call("Later", 2))["result"] == 2
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
    assert lines == [
        "a connected 22", "b connected 22",
        "a>Now[1]", "b>Now[1]", "b<Now", "a<Now",
        "a>Later[2]", "b>Later[2]", "b<Later", "a<Later",
        "a disconnected None", "b disconnected None",
    ]  # fmt: skip


async def test_a_filter_changes_arguments_and_results() -> None:
    class Double(HubFilter):
        async def invoke(self, invocation: HubInvocation, call: Any) -> Any:
            changed = dataclasses.replace(invocation, arguments=(invocation.arguments[0] * 2,))
            return f"<{await call(changed)}>"

    async with hosting(PlainHub, filters=[Double()]) as host:
        client = await host.connect()
        assert (await client.call("Later", 2))["result"] == "<4>"


async def test_a_filter_refuses_with_a_hub_error() -> None:
    class Refuse(HubFilter):
        async def invoke(self, invocation: HubInvocation, call: Any) -> Any:
            raise HubError("not now")

    async with hosting(PlainHub, filters=[Refuse()]) as host:
        client = await host.connect()
        assert (await client.call("Later", 2))["error"].endswith("HubException: not now")
        await client.invoke("Count", 2, kind=4)
        assert (await client.message())["error"].endswith("HubException: not now")


async def test_a_filter_wraps_the_items_of_a_stream() -> None:
    class Tenfold(HubFilter):
        async def invoke(self, invocation: HubInvocation, call: Any) -> Any:
            items = await call(invocation)
            if not invocation.is_stream:
                return items

            async def wrapped() -> AsyncIterator[int]:
                async for item in items:
                    yield item * 10

            return wrapped()

    async with hosting(PlainHub, filters=[Tenfold()]) as host:
        client = await host.connect()
        await client.invoke("Count", 2, kind=4)
        assert [(await client.message()).get("item") for _ in range(3)] == [0, 10, None]


async def test_what_is_sent_passes_the_filters() -> None:
    class Shout(HubFilter):
        async def send(self, message: OutgoingMessage, call: Any) -> Any:
            if message.method == "Secret":
                return None
            arguments = tuple(str(each).upper() for each in message.arguments)
            return await call(dataclasses.replace(message, arguments=arguments))

    async with hosting(PlainHub, filters=[Shout()]) as host:
        client = await host.connect()
        await client.invoke("Tell", "hi")
        assert (await client.message())["arguments"] == ["HI"]
        assert (await client.message())["type"] == 3
        context = host.endpoints["/hub"].context
        await context.clients.all.send("Secret", 1)
        await context.clients.all.send("Open", "x")
        assert (await client.message())["arguments"] == ["X"]


async def test_a_client_result_passes_the_filters_as_well() -> None:
    lines: list[str] = []
    async with hosting(PlainHub, filters=[Log("a", lines)]) as host:
        client = await host.connect()
        await client.invoke("Ask")
        asked = await client.message()
        await client.send(json.dumps({"type": 3, "invocationId": asked["invocationId"], "result": 5}) + "\x1e")
        assert (await client.message())["result"] == 5
    assert "a sends Ask True" in lines


async def test_an_error_of_a_filter_on_connect_closes_the_connection() -> None:
    class Refuse(HubFilter):
        async def on_connected(self, hub: Hub, call: Any) -> None:
            raise HubError("full")

    async with hosting(PlainHub, filters=[Refuse()]) as host:
        client = await host.connect()
        message = await client.message()
        assert message == {"type": 7, "error": "Connection closed with an error. HubException: full"}


# -- who may call -----------------------------------------------------------------


def is_boss(context: HubCallerContext) -> bool:
    return context.user_id == "boss"


def broken(context: HubCallerContext) -> bool:
    raise KeyError("no such claim")


@authorize(lambda context: context.user_id is not None)
class GuardedHub(Hub):
    def everybody(self) -> str:
        return "in"

    @authorize(is_boss)
    async def boss(self) -> str:
        return "boss"

    @authorize(broken)
    def never(self) -> None: ...

    @authorize(is_boss)
    async def stream(self) -> AsyncIterator[int]:
        yield 1


def user_of(head: Any) -> str | None:
    value = head.header(b"x-user")
    return None if value is None else value.decode()


@pytest.mark.parametrize(
    ("user", "method", "allowed"),
    [
        (None, "Everybody", False),
        ("ada", "Everybody", True),
        ("ada", "Boss", False),
        ("boss", "Boss", True),
        ("boss", "Never", False),
    ],
)
async def test_checks_of_the_class_and_of_the_method_must_hold(
    user: str | None, method: str, allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with hosting(GuardedHub, user_id=user_of) as host:
        client = await host.connect(**({} if user is None else {"X_User": user}))
        answer = await client.call(method)
        if allowed:
            assert "error" not in answer
        else:
            assert answer["error"] == f"Failed to invoke '{method}' because user is unauthorized"


async def test_streams_are_checked_as_well() -> None:
    async with hosting(GuardedHub, user_id=user_of) as host:
        client = await host.connect(X_User="ada")
        await client.invoke("Stream", kind=4)
        assert (await client.message())["error"] == "Failed to invoke 'Stream' because user is unauthorized"


# -- limits -----------------------------------------------------------------------


async def test_the_rate_of_invocations_is_limited_and_recovers(autojump_clock: Any) -> None:
    async with hosting(PlainHub, invocation_rate=10, invocation_burst=2) as host:
        client = await host.connect()
        answers = [await client.call(name, 1) for name in ("Now", "Later", "Now", "Unknown")]
        assert ["error" in each for each in answers] == [False, False, True, True]
        assert "rate of invocations exceeds signalr.invocation_rate (10)" in answers[2]["error"]
        await trio.sleep(0.1)
        assert (await client.call("Now", 1))["result"] == 1


async def test_a_client_that_does_not_answer_is_given_up(autojump_clock: Any) -> None:
    async with hosting(PlainHub, client_result_timeout=5) as host:
        client = await host.connect()
        await client.invoke("Ask")
        asked = await client.message()
        started = trio.current_time()
        error = (await client.message())["error"]
        assert "the client's answer to Ask exceeds signalr.client_result_timeout (5)" in error
        assert trio.current_time() - started == pytest.approx(5)
        await client.send(json.dumps({"type": 3, "invocationId": asked["invocationId"], "result": 5}) + "\x1e")
        assert (await client.call("Now", 1))["result"] == 1
