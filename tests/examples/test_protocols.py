"""The custom protocols of the examples, on ports that are free."""

from __future__ import annotations

import struct
from collections.abc import Callable

import trio

from engine import App, Config, StreamProtocol, serve
from engine.cli import welcome
from engine.server import Server
from examples import line_protocol, market_feed

QUIET = Config().replace(server__port=0)


async def dial(nursery: trio.Nursery, app: App, factory: Callable[[], StreamProtocol]) -> trio.SocketStream:
    app.protocol(0, factory)
    server: Server = await nursery.start(serve, app, QUIET)
    host, _, port = server.protocol_addresses["0"][0].rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def test_the_line_protocol_answers_each_line(nursery: trio.Nursery) -> None:
    stream = await dial(nursery, App(), line_protocol.LineProtocol)
    await stream.send_all(b"set a 1\nget a\nget b\nwhat\nqu")
    await stream.send_all(b"it\n")
    answers = b"".join([bytes(data) async for data in stream])
    assert answers == b"ok\n1\nnothing\nerror say: set KEY VALUE, get KEY or quit\nbye\n"
    await stream.aclose()
    assert [route.address for route in line_protocol.app.protocols] == ["7000"]


def test_serve_prints_a_command_for_each_protocol() -> None:
    lines = welcome.lines("x:app", ["http://127.0.0.1:1"], [], {"7000": ["[::1]:7000"], "unix:/a": ["/a"]})
    assert lines[1:3] == ["  protocol   nc ::1 7000", "  protocol   nc -U /a"]


async def test_the_market_feed_sends_what_was_asked_for(nursery: trio.Nursery) -> None:
    stream = await dial(nursery, App(lifespan=market_feed.lifespan), market_feed.FeedProtocol)
    await stream.send_all(b"AAAACC")
    await stream.send_all(b"CC")
    data, seen = b"", set()
    while seen != {b"AAAA", b"CCCC"}:
        data += await stream.receive_some(4096)
        seen = {symbol for symbol, _, _ in struct.iter_unpack(">4sId", data[: len(data) // 16 * 16])}
    sequences = [number for _, number, _ in struct.iter_unpack(">4sId", data[: len(data) // 16 * 16])]
    assert sequences == sorted(sequences)
    await stream.aclose()
