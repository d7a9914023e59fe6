"""Who receives what: all, others, connections, groups, users; and clients that are too slow."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
import trio
import trio.testing

from engine.config import Config, SignalRConfig
from engine.errors import LocalProtocolError
from engine.signalr.binding import HubMethods
from engine.signalr.connection import HubConnection
from engine.signalr.endpoint import PROTOCOLS
from engine.signalr.hub import Hub
from engine.signalr.lifetime import LocalLifetimeManager
from engine.signalr.runtime import HubRuntime
from engine.signalr.transports.websockets import WebSocketTransport
from engine.transport.exchange import RequestHead
from engine.wire.signalr.json import JsonHubProtocol
from tests.signalr.hub_peer import JSON_HANDSHAKE, TEXT, HubClient, HubHost, client_frame, hosting
from tests.websocket.fake_exchange import FakeExchange


class SendHub(Hub):
    async def my_id(self) -> str:
        return self.context.connection_id

    async def my_user(self) -> str | None:
        return self.context.user_id

    async def add(self, connection_id: str, group: str) -> None:
        await self.groups.add(connection_id, group)

    async def remove(self, connection_id: str, group: str) -> None:
        await self.groups.remove(connection_id, group)

    async def to(self, whom: str, arguments: list[Any]) -> None:
        target: Any = getattr(self.clients, whom)
        await (target(*arguments) if arguments else target).send("M", whom)

    async def bulk(self, whom: str, count: int, size: int) -> None:
        target: Any = getattr(self.clients, whom)
        for _ in range(count):
            await target.send("M", "x" * size)


def user_of(head: RequestHead) -> str | None:
    return parse_qs(head.query).get("user", [None])[0]


class Crowd:
    """Some clients, and who of them got a message."""

    def __init__(self, host: HubHost, clients: list[HubClient]) -> None:
        self.host = host
        self.clients = clients
        self.ids: list[str] = []

    async def send(self, sender: int, whom: str, *arguments: Any) -> set[int]:
        """The indices of those who got what the sender sent; nobody may get it twice."""
        client = self.clients[sender]
        await client.invoke("To", whom, list(arguments), invocation_id="send")
        got = set()
        while (message := await client.message())["type"] == 1:
            assert sender not in got
            got.add(sender)
        assert message.get("error") is None, message
        for index, each in enumerate(self.clients):
            if index != sender:
                while (await each.call_or_message())["type"] == 1:
                    assert index not in got
                    got.add(index)
        return got


async def call_or_message(self: HubClient) -> Any:
    """A message that waits, or else the completion of a call that flushes what waits."""
    if not getattr(self, "_asked", False):
        self._asked = True
        await self.invoke("MyUser", invocation_id="flush")
    message = await self.message()
    if message["type"] == 3:
        self._asked = False
    return message


HubClient.call_or_message = call_or_message  # type: ignore[attr-defined]


@pytest.fixture
async def crowd(nursery: trio.Nursery) -> Crowd:
    host = HubHost(nursery, Config())
    host.mount(SendHub, user_id=user_of)
    names = ["ada", "ada", "grace", None]
    clients = [await host.connect("/hub" + (f"?user={name}" if name else "")) for name in names]
    crowd = Crowd(host, clients)
    crowd.ids = [(await each.call("MyId"))["result"] for each in clients]
    return crowd


async def test_all_others_and_exceptions(crowd: Crowd) -> None:
    ids = crowd.ids
    assert await crowd.send(0, "all") == {0, 1, 2, 3}
    assert await crowd.send(0, "others") == {1, 2, 3}
    assert await crowd.send(0, "caller") == {0}
    assert await crowd.send(0, "all_except", [ids[0], ids[2], "nobody"]) == {1, 3}


async def test_single_connections(crowd: Crowd) -> None:
    ids = crowd.ids
    assert await crowd.send(0, "client", ids[2]) == {2}
    assert await crowd.send(0, "client", "nobody") == set()
    assert await crowd.send(0, "clients", [ids[0], ids[3], ids[3], "nobody"]) == {0, 3}


async def test_groups(crowd: Crowd) -> None:
    ids, first = crowd.ids, crowd.clients[0]
    for member, group in ((0, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "b")):
        assert (await first.call("Add", ids[member], group))["result"] is None
    assert await crowd.send(0, "group", "a") == {0, 1}
    assert await crowd.send(3, "group", "A") == set()
    assert await crowd.send(0, "groups", ["a", "b", "a", "none"]) == {0, 1, 2}  # the member of two gets it once
    assert await crowd.send(0, "group_except", "a", [ids[1]]) == {0}
    assert await crowd.send(0, "others_in_group", "a") == {1}
    assert await crowd.send(3, "others_in_group", "a") == {0, 1}
    await first.call("Remove", ids[1], "a")
    await first.call("Remove", ids[1], "a")
    await first.call("Remove", "nobody", "a")
    await first.call("Add", "nobody", "a")
    assert await crowd.send(0, "group", "a") == {0}


async def test_membership_ends_with_the_connection(crowd: Crowd) -> None:
    manager = crowd.host.endpoints["/hub"]._runtime.manager  # type: ignore[union-attr]
    assert isinstance(manager, LocalLifetimeManager)
    await crowd.clients[0].call("Add", crowd.ids[0], "a")
    for client in crowd.clients:
        await client.close()
    await trio.testing.wait_all_tasks_blocked()
    assert (len(manager), manager._groups, manager._users) == (0, {}, {})


async def test_users(crowd: Crowd) -> None:
    assert await crowd.send(3, "user", "ada") == {0, 1}
    assert await crowd.send(3, "user", "Ada") == set()
    assert await crowd.send(0, "users", ["ada", "grace", "grace", "none"]) == {0, 1, 2}
    assert [(await each.call("MyUser"))["result"] for each in crowd.clients] == ["ada", "ada", "grace", None]


async def test_a_string_where_a_list_is_meant_is_noticed(crowd: Crowd) -> None:
    with pytest.raises(TypeError, match="give a list"):
        crowd.host.endpoints["/hub"].context.clients.groups("abc")


async def test_code_outside_of_the_hub_sends_too(crowd: Crowd) -> None:
    endpoint = crowd.host.endpoints["/hub"]
    await endpoint.context.groups.add(crowd.ids[1], "g")
    await endpoint.context.clients.group("g").send("News", 1)
    assert await crowd.clients[1].message() == {"type": 1, "target": "News", "arguments": [1]}


async def test_mounts_do_not_hear_each_other() -> None:
    async with hosting(SendHub) as host:
        host.mount(SendHub, "/other")
        here, there = await host.connect("/hub"), await host.connect("/other")
        await here.invoke("To", "all", [])
        assert (await here.message())["target"] == "M"
        assert await there.is_quiet()


async def test_an_argument_that_cannot_be_encoded_fails_the_sender_only() -> None:
    class BadHub(Hub):
        async def bad(self) -> None:
            await self.clients.all.send("M", object())

    async with hosting(BadHub) as host:
        client, other = await host.connect(), await host.connect()
        assert "error" in await client.call("bad")
        assert await other.is_quiet()


def test_a_hub_object_of_ones_own_is_of_no_use() -> None:
    with pytest.raises(LocalProtocolError):
        _ = SendHub().clients


# -- slow clients --------------------------------------------------------------


async def test_a_client_that_takes_nothing_is_closed_and_nobody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hosting(SendHub, config=Config().replace(server__outbox_size=100_000)) as host:
        await host.connect(lockstep=True)  # it never reads again
        sender, other = await host.connect(), await host.connect()
        manager = host.endpoints["/hub"]._runtime.manager  # type: ignore[union-attr]
        await sender.invoke("Bulk", "others", 200, 1000)
        received = 0
        while received < 200:
            assert (await other.message())["target"] == "M"
            received += 1
        assert (await sender.message())["result"] is None
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(manager, LocalLifetimeManager)
        assert manager.slow_closed == 1
        assert len(manager) == 2
    assert "server.outbox_size" in caplog.text


async def test_a_method_that_sends_to_its_caller_waits_for_it_instead() -> None:
    async with hosting(SendHub, config=Config().replace(server__outbox_size=200_000)) as host:
        client = await host.connect()
        await client.invoke("Bulk", "caller", 1000, 1000)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(1000):
            assert (await client.message())["type"] == 1
        assert (await client.message())["type"] == 3


async def test_a_broadcast_is_encoded_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    original = JsonHubProtocol.invocation

    def counting(self: JsonHubProtocol, target: str, *arguments: Any, **options: Any) -> bytes:
        encoded.append(target)
        return original(self, target, *arguments, **options)

    async with hosting(SendHub) as host:
        clients = [await host.connect() for _ in range(5)]
        monkeypatch.setattr(JsonHubProtocol, "invocation", counting)
        await clients[0].invoke("To", "all", [])
        for client in clients:
            assert (await client.message())["target"] == "M"
    assert encoded == ["M"]


async def test_whoever_has_the_answer_to_its_handshake_misses_nothing() -> None:
    manager, settings = LocalLifetimeManager(), SignalRConfig()
    runtime = HubRuntime("SendHub", SendHub, HubMethods(SendHub, Hub), PROTOCOLS, settings, False, manager)
    exchange = FakeExchange()
    exchange.switch_protocol()
    connection = HubConnection(runtime, exchange.head, "id", None, 1 << 20)
    transport = WebSocketTransport(exchange, settings, connection.receive, lambda closed: None)
    connection.open(transport)
    transport.start()
    exchange.deliver(client_frame(TEXT, JSON_HANDSHAKE))
    assert exchange.take_sent().endswith(b"{}\x1e")
    assert len(manager) == 1, "the answer is out, and a broadcast would miss the client"
    connection.end_of_transport(clean=False)
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.run()
    assert len(manager) == 0, "it ended before its task ran"
