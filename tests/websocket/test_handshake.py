"""What an application may say before a WebSocket is accepted: authorize, origins, settings of a path."""

import pytest

from engine.config import Config
from engine.errors import ConfigError, HTTPError, LocalProtocolError
from engine.http.response import Response
from engine.websocket.connection import WebSocket
from engine.websocket.endpoint import WebSocketEndpoint
from engine.websocket.handshake import Handshake
from tests.websocket.fake_exchange import GOOD_FIELDS, FakeExchange
from tests.wire.websocket.client_frames import BINARY, TEXT, close_frame, frame, server_frames


async def nothing(ws: WebSocket) -> None:
    pass


def asked(*fields: tuple[bytes, bytes], early: bytes = close_frame(1000)) -> FakeExchange:
    exchange = FakeExchange(fields=[*GOOD_FIELDS, *fields])
    exchange.early = early
    return exchange


def header(exchange: FakeExchange, name: bytes) -> list[bytes]:
    return [value for key, value in exchange.response_fields if key == name]


# -- authorize ------------------------------------------------------------------


async def test_authorize_sees_the_request_and_shapes_the_answer() -> None:
    async def authorize(handshake: Handshake) -> None:
        assert dict(handshake.headers)[b"cookie"] == b"user=ada"
        assert (handshake.path_params, handshake.offered_subprotocols) == ({"room": "1"}, ("x", "y"))
        assert (handshake.subprotocol, handshake.origin) == ("x", None)
        handshake.subprotocol = "y"
        handshake.add_header("Set-Cookie", "seen=1")
        handshake.state.user = "ada"

    async def handler(ws: WebSocket) -> None:
        found.append((ws.subprotocol, ws.state.user, ws.path_params))

    found: list[object] = []
    exchange = asked((b"cookie", b"user=ada"), (b"sec-websocket-protocol", b"x, y"))
    await WebSocketEndpoint(handler, subprotocols=("x",), authorize=authorize).serve(exchange, {"room": "1"})
    assert found == [("y", "ada", {"room": "1"})]
    assert header(exchange, b"set-cookie") == [b"seen=1"]
    assert header(exchange, b"sec-websocket-protocol") == [b"y"]


async def test_authorize_refuses_with_a_response_or_an_error() -> None:
    async def with_response(handshake: Handshake) -> Response:
        return Response("who are you?", 401, {"www-authenticate": "Bearer"})

    async def with_error(handshake: Handshake) -> None:
        raise HTTPError(403, "not you", [("x-why", "because")])

    exchange = asked()
    await WebSocketEndpoint(nothing, authorize=with_response).serve(exchange, {})
    assert (exchange.status, exchange.take_sent()) == (401, b"who are you?")
    assert header(exchange, b"www-authenticate") == [b"Bearer"]
    exchange = asked()
    await WebSocketEndpoint(nothing, authorize=with_error).serve(exchange, {})
    assert (exchange.status, exchange.take_sent()) == (403, b"not you\n")
    assert header(exchange, b"x-why") == [b"because"]


async def test_a_refusal_that_clients_would_take_for_success_is_an_error() -> None:
    async def authorize(handshake: Handshake) -> Response:
        return Response("fine?")

    with pytest.raises(ConfigError, match="300"):
        await WebSocketEndpoint(nothing, authorize=authorize).serve(asked(), {})


async def test_a_server_that_begins_to_stop_meanwhile_refuses_with_503() -> None:
    async def authorize(handshake: Handshake) -> None:
        exchange.draining = True

    exchange = asked()
    await WebSocketEndpoint(nothing, authorize=authorize).serve(exchange, {})
    assert exchange.status == 503


