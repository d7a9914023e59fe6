"""Hubs over HTTP/2: all requests of several connections share one, and WebSockets are streams (RFC 8441)."""

from __future__ import annotations

import json
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
import trio.testing

from engine.signalr.hub import Hub
from tests.signalr.hub_peer import CLOSE, JSON_HANDSHAKE, TEXT, HubHost, _parse_frame, client_frame, hosting

settle = trio.testing.wait_all_tasks_blocked


class StreamHub(Hub):
    async def echo(self, value: Any) -> Any:
        return value

    async def transport(self) -> str:
        return self.context.transport


class Http2Peer:
    """One HTTP/2 connection on the h2 library."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    async def start(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        if method == "CONNECT":
            pseudo.append((":protocol", "websocket"))
        fields = [*pseudo, *((name.replace("_", "-"), value) for name, value in headers.items())]
        ends = method != "CONNECT" and body is None
        self.h2.send_headers(stream_id, fields, end_stream=ends)
        self.bodies[stream_id] = b""
        if body is not None:
            self.h2.send_data(stream_id, body, end_stream=True)
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes) -> None:
        self.h2.send_data(stream_id, data)
        await self.flush()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def receive(self) -> None:
        for event in self.h2.receive_data(await self.stream.receive_some()):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.add(event.stream_id)
        await self.flush()

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        stream_id = await self.start(method, path, body, **headers)
        while stream_id not in self.ended:
            await self.receive()
        return int(self.heads[stream_id][":status"]), self.bodies[stream_id].decode("latin-1")

    async def until(self, stream_id: int, ending: bytes) -> str:
        """What has arrived on a stream, once it ends with this; forgotten here."""
        while not self.bodies[stream_id].endswith(ending):
            await self.receive()
        body, self.bodies[stream_id] = self.bodies[stream_id], b""
        return body.decode("latin-1")


async def connect(host: HubHost) -> Http2Peer:
    peer = Http2Peer(await host.open_stream())
    await peer.flush()
    while h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL not in peer.h2.remote_settings:
        await peer.receive()
    return peer


async def target_of(peer: Http2Peer, query: str = "negotiateVersion=1") -> str:
    status, body = await peer.ask("POST", f"/hub/negotiate?{query}", b"")
    assert status == 200
    return f"/hub?id={json.loads(body)['connectionToken']}"


def call(target: str, *arguments: Any) -> bytes:
    return json.dumps({"type": 1, "invocationId": "7", "target": target, "arguments": arguments}).encode() + b"\x1e"


async def test_server_sent_events_and_posts_share_a_connection() -> None:
    async with hosting(StreamHub) as host:
        peer = await connect(host)
        target = await target_of(peer)
        events = await peer.start("GET", target, accept="text/event-stream")
        assert await peer.until(events, b":\r\n") == ":\r\n"
        assert peer.heads[events]["content-type"] == "text/event-stream"
        assert await peer.ask("POST", target, JSON_HANDSHAKE) == (200, "")
        assert await peer.until(events, b"\r\n\r\n") == "data: {}\x1e\r\n\r\n"
        assert await peer.ask("POST", target, call("Transport")) == (200, "")
        assert '"ServerSentEvents"' in await peer.until(events, b"\r\n\r\n")
        peer.h2.reset_stream(events)
        await peer.flush()
        await settle()
        assert (await peer.ask("POST", target, call("Echo")))[0] == 404


async def test_polls_and_posts_share_a_connection_and_a_poll_that_waits_blocks_nothing() -> None:
    async with hosting(StreamHub) as host:
        peer = await connect(host)
        target = await target_of(peer)
        assert await peer.ask("GET", target) == (200, "")
        assert await peer.ask("POST", target, JSON_HANDSHAKE) == (200, "")
        assert await peer.ask("GET", target) == (200, "{}\x1e")
        waiting = await peer.start("GET", target)
        newer = await peer.start("GET", target)
        while waiting not in peer.ended:
            await peer.receive()
        assert peer.heads[waiting][":status"] == "204"
        assert await peer.ask("POST", target, call("Echo", 5)) == (200, "")
        assert '"result":5' in await peer.until(newer, b"\x1e")
        poll = await peer.start("GET", target)
        peer.h2.reset_stream(poll)
        assert await peer.ask("POST", target, call("Echo", "kept")) == (200, "")
        assert '"result":"kept"' in (await peer.ask("GET", target))[1]
        assert (await peer.ask("DELETE", target))[0] == 202
        assert (await peer.ask("GET", target))[0] == 404


async def test_websockets_are_streams_of_one_connection() -> None:
    async with hosting(StreamHub) as host:
        peer = await connect(host)
        sockets = [await peer.start("CONNECT", await target_of(peer), sec_websocket_version="13") for _ in range(2)]
        for number, socket in enumerate(sockets):
            await peer.send(socket, client_frame(TEXT, JSON_HANDSHAKE))
            assert await peer.until(socket, b"\x1e") == "\x81\x03{}\x1e"
            assert peer.heads[socket][":status"] == "200"
            await peer.send(socket, client_frame(TEXT, call("Echo", number)))
            assert f'"result":{number}' in await peer.until(socket, b"\x1e")
        await peer.send(sockets[0], client_frame(CLOSE, b"\x03\xe8"))
        while sockets[0] not in peer.ended:
            await peer.receive()
        frame = _parse_frame(peer.bodies[sockets[0]])
        assert frame is not None
        assert frame[:2] == (CLOSE, b"\x03\xe8")
        await peer.send(sockets[1], client_frame(TEXT, call("Transport")))
        assert '"WebSockets"' in await peer.until(sockets[1], b"\x1e")


async def test_a_reset_stream_is_a_cut_that_can_be_resumed() -> None:
    async with hosting(StreamHub) as host:
        peer = await connect(host)
        target = await target_of(peer, "negotiateVersion=1&useStatefulReconnect=true")
        first = await peer.start("CONNECT", target, sec_websocket_version="13")
        await peer.send(first, client_frame(TEXT, b'{"protocol":"json","version":2}\x1e' + call("Echo", 1)))
        assert '"result":1' in await peer.until(first, b'"result":1}\x1e')
        peer.h2.reset_stream(first)
        second = await peer.start("CONNECT", target, sec_websocket_version="13")
        resumed = await peer.until(second, b'"result":1}\x1e')
        assert '{"type":9,"sequenceId":1}' in resumed


async def test_the_rules_of_refusal_are_those_of_http_1() -> None:
    async with hosting(StreamHub, transports=("LongPolling",)) as host:
        peer = await connect(host)
        refused = await peer.start("CONNECT", "/hub", sec_websocket_version="13")
        text = "WebSockets transport not supported by this end point type"
        assert await peer.until(refused, text.encode()) == text
        assert peer.heads[refused][":status"] == "404"
        assert await peer.ask("GET", "/hub?id=nobody") == (404, "No Connection with that ID")
        assert (await peer.ask("PUT", "/hub"))[0] == 405
