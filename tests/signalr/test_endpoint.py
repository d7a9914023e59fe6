"""A hub's paths over HTTP: negotiate, tokens, status codes, options."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConfigError, LimitExceeded
from engine.signalr.endpoint import HubEndpoint
from engine.signalr.hub import Hub
from engine.signalr.tokens import Tickets
from engine.wire.signalr.negotiate import TransportKind
from tests.signalr.hub_peer import HubHost, hosting


class EchoHub(Hub):
    async def echo(self, value: Any) -> Any:
        return value

    async def my_id(self) -> str:
        return self.context.connection_id

    async def transport(self) -> str:
        return self.context.transport


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def ask(host: HubHost, line: str, headers: str = "") -> tuple[int, str, str]:
    response = await host.request(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{headers}\r\n")
    head, _, body = response.partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


async def test_the_token_addresses_the_connection_and_the_id_does_not() -> None:
    async with hosting(EchoHub) as host:
        offer = await host.negotiate()
        assert list(offer) == ["negotiateVersion", "connectionId", "connectionToken", "availableTransports"]
        assert offer["connectionId"] != offer["connectionToken"]
        assert (await ask(host, f"GET /hub?id={offer['connectionId']}", UPGRADE))[0] == 404
        client = await host.connect(f"/hub?id={offer['connectionToken']}")
        assert (await client.call("MyId"))["result"] == offer["connectionId"]
        assert (await client.call("Transport"))["result"] == "WebSockets"


async def test_in_version_0_the_id_is_the_token() -> None:
    async with hosting(EchoHub) as host:
        offer = await host.negotiate(query="")
        assert "connectionToken" not in offer
        client = await host.connect(f"/hub?id={offer['connectionId']}")
        assert (await client.call("MyId"))["result"] == offer["connectionId"]


async def test_a_client_may_skip_the_negotiation() -> None:
    async with hosting(EchoHub) as host:
        client = await host.connect()
        assert len((await client.call("MyId"))["result"]) == 22


async def test_requests_to_an_open_connection_are_refused_and_it_lives() -> None:
    async with hosting(EchoHub) as host:
        token = (await host.negotiate())["connectionToken"]
        client = await host.connect(f"/hub?id={token}")
        status, head, body = await ask(host, f"GET /hub?id={token}", UPGRADE)
        assert (status, body) == (409, "")
        assert "content-type: text/plain" in head
        status, _, body = await ask(host, f"POST /hub?id={token}")
        assert (status, body) == (405, "POST requests are not allowed for WebSocket connections.")
        status, _, body = await ask(host, f"DELETE /hub?id={token}")
        assert (status, body) == (400, "Cannot terminate this connection using the DELETE endpoint.")
        for headers in ("", "Accept: text/event-stream\r\n"):
            status, head, body = await ask(host, f"GET /hub?id={token}", headers)
            assert (status, body) == (400, "Cannot change transports mid-connection")
            assert ("cache-control: no-cache, no-store" in head) == (not headers)
        assert (await client.call("Echo", 1))["result"] == 1
        await client.close()
        await client.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(host, f"GET /hub?id={token}", UPGRADE))[0] == 404


async def test_transports_that_are_off_are_404_for_a_negotiated_connection() -> None:
    async with hosting(EchoHub, transports=("WebSockets",)) as host:
        token = (await host.negotiate())["connectionToken"]
        _, _, body = await ask(host, f"GET /hub?id={token}")
        assert body == "LongPolling transport not supported by this end point type"
        status, _, body = await ask(host, f"GET /hub?id={token}", "Accept: text/event-stream, */*\r\n")
        assert (status, body) == (404, "ServerSentEvents transport not supported by this end point type")


async def test_a_broken_upgrade_is_refused_before_the_token_is_spent() -> None:
    async with hosting(EchoHub) as host:
        token = (await host.negotiate())["connectionToken"]
        status, head, _ = await ask(host, f"GET /hub?id={token}", UPGRADE.replace("13", "12"))
        assert status == 426
        assert "sec-websocket-version: 13" in head
        assert (await host.connect(f"/hub?id={token}")) is not None


async def test_what_was_negotiated_and_not_opened_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(EchoHub) as host:
        early = (await host.negotiate())["connectionToken"]
        await trio.sleep(10)
        late = (await host.negotiate())["connectionToken"]
        await trio.sleep(5.1)
        assert (await ask(host, f"GET /hub?id={early}", UPGRADE))[0] == 404
        client = await host.connect(f"/hub?id={late}")
        await trio.sleep(100)
        for _ in range(6):
            assert await client.record() == '{"type":6}'
        assert (await client.call("Echo", 1))["result"] == 1


async def test_negotiated_connections_are_bounded() -> None:
    async with hosting(EchoHub, max_negotiated=2) as host:
        for _ in range(2):
            await host.negotiate()
        status, _, body = await ask(host, "POST /hub/negotiate")
        assert status == 503
        assert "signalr.max_negotiated (2)" in body


async def test_options_differ_by_mount() -> None:
    async with hosting(EchoHub, max_message_size=100) as host:
        host.mount(EchoHub, "/big", max_message_size=2_000_000)
        small, big = await host.connect("/hub"), await host.connect("/big")
        assert (await big.call("Echo", "x" * 1_500_000))["result"] == "x" * 1_500_000
        await small.invoke("Echo", "x" * 100)
        assert (await small.message())["type"] == 7


def test_a_wrong_hub_is_an_error_of_the_start() -> None:
    class NeedsArguments(Hub):
        def __init__(self, database: object) -> None: ...

    with pytest.raises(ConfigError, match=r"derive it from engine\.Hub"):
        HubEndpoint(str, "/hub")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without arguments"):
        HubEndpoint(NeedsArguments, "/hub")
    with pytest.raises(ConfigError, match="no_such_option"):
        HubEndpoint(EchoHub, "/hub", no_such_option=1)
    with pytest.raises(ConfigError, match=r"signalr\.max_groups"):
        HubEndpoint(EchoHub, "/hub", max_groups=0)


async def test_the_servers_settings_apply_where_a_mount_has_none() -> None:
    async with hosting(EchoHub, config=Config().replace(signalr__max_message_size=80)) as host:
        client = await host.connect()
        await client.invoke("Echo", "x" * 80)
        assert (await client.message())["type"] == 7


# -- tickets -------------------------------------------------------------------


def test_tickets_expire_unless_they_were_opened() -> None:
    tickets = Tickets(lifetime=15, limit=10)
    waiting, opened = tickets.issue(0, secret=True), tickets.issue(1, secret=False)
    assert opened.token == opened.connection_id
    assert len({waiting.token, waiting.connection_id}) == 2
    tickets.open(opened, TransportKind.WEB_SOCKETS)
    assert tickets.find(waiting.token, 14.9) is waiting
    assert tickets.find(waiting.token, 15) is None
    assert tickets.find(opened.token, 1000) is opened
    tickets.close(opened)
    assert tickets.find(opened.token, 1000) is None
    assert len(tickets) == 0


def test_the_limit_is_of_those_that_wait() -> None:
    tickets = Tickets(lifetime=15, limit=1)
    tickets.open(tickets.issue(0, secret=True), TransportKind.WEB_SOCKETS)
    tickets.open_new(TransportKind.WEB_SOCKETS)
    tickets.issue(0, secret=True)
    with pytest.raises(LimitExceeded):
        tickets.issue(14, secret=True)
    tickets.issue(15, secret=True)


def test_ids_have_22_characters_and_differ() -> None:
    tickets = Tickets(lifetime=15, limit=1000)
    seen = {tickets.issue(0, secret=True).token for _ in range(100)}
    assert len(seen) == 100
    assert {len(each) for each in seen} == {22}