def a_handshake() -> Handshake:
    exchange = FakeExchange()
    return Handshake(exchange.head, exchange.peer, {}, ("a",), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("Sec-WebSocket-Protocol", "x"),
        ("Connection", "close"),
        ("x", "a\r\nb: c"),
        ("x", "\0"),
        ("x", "\u20ac"),
    ],
)
def test_a_header_that_the_answer_cannot_have_is_refused(name: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        a_handshake().add_header(name, value)


def test_a_subprotocol_that_was_not_offered_cannot_be_chosen() -> None:
    handshake = a_handshake()
    handshake.subprotocol = "a"
    handshake.subprotocol = None
    with pytest.raises(LocalProtocolError, match="offered"):
        handshake.subprotocol = "b"


# -- origins --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (None, b"https://evil.example", 101),
        ("https://good.example", b"https://good.example", 101),
        (["https://good.example"], b"HTTPS://GOOD.example", 101),
        (["https://good.example"], b"https://good.example.evil.example", 403),
        (["https://good.example"], b"null", 403),
        (["https://good.example"], None, 101),
        ("same-origin", b"http://example.com", 101),
        ("same-origin", b"https://example.com", 403),
        ("same-origin", b"same-origin", 403),
        ((), b"http://example.com", 403),
    ],
)
async def test_only_pages_of_the_given_origins_may_connect(
    origins: list[str] | str | None, origin: bytes | None, status: int
) -> None:
    exchange = asked(*([(b"origin", origin)] if origin is not None else []))
    await WebSocketEndpoint(nothing, origins=origins).serve(exchange, {})
    assert exchange.status == status


async def test_two_origins_are_none_that_is_allowed() -> None:
    exchange = asked((b"origin", b"http://a.example"), (b"origin", b"http://a.example"))
    await WebSocketEndpoint(nothing, origins="http://a.example").serve(exchange, {})
    assert exchange.status == 403


@pytest.mark.parametrize("origin", ["good.example", "https://good.example/", "*", ""])
def test_what_is_no_origin_is_a_config_error(origin: str) -> None:
    with pytest.raises(ConfigError, match="origins"):
        WebSocketEndpoint(nothing, origins=[origin])


# -- settings of a path ---------------------------------------------------------


async def test_compression_is_agreed_on_and_used() -> None:
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    hello = bytes.fromhex("f248cdc9c90700")
    exchange = asked(
        (b"sec-websocket-extensions", b"x, permessage-deflate; server_max_window_bits=10"),
        early=frame(TEXT, hello, rsv=4) + close_frame(1000),
    )
    await WebSocketEndpoint(echo, compression_threshold=1).serve(exchange, {})
    assert header(exchange, b"sec-websocket-extensions") == [b"permessage-deflate; server_max_window_bits=10"]
    sent = exchange.take_sent()
    assert sent[0] == 0xC1
    assert sent[2 : 2 + sent[1]] == hello


@pytest.mark.parametrize("options", [{"compression": False}, {"frames": True}])
async def test_a_path_can_do_without_compression(options: dict[str, bool]) -> None:
    exchange = asked((b"sec-websocket-extensions", b"permessage-deflate"))
    await WebSocketEndpoint(nothing, **options).serve(exchange, {})
    assert header(exchange, b"sec-websocket-extensions") == []


async def test_settings_of_a_path_go_before_the_servers() -> None:
    async def read(ws: WebSocket) -> None:
        await ws.receive()

    for size, answer in ((10, []), (11, [b"\x03\xf1"])):
        exchange = FakeExchange(Config().replace(websocket__max_message_size=1000))
        exchange.early = frame(BINARY, bytes(size)) + close_frame(1000)
        await WebSocketEndpoint(read, max_message_size=10).serve(exchange, {})
        found = [payload[:2] for _, payload in server_frames(exchange.take_sent())]
        assert found in (answer, [b"\x03\xe8"])


@pytest.mark.parametrize("settings", [{"max_size": 1}, {"max_message_size": 0}, {"slow_consumer": "wait"}])
def test_an_unknown_or_bad_setting_is_a_config_error(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        WebSocketEndpoint(nothing, **settings)
