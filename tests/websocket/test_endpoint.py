"""The opening handshake over an exchange, and what the end of a handler means."""

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, HTTPError
from engine.transport.exchange import CancelReason
from engine.transport.watchdog import Watchdog
from engine.websocket.connection import WebSocket
from engine.websocket.endpoint import WebSocketEndpoint
from tests.websocket.fake_exchange import GOOD_FIELDS, FakeExchange
from tests.wire.websocket.client_frames import CLOSE, TEXT, close_frame, frame, server_frame, server_frames


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def close_code(exchange: FakeExchange) -> int:
    opcode, payload = server_frames(exchange.take_sent())[-1]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big")


# -- the opening handshake ------------------------------------------------------


async def test_an_upgrade_is_accepted_and_data_behind_it_is_not_lost() -> None:
    # wsproto drops what came in the packet of the handshake
    exchange = FakeExchange()
    exchange.early = frame(TEXT, b"early") + close_frame(1000)
    await WebSocketEndpoint(echo).serve(exchange, {})
    assert exchange.status == 101
    assert exchange.response_fields == [(b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]
    assert (exchange.max_body, exchange.min_body_rate) == (math.inf, 0)
    assert server_frames(exchange.take_sent()) == [(TEXT, b"early"), (CLOSE, b"\x03\xe8")]


async def test_an_extended_connect_is_accepted_with_200_and_no_accept_field() -> None:
    fields = [(b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"b")]
    exchange = FakeExchange(method="CONNECT", http_version="2", fields=fields)
    exchange.early = close_frame(1000)
    await WebSocketEndpoint(echo, subprotocols=("a", "b")).serve(exchange, {})
    assert exchange.status == 200
    assert exchange.response_fields == [(b"sec-websocket-protocol", b"b")]


@pytest.mark.parametrize(("offered", "chosen"), [(b"b, a", "a"), (b"x, b", "b"), (b"x", None), (b"", None)])
async def test_the_subprotocol_is_the_handlers_first_that_the_client_offers(offered: bytes, chosen: str | None) -> None:
    seen: list[str | None] = []

    async def handler(ws: WebSocket) -> None:
        seen.append(ws.subprotocol)

    exchange = FakeExchange(fields=[*GOOD_FIELDS, (b"sec-websocket-protocol", offered)])
    exchange.early = close_frame(1000)
    await WebSocketEndpoint(handler, subprotocols=("a", "b")).serve(exchange, {})
    assert seen == [chosen]
    assert dict(exchange.response_fields).get(b"sec-websocket-protocol") == (chosen.encode() if chosen else None)


def test_a_subprotocol_that_is_no_token_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        WebSocketEndpoint(echo, subprotocols=("a b",))


async def test_the_handler_sees_the_request() -> None:
    seen: list[object] = []

    async def handler(ws: WebSocket) -> None:
        seen.extend((ws.path_params["room"], ws.head.path, ws.headers, ws.peer.address))

    exchange = FakeExchange()
    exchange.early = close_frame(1000)
    await WebSocketEndpoint(handler).serve(exchange, {"room": "x"})
    assert seen == ["x", "/", GOOD_FIELDS, "memory"]


@pytest.mark.parametrize(
    ("method", "http_version", "fields", "status", "expected"),
    [
        ("GET", "1.1", [], 426, {b"upgrade": b"websocket", b"sec-websocket-version": b"13"}),
        ("GET", "2", [], 426, {b"sec-websocket-version": b"13"}),
        ("CONNECT", "2", [], 426, {b"sec-websocket-version": b"13"}),
        ("POST", "1.1", GOOD_FIELDS, 405, {b"allow": b"GET"}),
        ("GET", "1.1", [*GOOD_FIELDS, (b"sec-websocket-protocol", b"\xff")], 400, {}),
        ("GET", "1.1", [*GOOD_FIELDS, (b"sec-websocket-extensions", b"\xff")], 400, {}),
        ("GET", "1.1", [*GOOD_FIELDS, (b"connection", b"\xff")], 400, {}),
    ],
)
async def test_refusals_are_plain_responses_with_a_text(
    method: str,
    http_version: str,
    fields: list[tuple[bytes, bytes]],
    status: int,
    expected: dict[bytes, bytes],
) -> None:
    exchange = FakeExchange(method=method, http_version=http_version, fields=fields)
    await WebSocketEndpoint(echo).serve(exchange, {})
    assert exchange.status == status
    headers = dict(exchange.response_fields)
    assert expected.items() <= headers.items()
    assert headers[b"content-length"] == str(len(exchange.sent)).encode()
    assert headers[b"content-type"].startswith(b"text/plain")
    assert {b"date", b"server"} <= headers.keys()
    assert exchange.sent
    assert exchange.response_ended


async def test_a_server_that_stops_accepts_no_more() -> None:
    exchange = FakeExchange()
    exchange.draining = True
    await WebSocketEndpoint(echo).serve(exchange, {})
    assert exchange.status == 503


# -- the end of the handler -----------------------------------------------------


async def test_the_handlers_return_closes_with_1000_and_waits_for_the_peer(nursery: trio.Nursery) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.send("bye")

    exchange = FakeExchange()
    done = trio.Event()

    async def serve() -> None:
        await WebSocketEndpoint(handler).serve(exchange, {})
        done.set()

    nursery.start_soon(serve)
    await trio.testing.wait_all_tasks_blocked()
    assert exchange.sent == server_frame(TEXT, b"bye") + server_frame(CLOSE, b"\x03\xe8")
    assert not done.is_set()
    exchange.deliver(close_frame(1000))
    await done.wait()
    assert exchange.closed


@pytest.mark.parametrize(
    ("error", "detailed", "code", "reason"),
    [
        (ValueError("secret"), False, 1011, b""),
        (ValueError("shown"), True, 1011, b"shown"),
        (HTTPError(403, "no entry"), False, 1008, b"no entry"),
        (ExceptionGroup("of a nursery", [ValueError()]), False, 1011, b""),
        (ConnectionClosed(1006, "another connection"), False, 1011, b""),
    ],
)
async def test_an_error_closes_with_its_code_and_goes_on_to_the_barrier(
    error: Exception, detailed: bool, code: int, reason: bytes
) -> None:
    async def handler(ws: WebSocket) -> None:
        raise error

    exchange = FakeExchange(Config(detailed_errors=detailed))
    endpoint = WebSocketEndpoint(handler)
    with pytest.raises(type(error)) as caught:
        await endpoint.serve(exchange, {})
    endpoint.fail(exchange, caught.value)
    assert server_frames(exchange.take_sent()) == [(CLOSE, code.to_bytes(2, "big") + reason)]
    assert exchange.closed


async def test_an_error_before_the_switch_is_a_plain_response() -> None:
    exchange = FakeExchange()
    WebSocketEndpoint(echo).fail(exchange, ValueError("secret"))
    assert exchange.status == 500
    assert b"secret" not in exchange.sent


async def _ends_by_itself(ws: WebSocket) -> None:
    while True:
        await ws.receive()


async def _ends_in_a_nursery(ws: WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ends_by_itself, ws)
        await trio.sleep_forever()


@pytest.mark.parametrize("handler", [_ends_by_itself, _ends_in_a_nursery])
@pytest.mark.parametrize("data", [close_frame(1000), close_frame(4000), frame(3)])
async def test_what_the_end_of_the_connection_raises_is_no_error(
    handler: Callable[[WebSocket], Awaitable[None]], data: bytes
) -> None:
    exchange = FakeExchange()
    exchange.early = data
    await WebSocketEndpoint(handler).serve(exchange, {})
    assert len(server_frames(exchange.sent)) == 1
    assert exchange.closed


async def test_a_drain_lets_the_closing_handshake_finish(nursery: trio.Nursery) -> None:
    exchange = FakeExchange()
    done = trio.Event()

    async def serve() -> None:
        await WebSocketEndpoint(_ends_by_itself).serve(exchange, {})
        done.set()

    nursery.start_soon(serve)
    await trio.testing.wait_all_tasks_blocked()
    assert exchange.on_draining is not None
    exchange.on_draining()
    await trio.testing.wait_all_tasks_blocked()
    assert close_code(exchange) == 1001
    assert not exchange.closed
    assert not done.is_set()
    exchange.deliver(close_frame(1001))
    await done.wait()


@pytest.mark.parametrize(
    ("reason", "code"),
    [(CancelReason.SHUTDOWN, 1001), (CancelReason.DEADLINE, 1008), (CancelReason.CONNECTION_LOST, None)],
)
async def test_a_cancelled_handler_leaves_a_close_frame_where_one_can_arrive(
    reason: CancelReason, code: int | None, nursery: trio.Nursery
) -> None:
    sockets: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        sockets.append(ws)
        await trio.sleep_forever()

    exchange = FakeExchange()

    async def serve() -> None:
        with exchange.scope:
            await WebSocketEndpoint(handler).serve(exchange, {})

    nursery.start_soon(serve)
    await trio.testing.wait_all_tasks_blocked()
    exchange.cancel(reason)
    await trio.testing.wait_all_tasks_blocked()
    assert exchange.closed
    assert sockets[0].closed is not None
    if code is None:
        assert exchange.sent == b""
        assert sockets[0].closed.code == 1006
    else:
        assert close_code(exchange) == code


async def test_a_peer_that_never_answers_the_close_is_left_after_close_timeout(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    watchdog = Watchdog()
    nursery.start_soon(watchdog.run)

    async def handler(ws: WebSocket) -> None:
        pass

    exchange = FakeExchange(watchdog=watchdog)
    started = trio.current_time()
    await WebSocketEndpoint(handler).serve(exchange, {})
    assert trio.current_time() - started == 5
    assert exchange.closed
