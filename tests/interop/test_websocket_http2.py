"""WebSockets over HTTP/2 (RFC 8441) with h2 and wsproto as the client."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from h2.connection import ConnectionState
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def server():
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


class Client:
    """One HTTP/2 connection with WebSockets on it, by stream."""

    def __init__(self, server: ServerProcess) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        self.h2.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.websockets: dict[int, Connection] = {}
        self.events: defaultdict[int, list[Event]] = defaultdict(list)
        self.pieces: defaultdict[int, list[str | bytes]] = defaultdict(list)
        self.ended: dict[int, str] = {}
        self.acknowledge = True
        self._unread = b""
        self.read_until(lambda: self.h2.remote_settings.enable_connect_protocol == 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def open(self, path: str = "/echo", *, deflate: bool = False, version: str = "13", **fields: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "x", ":path": path}
        head["sec-websocket-version"] = version
        extension = PerMessageDeflate()
        if deflate:
            head["sec-websocket-extensions"] = f"permessage-deflate; {extension.offer()}"
        head.update({f"sec-websocket-{name}": value for name, value in fields.items()})
        self.h2.send_headers(stream, list(head.items()))
        self.read_until(lambda: stream in self.heads)
        if deflate:
            extension.finalize(self.heads[stream]["sec-websocket-extensions"])
        self.websockets[stream] = Connection(ConnectionType.CLIENT, [extension] if deflate else [])
        return stream

    def send(self, stream: int, event: Event) -> None:
        """As far as the windows go; more is sent when they open."""
        data = self.websockets[stream].send(event)
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room:
                self.h2.send_data(stream, data[:room])
                data = data[room:]
            else:
                self._read()

    def receive(self, stream: int) -> Event:
        self.read_until(lambda: self.events[stream])
        return self.events[stream].pop(0)

    def read_until(self, condition) -> None:
        while not condition():
            self._read()
        self.socket.sendall(self.h2.data_to_send())

    def _read(self) -> None:
        self.socket.sendall(self.h2.data_to_send())
        data = self.socket.recv(65536)
        assert data, "the server closed the connection"
        for event in self._events_of(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                if self.acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._collect(event.stream_id, event.data)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended[event.stream_id] = "ended"
            elif isinstance(event, h2.events.StreamReset):
                self.ended[event.stream_id] = f"reset {event.error_code}"

    def _events_of(self, data: bytes) -> Iterator[h2.events.Event]:
        """Frame by frame: h2 calls a connection closed at the first GOAWAY, where streams go on (RFC 9113 6.8)."""
        self._unread += data
        while len(self._unread) >= 9:
            length = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < length:
                return
            frame, self._unread = self._unread[:length], self._unread[length:]
            yield from self.h2.receive_data(frame)
            if self.h2.state_machine.state is ConnectionState.CLOSED:
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN

    def _collect(self, stream: int, data: bytes) -> None:
        websocket = self.websockets.get(stream)
        if websocket is None or not data:
            return
        websocket.receive_data(data)
        for event in websocket.events():
            if isinstance(event, TextMessage | BytesMessage):
                pieces = self.pieces[stream]
                pieces.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if not event.message_finished:
                    continue
                event = type(event)(pieces[0][:0].join(pieces))
                pieces.clear()
            self.events[stream].append(event)


def test_many_websockets_share_a_connection(server: ServerProcess) -> None:
    with Client(server) as client:
        streams = [client.open(deflate=bool(number % 2)) for number in range(50)]
        for turn in range(3):
            for stream in streams:
                client.send(stream, TextMessage(f"{stream} says {turn} " * 20))
            for stream in reversed(streams):
                assert client.receive(stream) == TextMessage(f"{stream} says {turn} " * 20)


def test_the_head_has_what_was_agreed_and_nothing_of_http_1(server: ServerProcess) -> None:
    with Client(server) as client:
        stream = client.open(deflate=True, protocol="x, b")
        head = client.heads[stream]
        assert (head[":status"], head["sec-websocket-protocol"]) == ("200", "b")
        assert head["sec-websocket-extensions"].startswith("permessage-deflate")
        assert not {"connection", "upgrade", "sec-websocket-accept"} & set(head)


@pytest.mark.parametrize(("path", "version", "status"), [("/echo", "8", "426"), ("/nope", "13", "404")])
def test_a_refusal_leaves_the_connection_usable(server: ServerProcess, path: str, version: str, status: str) -> None:
    with Client(server) as client:
        refused = client.open(path, version=version)
        assert client.heads[refused][":status"] == status
        stream = client.open()
        client.send(stream, TextMessage("still here"))
        assert client.receive(stream) == TextMessage("still here")


def test_a_message_larger_than_every_window_goes_both_ways(server: ServerProcess) -> None:
    message = bytes(range(256)) * 12_000  # 3 MB
    with Client(server) as client:
        stream, other = client.open(), client.open()
        client.send(stream, BytesMessage(message))
        client.send(other, Ping(b"here"))
        assert client.receive(other) == Pong(b"here")
        assert client.receive(stream) == BytesMessage(message)


def test_a_websocket_whose_peer_reads_nothing_stops_no_other(server: ServerProcess) -> None:
    with Client(server) as client:
        client.h2.increment_flow_control_window(10_000_000)
        stuck, other = client.open(), client.open()
        client.acknowledge = False
        client.send(stuck, BytesMessage(bytes(300_000)))  # its echo waits for the stream's window
        for turn in range(20):
            client.send(other, TextMessage(str(turn)))
            assert client.receive(other) == TextMessage(str(turn))
        assert not client.events[stuck]


def test_the_stream_ends_behind_the_close_frame(server: ServerProcess) -> None:
    with Client(server) as client:
        stream, other = client.open(), client.open()
        client.send(stream, CloseConnection(4000, "done"))
        closed = client.receive(stream)
        assert isinstance(closed, CloseConnection)
        assert closed.code == 4000
        client.read_until(lambda: stream in client.ended)
        assert client.ended[stream] == "ended"
        client.send(other, TextMessage("on"))
        assert client.receive(other) == TextMessage("on")


def test_a_protocol_error_is_answered_by_a_close_frame_and_the_end(server: ServerProcess) -> None:
    with Client(server) as client:
        stream = client.open()
        client.h2.send_data(stream, b"\x83\x80\0\0\0\0")
        closed = client.receive(stream)
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1002
        client.read_until(lambda: stream in client.ended)


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_stream_that_its_client_gives_up_ends_alone(server: ServerProcess, how: str) -> None:
    with Client(server) as client:
        stream, other = client.open(), client.open()
        client.send(stream, TextMessage("x"))
        assert client.receive(stream) == TextMessage("x")
        if how == "end":
            client.h2.end_stream(stream)
            client.read_until(lambda: stream in client.ended)
        else:
            client.h2.reset_stream(stream, 8)
        for _ in range(3):
            client.send(other, TextMessage("on"))
            assert client.receive(other) == TextMessage("on")


def test_a_drain_closes_every_websocket_with_1001() -> None:
    server = ServerProcess("examples.conformance:app")
    with Client(server) as client:
        streams = [client.open() for _ in range(3)]
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for stream in streams:
            closed = client.receive(stream)
            assert isinstance(closed, CloseConnection)
            assert closed.code == 1001
            client.send(stream, closed.response())
        client.read_until(lambda: set(streams) <= set(client.ended))
    stopping.join()
    assert server.process.returncode == 0


def test_a_broadcast_waits_for_the_windows_of_a_slow_stream(start_engine) -> None:
    server = start_engine("examples.websocket_chat:app")
    with Client(server) as client, Client(server) as slow:
        stream = client.open("/rooms/a")
        late = slow.open("/rooms/a")
        for number in range(8):
            client.send(stream, TextMessage(f"{number}" * 90_000))
            while client.receive(stream) != TextMessage(f"{number}" * 90_000):
                pass
        found = []
        while found[-1:] != ["7"]:
            event = slow.receive(late)
            assert isinstance(event, TextMessage)
            found.append(event.data[0])
        assert found[-8:] == list("01234567")
