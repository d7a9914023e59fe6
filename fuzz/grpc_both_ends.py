"""The client's core against the server's: what calls send arrives, whole and in order, under any windows and cuts.

The first bytes of an input choose the client's stream window, the server's and the cuts; each further byte lets one
of four calls send a message in one direction, whose size and content it decides.
"""

from __future__ import annotations

from engine.config import Http2Config
from engine.wire.grpc import metadata, status
from engine.wire.grpc.framing import MessageParser, frame
from engine.wire.http2 import (
    ConnectionFailed,
    DataReceived,
    Http2Core,
    RequestReceived,
    ResponseReceived,
    TrailersReceived,
)

CALLS = 4
MAX_MESSAGES = 80
MAX_SIZE = 1 << 20
_HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))

SEEDS: list[bytes] = [b"\x00\x00\x00", b"\x01\x00\x03\x08\x0c\xff", b"\xff\x20\x00" + bytes(range(256)), b"\x7c" * 80]


class _Call:
    """What was said on one stream, and what was heard."""

    def __init__(self) -> None:
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])  # by the client, by the server
        self.heard: tuple[list[bytes], list[bytes]] = ([], [])  # by the server, by the client
        self.parsers = (MessageParser(MAX_SIZE), MessageParser(MAX_SIZE))
        self.ended = [False, False]
        self.metadata: list[object] = []
        self.code: object = None


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    first, second, cut = (data[at] if len(data) > at else 0 for at in range(3))
    client = Http2Core(Http2Config(stream_window=65_535 + 500 * first), client=True)
    server = Http2Core(Http2Config(stream_window=65_535 + 500 * second))
    step = 40 * cut + 20
    client.initiate()
    server.initiate()
    calls: dict[int, _Call] = {}
    _exchange(client, server, calls, step)
    for number in range(CALLS):
        stream_id = client.next_stream_id()
        calls[stream_id] = _Call()
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), (b":authority", b"a")]
        sent = [("x-number", str(number)), ("x-bin", bytes([number, 255]))]
        client.send_headers(stream_id, [*fields, (b"te", b"trailers"), *metadata.encode(sent)])
    _exchange(client, server, calls, step)
    streams = list(calls)
    for stream_id in streams:
        server.send_headers(stream_id, _HEAD)
    for index, byte in enumerate(data[3 : 3 + MAX_MESSAGES]):
        stream_id, direction = streams[byte % CALLS], byte // CALLS % 2
        message = bytes([index % 256]) * (byte * byte % 9000)
        calls[stream_id].sent[direction].append(message)
        for piece in frame(message):
            (client, server)[direction].send_data(stream_id, piece)
        if byte & 128:  # now and then several messages leave together
            _exchange(client, server, calls, step)
    for number, stream_id in enumerate(streams):
        client.send_data(stream_id, b"", end_stream=True)
        _exchange(client, server, calls, step)
        server.send_trailers(stream_id, status.trailers(status.StatusCode(number), " text\n", max_message_size=100))
    _exchange(client, server, calls, step)
    for number, call in enumerate(calls.values()):
        assert call.heard == call.sent, "messages were lost, doubled or changed"
        assert call.ended == [True, True]
        assert all(parser.ended for parser in call.parsers)
        assert call.metadata == [("x-number", str(number)), ("x-bin", bytes([number, 255]))]
        assert call.code == (number, " text\n")
    assert client.open_streams == server.open_streams == 0


def _exchange(client: Http2Core, server: Http2Core, calls: dict[int, _Call], step: int) -> None:
    """Carry bytes to and fro, in pieces, until nobody has any."""
    while True:
        moved = False
        for sender, receiver, direction in ((client, server, 0), (server, client, 1)):
            wire = sender.data_to_send()
            moved = moved or bool(wire)
            for start in range(0, len(wire), step):
                receiver.receive_data(wire[start : start + step], 0.0)
                _hear(receiver, calls, direction)
        if not moved:
            return


def _hear(core: Http2Core, calls: dict[int, _Call], direction: int) -> None:
    while (event := core.next_event()) is not None:
        assert not isinstance(event, ConnectionFailed), event
        if isinstance(event, RequestReceived):
            decoded = metadata.decode(event.headers)
            assert isinstance(decoded, metadata.Metadata)
            calls[event.stream_id].metadata = list(decoded)
        elif isinstance(event, ResponseReceived):
            assert event.headers == _HEAD[1:]
        elif isinstance(event, DataReceived):
            call = calls[event.stream_id]
            parser = call.parsers[direction]
            parser.receive_data(event.data)
            core.consumed(event.stream_id, event.flow_length)
            while (message := parser.next_message()) is not None:
                call.heard[direction].append(message)
            assert parser.failure is None
            if event.end_stream:
                _end(call, direction)
        elif isinstance(event, TrailersReceived):
            fields = dict(event.headers)
            call = calls[event.stream_id]
            code = status.decode_status(fields[b"grpc-status"])
            call.code = (code, status.decode_message(fields[b"grpc-message"]) if code else " text\n")
            _end(call, direction)


def _end(call: _Call, direction: int) -> None:
    call.parsers[direction].receive_eof()
    call.ended[direction] = True
