"""A client's core takes any bytes alike however they are cut, and the two cores understand each other.

The first byte of an input chooses the compression, the second how the bytes are cut. The rest goes to a
client's core as what a server sent; then it is read as a script of what each end sends to the other.
"""

from __future__ import annotations

from wsproto.connection import ConnectionType

from engine.config import WebSocketConfig
from engine.wire.websocket.client_frames import mask_control, masked_frame
from engine.wire.websocket.core import State, WebSocketCore
from engine.wire.websocket.deflate import Agreement
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, MessagePart, Ping, Pong
from engine.wire.websocket.frames import any_frame, control_frame, unmask
from fuzz.websocket_core import with_wsproto

_CONFIG = WebSocketConfig(max_message_size=4096, max_fragments=64, compression_threshold=3)
_AGREEMENTS = [None, Agreement(), Agreement(False, False, 9, 8), Agreement(True, False, 15, 12)]
_KEY = b"\x37\xfa\x21\x3d"

SEEDS: list[bytes] = [
    b"\x00\x00\x81\x05hello\x82\x02hi\x89\x00\x8a\x01x\x88\x02\x03\xe8",
    b"\x00\x01\x01\x01a\x89\x01p\x00\x01b\x80\x01c",
    b"\x00\x02\x81\x85\x00\x00\x00\x00hello",
    b"\x01\x03\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\xc1\x05\xf2\x00\x11\x00\x00",
    b"\x02\x07\x82\x7e\x00\x80" + b"x" * 128,
    b"\x03\x01\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\x01\x05\x00\x10\x41\x20\x82\x30\xc3\x04abcdefgh",
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    agreed = _AGREEMENTS[data[0] % len(_AGREEMENTS)] if data else None
    step = data[1] % 8 + 1 if len(data) > 1 else 1
    _receive_alike(data[2:], agreed, step)
    _talk(data[2:], agreed, step)


def _receive_alike(data: bytes, agreed: Agreement | None, step: int) -> None:
    found = []
    for size in (len(data) or 1, step):
        core = WebSocketCore(_CONFIG, agreed, masking_key=lambda: _KEY)
        for start in range(0, len(data), size):
            core.receive_data(data[start : start + size])
        core.receive_eof()
        # zlib finds a mistake before it gives out what comes in front of it: the code is the same, not the text.
        events = [
            (each.code if isinstance(each, ConnectionFailed) and agreed else repr(each)) for each in _events(core)
        ]
        found.append((events, core.state))
        answer = core.data_to_send()
        while answer:
            length = answer[1] & 0x7F
            assert answer[0] & 0x88 == 0x88, "only control frames are sent by the core itself"
            assert answer[1] & 0x80, "a client masks"
            payload = unmask(answer[6 : 6 + length], answer[2:6])
            assert mask_control(control_frame(answer[0] & 0x0F, payload), answer[2:6]) == answer[: 6 + length]
            answer = answer[6 + length :]
    assert found[0] == found[1], "the events depend on how the bytes were cut"
    if agreed is None:
        _receive_as_wsproto(data)


def _receive_as_wsproto(data: bytes) -> None:
    """Where no limit is in the way, wsproto's client has the same messages, and finds the same wrong."""
    core = WebSocketCore(WebSocketConfig(max_message_size=1 << 63, max_fragments=1 << 30), masking_key=lambda: _KEY)
    core.receive_data(data)
    events = _events(core)
    messages, closed, failed = with_wsproto(data, ConnectionType.CLIENT)
    ours = [each for each in events if isinstance(each, str | bytes)]
    assert ours == [each for each in messages if isinstance(each, str | bytes)], "wsproto has other messages"
    last = events[-1] if events else None
    code = last.code if isinstance(last, CloseReceived | ConnectionFailed) else None
    if code != 1014 and "reason of a close frame" not in str(core.failure):  # a code that wsproto does not know yet
        assert code == (closed if failed is None else failed), "wsproto ends otherwise"


def _talk(data: bytes, agreed: Agreement | None, step: int) -> None:
    """Each byte: who sends (1 bit), what (2 bits), how much (5 bits)."""
    client = WebSocketCore(_CONFIG, agreed, masking_key=lambda: _KEY)
    server = WebSocketCore(_CONFIG, agreed)
    for position, byte in enumerate(data[:64]):
        sender, receiver = (client, server) if byte & 1 else (server, client)
        content = (data[position : position + 16] * 8)[: (byte >> 3) * 4]
        message: str | bytes = content.decode("latin-1") if byte & 2 else content
        if byte & 4:
            half = len(message) // 2
            wire = sender.send_fragment(message[:half], first=True)
            sender.send_ping(content[:8])
            wire += sender.data_to_send() + sender.send_fragment(message[half:], first=False) + sender.finish_message()
        else:
            wire = sender.send_message(message)
        for start in range(0, len(wire), step):
            receiver.receive_data(wire[start : start + step])
        got = [event for event in _events(receiver) if not isinstance(event, Ping | Pong | MessagePart)]
        assert got == [message], "what was sent is not what arrived"
        sender.receive_data(receiver.data_to_send())
        assert all(isinstance(event, Pong) for event in _events(sender))
    client.send_close(1000, "")
    server.receive_data(client.data_to_send())
    assert _events(server) == [CloseReceived(1000, "")]
    client.receive_data(server.data_to_send())
    assert not any(isinstance(event, ConnectionFailed) for event in _events(client))
    assert client.state is server.state is State.CLOSED
    header = masked_frame(0x82, data[:200], _KEY)[: -len(data[:200]) or None]
    assert header[:1] + bytes((header[1] & 0x7F,)) == any_frame(0x82, data[:200])[:2]


def _events(core: WebSocketCore) -> list[object]:
    found = []
    while (event := core.next_event()) is not None:
        found.append(event)
    return found
