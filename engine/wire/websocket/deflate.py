"""Compression of single messages: permessage-deflate (RFC 7692).

Owns: which offer of a client is accepted and how, and the two streams of a connection that agreed on
it. Knows nothing of frames. Inflating is bounded by the caller and never makes more than it allows.

Theory of operation. A message is a run of DEFLATE blocks without the four bytes `00 00 ff ff` of the
empty block that ends it. With context takeover both ends keep one zlib stream for all messages, so
that a message can refer back to earlier ones; without, each message has a stream of its own. zlib
objects are made when the first message needs them: a connection without compressed messages holds none.

A sender may also end blocks for good (BFINAL, section 7.2.3.4): zlib's stream is over then, although
neither the message nor the context has to be. So an `Inflater` remembers the last window of what it
made, and goes on with a new stream that has it as its dictionary.

What is compressed for many connections at once refers to nothing before it, so any of them can read it
whatever its context; their own streams begin anew behind it (`Deflater.forget`).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from engine.config import WebSocketConfig
from engine.wire.websocket.extensions import Offer

NAME = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1: removed from the end of every message
EMPTY_BLOCK = b"\x00"  # and TAIL: what ends a message whose last byte was flushed before (7.2.3.6)

_MAX_FINAL_BLOCKS = 64  # of one message: each costs a new stream, and no sender that is known uses more than one
_MAX_REMEMBERED = 256  # pieces before they are joined
_WINDOW_BITS = frozenset(str(bits) for bits in range(8, 16))  # "without leading zeroes" (7.1.2.1)


class InflateError(Exception):
    """What a peer sent is not what DEFLATE makes."""


class OutOfRoom(Exception):
    """A message inflates to more than it may."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The four parameters, as agreed (RFC 7692 section 7.1).

    Attributes:
        server_takeover: the server's messages may refer to earlier ones.
        client_takeover: the client's may.
        server_window_bits: how far back, as a power of two; 8 to 15.
        client_window_bits: the same for the client.
    """

    server_takeover: bool = True
    client_takeover: bool = True
    server_window_bits: int = 15
    client_window_bits: int = 15


def negotiate(offers: Iterable[Offer], config: WebSocketConfig) -> tuple[Agreement, str] | None:
    """Accept the first offer that can be, as the server.

    Returns:
        What is agreed, and the element of Sec-WebSocket-Extensions that says so; None where nothing is.
    """
    if config.compression:
        for offer in offers:
            accepted = _accept(offer, config) if offer.name == NAME else None
            if accepted is not None:
                return accepted
    return None


def _accept(offer: Offer, config: WebSocketConfig) -> tuple[Agreement, str] | None:
    """None for an offer that must be declined (RFC 7692 section 7.1)."""
    given = dict(offer.parameters)
    if len(given) != len(offer.parameters):
        return None  # "contains multiple extension parameters with the same name"
    for key, value in given.items():
        if key in ("server_no_context_takeover", "client_no_context_takeover"):
            valid = value is None
        elif key == "server_max_window_bits":
            valid = value in _WINDOW_BITS
        elif key == "client_max_window_bits":
            valid = value is None or value in _WINDOW_BITS
        else:
            valid = False
        if not valid:
            return None
    server_takeover = config.server_context_takeover and "server_no_context_takeover" not in given
    client_takeover = config.client_context_takeover and "client_no_context_takeover" not in given
    server_bits, client_bits = config.server_window_bits, 15
    answer = [NAME]
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    asked = given.get("server_max_window_bits")
    if asked is not None:
        server_bits = min(server_bits, int(asked))
        answer.append(f"server_max_window_bits={server_bits}")
    # A client that does not name client_max_window_bits cannot be told to use fewer (section 7.1.2.2).
    if "client_max_window_bits" in given:
        client_bits = min(config.client_window_bits, int(given["client_max_window_bits"] or 15))
        if client_bits < 15:
            answer.append(f"client_max_window_bits={client_bits}")
    return Agreement(server_takeover, client_takeover, server_bits, client_bits), "; ".join(answer)


class Inflater:
    """What a peer compressed, in order.

    Args:
        window_bits: how far back the peer refers, as agreed.
        takeover: the next message may refer to this one.
    """

    __slots__ = ("_final_blocks", "_recent", "_recent_size", "_stream", "_takeover", "_window_bits")

    def __init__(self, window_bits: int, *, takeover: bool) -> None:
        self._window_bits = max(window_bits, 9)  # zlib senders asked for 8 use 9
        self._takeover = takeover
        self._stream: zlib._Decompress | None = None
        self._recent: deque[bytes] = deque()  # at least the last window of output, where there was so much
        self._recent_size = 0
        self._final_blocks = 0  # in this message

    def inflate(self, data: bytes, room: int) -> bytes:
        """What `data`, any part of a message, inflates to.

        Raises:
            OutOfRoom: that is more than `room` bytes; little more were made.
            InflateError: it is not compressed data.
        """
        made: list[bytes] = []
        while data:
            stream = self._stream
            if stream is None:
                stream = self._stream = zlib.decompressobj(-self._window_bits, self._window())
            try:
                piece = stream.decompress(data, room + 1)
            except zlib.error:
                raise InflateError("compressed data that cannot be inflated") from None
            room -= len(piece)
            if room < 0:
                raise OutOfRoom
            if piece:
                made.append(piece)
                self._remember(piece)
            if not stream.eof:
                break
            data = stream.unused_data
            self._stream = None
            self._final_blocks += 1
            if self._final_blocks > _MAX_FINAL_BLOCKS:
                raise InflateError(f"more than {_MAX_FINAL_BLOCKS} final blocks in a compressed message")
        return made[0] if len(made) == 1 else b"".join(made)

    def finish(self, room: int) -> bytes:
        """The rest of the message, which is complete now.

        Raises:
            OutOfRoom: more than `room` bytes.
            InflateError: it ends in the middle of something.
        """
        rest = self.inflate(TAIL, room)
        self._final_blocks = 0
        if not self._takeover:
            self._stream = None
            self._recent.clear()
            self._recent_size = 0
        return rest

    def _remember(self, piece: bytes) -> None:
        window, recent = 1 << self._window_bits, self._recent
        if len(piece) >= window:
            recent.clear()
            self._recent_size = 0
            piece = piece[-window:]
        recent.append(piece)
        self._recent_size += len(piece)
        while self._recent_size - len(recent[0]) >= window:
            self._recent_size -= len(recent.popleft())
        if len(recent) > _MAX_REMEMBERED:
            joined = b"".join(recent)[-window:]
            recent.clear()
            recent.append(joined)
            self._recent_size = len(joined)

    def _window(self) -> bytes:
        return b"".join(self._recent)[-(1 << self._window_bits) :]


class Deflater:
    """Compresses messages of ours.

    Args:
        window_bits: how far back to refer, as agreed; 8 to 15.
        takeover: messages refer to earlier ones.
        level: zlib's, 0 to 9.
        memory_level: zlib's, 1 to 9.
    """

    __slots__ = ("_level", "_memory_level", "_stream", "_takeover", "_window_bits")

    def __init__(self, window_bits: int, *, takeover: bool, level: int, memory_level: int) -> None:
        self._window_bits = window_bits
        self._takeover = takeover
        self._level = level
        self._memory_level = memory_level
        self._stream: zlib._Compress | None = None

    @property
    def kind(self) -> tuple[int, int, int]:
        """Deflaters of the same kind make the same of a message that refers to nothing before it."""
        return self._window_bits, self._level, self._memory_level

    def compress(self, data: bytes) -> bytes:
        """A whole message."""
        stream = self._stream or self._new_stream()
        compressed = stream.compress(data)
        flushed = stream.flush(zlib.Z_SYNC_FLUSH)
        self._stream = stream if self._takeover else None
        if not flushed:
            return EMPTY_BLOCK  # nothing since the last flush
        return compressed + flushed[: -len(TAIL)]

    def compress_fragment(self, data: bytes) -> bytes:
        """A part of a message, complete as far as it goes; `finish` ends the message."""
        stream = self._stream = self._stream or self._new_stream()
        return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """The last fragment of a message."""
        if not self._takeover:
            self._stream = None
        return EMPTY_BLOCK

    def compress_alone(self, data: bytes) -> bytes:
        """A whole message that any peer with the same parameters can read, whatever came before."""
        stream = self._new_stream()
        return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)[: -len(TAIL)]

    def forget(self) -> None:
        """Refer to nothing that was sent up to now."""
        self._stream = None

    def _new_stream(self) -> zlib._Compress:
        # zlib makes no streams with windows of 2^8. One that only repeats the last byte never refers
        # further back than that (Z_RLE).
        bits, strategy = max(self._window_bits, 9), zlib.Z_DEFAULT_STRATEGY
        if self._window_bits == 8:
            strategy = zlib.Z_RLE
        return zlib.compressobj(self._level, zlib.DEFLATED, -bits, self._memory_level, strategy)
