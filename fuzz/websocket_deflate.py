"""A WebSocket core with compression: any bytes, however cut, give the same events within the limits.

The first byte seeds the chunking and chooses what was agreed on, the rest is what a client sends. Where
every message has its context, the messages must be those that `websockets` makes of the same bytes.
"""

from __future__ import annotations

import zlib
from codecs import getincrementaldecoder
from random import Random

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import DATA_OPCODES, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from engine.config import WebSocketConfig
from engine.wire.websocket.core import WebSocketCore
from engine.wire.websocket.deflate import Agreement, Deflater, InflateError, Inflater
from engine.wire.websocket.events import ConnectionFailed, Event
from fuzz.websocket_core import _frame

LIMIT = 4096

_one = Deflater(12, takeover=True, level=6, memory_level=5)
_FIRST, _SECOND = _one.compress(b"hello hello hello"), _one.compress(b"hello hello")
_BOMB = Deflater(15, takeover=False, level=9, memory_level=9).compress(bytes(200_000))

SEEDS: list[bytes] = [
    b"\x00" + _frame(0xC1, _FIRST) + _frame(0xC1, _SECOND) + _frame(0x81, b"plain"),
    b"\x01" + _frame(0x41, _FIRST[:3]) + _frame(0x89, b"ping") + _frame(0x80, _FIRST[3:]) + _frame(0xC2, _SECOND),
    b"\x02" + _frame(0xC2, bytes.fromhex("f348cdc9c9070000")) + _frame(0xC2, bytes.fromhex("f200110000")),
    b"\x03" + _frame(0xC2, _BOMB),
    b"\x04" + _frame(0xC1, b"\x00\x02\x00\xfd\xff\xc3\x28") + _frame(0xC1, b"\x00"),
    b"\x05" + _frame(0xC2, b"\x03\x00" * 200),
    b"\x06" + _frame(0x41, _FIRST) + _frame(0xC1, _SECOND),
    b"\x07" + _frame(0xC1, b"\xff\xff\xff") + _frame(0xE1, b"x") + _frame(0xC9, b"x"),
]


def _with_core(chunks: list[bytes], agreed: Agreement) -> tuple[list[Event], int | None]:
    core = WebSocketCore(WebSocketConfig(max_message_size=LIMIT, max_fragments=64), agreed)
    found: list[Event] = []
    failed = None
    for chunk in chunks:
        core.receive_data(chunk)
        while (event := core.next_event()) is not None:
            assert failed is None, "an event after the failure"
            if isinstance(event, ConnectionFailed):
                failed = event.code
            else:
                found.append(event)
    for event in found:
        if isinstance(event, str | bytes):
            assert len(event.encode() if isinstance(event, str) else event) <= LIMIT, "beyond the limit"
    if core._inflater is not None:
        assert core._inflater._recent_size <= LIMIT * 64 + 2**16, "too much is remembered"
    return found, failed


def _with_websockets(data: bytes, agreed: Agreement) -> list[str | bytes] | None:
    """The messages; None where anything went wrong, and where it and we may differ by right."""
    protocol = ServerProtocol(state=State.OPEN, max_size=None)
    deflate = PerMessageDeflate(False, False, agreed.client_window_bits, 12)
    protocol.extensions = [deflate]
    protocol.receive_data(data)
    messages: list[str | bytes] = []
    pieces: list[bytes] = []
    text = False
    for frame in protocol.events_received():
        if frame.opcode not in DATA_OPCODES:
            if frame.opcode is Opcode.CLOSE:
                return None
            continue
        text = frame.opcode is Opcode.TEXT if frame.opcode is not Opcode.CONT else text
        pieces.append(bytes(frame.data))
        if frame.fin:
            whole = b"".join(pieces)
            pieces.clear()
            try:
                messages.append(str(whole, "utf-8") if text else whole)
            except UnicodeDecodeError:
                return None
    try:
        getincrementaldecoder("utf-8")().decode(b"".join(pieces) if text else b"")  # of a message that is not complete
    except UnicodeDecodeError:
        return None
    # websockets takes a final block for the end of all messages, where RFC 7692 section 7.2.3.4 does not.
    # It reads frames whole, where we find a mistake in the part that is there.
    if isinstance(protocol.parser_exc, ProtocolError | PayloadTooBig) or deflate.decoder.eof or protocol.reader.buffer:
        return None
    return messages


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    if not data:
        return
    random, stream = Random(data[0]), data[1:]
    agreed = Agreement(client_takeover=not data[0] & 8, client_window_bits=15 - (data[0] >> 4) % 4)
    chunks, rest = [], stream
    while rest:
        size = random.choice((1, 2, 3, 5, 17, 64, 1024))
        chunks.append(rest[:size])
        rest = rest[size:]
    whole = _with_core([stream], agreed)
    assert whole == _with_core(chunks, agreed), "chunks change the outcome"
    if whole[1] in (None, 1007) and agreed.client_takeover:
        reference = _with_websockets(stream, agreed)
        ours = [event for event in whole[0] if isinstance(event, str | bytes)]
        if reference is not None:
            assert whole == (whole[0], None), "refused, where websockets finds nothing wrong"
            assert ours == reference, f"websockets differs: {ours} {reference}"

    # Any bytes survive the way through both streams, whole or in fragments.
    bits = 8 + data[0] % 8
    deflater = Deflater(bits, takeover=agreed.client_takeover, level=6, memory_level=5)
    inflater = Inflater(bits, takeover=agreed.client_takeover)
    cut = len(stream) // 2
    for _ in range(2):
        for compressed in (
            deflater.compress(stream),
            deflater.compress_fragment(stream[:cut]) + deflater.compress_fragment(stream[cut:]) + deflater.finish(),
        ):
            made = inflater.inflate(compressed, len(stream))
            assert made + inflater.finish(len(stream) - len(made)) == stream

    # A final block ends neither the context, nor does what follows it survive without one.
    first, second = zlib.compressobj(wbits=-15), zlib.compressobj(wbits=-15, zdict=stream)
    ended = first.compress(stream) + first.flush(zlib.Z_FINISH) + b"\0"
    referring = second.compress(stream) + second.flush(zlib.Z_SYNC_FLUSH)[:-4]
    for takeover in (True, False):
        inflater, room = Inflater(15, takeover=takeover), len(stream) + 1
        assert inflater.inflate(ended, room) + inflater.finish(room) == stream
        try:
            made: bytes | None = inflater.inflate(referring, room) + inflater.finish(room)
        except InflateError:
            made = None
        if takeover or len(stream) >= 16:
            assert (made == stream) is takeover, "the context is not what was agreed"
