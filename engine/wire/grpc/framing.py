"""Length-prefixed messages: bytes of a request or response body to messages, and back.

Owns the five bytes before each message: a flag and a big-endian length. Never decodes a message;
decompressing one is `engine.wire.grpc.compression`'s. Spec: grpc/grpc doc/PROTOCOL-HTTP2.md,
"Length-Prefixed-Message".

Theory of operation. DATA frame edges mean nothing: a message may be split anywhere, several may share
a frame. `MessageParser` therefore keeps the chunk that it walks, and while a message is incomplete the
pieces of it. Pieces are joined once, so that a payload is copied once however it was cut; pieces too
small to be worth an object of their own are gathered, so that a message sent byte by byte costs its
own size in memory and not fifty times that. The length is judged as soon as the prefix is there:
nothing of an oversize message is kept.
"""

from __future__ import annotations

import struct

from engine.errors import LimitExceeded, LimitKind, LocalProtocolError, RpcError, StatusCode
from engine.wire.grpc.compression import decompress

PREFIX_SIZE = 5
COMPRESSED = 1  # bit 0 of the flag byte; all others are reserved in gRPC over HTTP/2

_MAX_LENGTH = 2**32 - 1
_SMALL = 1024  # bytes of a piece below which copying is cheaper than keeping it
_JOIN_BELOW = 4096  # bytes of payload below which one joined write is cheaper than two

_prefix = struct.Struct(">BI")
_pack = _prefix.pack
_unpack_from = _prefix.unpack_from


class MessageParser:
    """Body bytes in, messages out, however the bytes are cut.

    Feed it with `receive_data` and `receive_eof`, and take messages until `next_message` gives None;
    then `failure` says whether the peer broke the framing and `ended` whether the end was clean.
    Messages that were complete before a broken one are still delivered.

    Args:
        max_size: the largest message that is accepted, bytes; compressed and decompressed.
        encoding: how messages with the compressed flag are decompressed; None: such a flag is an error.
    """

    __slots__ = ("_at", "_data", "_encoding", "_eof", "_missing", "_pieces", "compressed", "failure", "max_size")

    def __init__(self, max_size: int, encoding: str | None = None) -> None:
        self.max_size = max_size
        self._encoding = encoding
        self.compressed = False
        """The flag of the message that was taken last."""
        self._data = b""  # the chunk being walked
        self._at = 0  # how far
        self._pieces: list[bytes | bytearray | memoryview] = []  # of a message that is not complete
        self._missing = 0  # bytes until it is
        self._eof = False
        self.failure: RpcError | None = None
        """What ended the parsing: later input is discarded, no further message comes."""

    @property
    def ended(self) -> bool:
        """The body ended between two messages and every message has been taken."""
        return self._eof and self.failure is None and not self._pieces and self._at == len(self._data)

    # -- receiving ------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the body."""
        if self.failure is not None or self._eof or not data:
            return
        if self._at == len(self._data):
            self._data, self._at = data, 0
        else:
            self._data, self._at = self._data[self._at :] + data, 0
        if self._pieces and self._missing > len(self._data):
            self._keep_piece()

    def receive_eof(self) -> None:
        """The body is complete (END_STREAM)."""
        self._eof = True

    # -- getting messages -----------------------------------------------------

    def next_message(self) -> bytes | None:
        """The next whole message, or None: more bytes are needed, or see `failure` and `ended`."""
        if self.failure is not None:
            return None
        if self._pieces:
            return self._finish_message()
        data, at = self._data, self._at
        start = at + PREFIX_SIZE
        if start > len(data):
            if self._eof and at < len(data):
                self._truncated()
            return None
        flag, size = _unpack_from(data, at)
        if (flag or size > self.max_size) and self._refuses(flag, size):
            return None
        self.compressed = flag == COMPRESSED
        end = start + size
        if end <= len(data):
            self._at = end
            message = data[start:end]
            return self._decompress(message) if flag else message
        self._at = start
        self._missing = size
        self._keep_piece()
        return self._finish_message()

    @property
    def has_message(self) -> bool:
        """`next_message` would give one, or fail to decompress it."""
        if self.failure is not None:
            return False
        available = len(self._data) - self._at
        if self._pieces:
            return available >= self._missing
        if available < PREFIX_SIZE:
            return False
        flag, size = _unpack_from(self._data, self._at)
        if flag and (flag != COMPRESSED or self._encoding is None):
            return False
        return bool(size <= self.max_size and available >= PREFIX_SIZE + size)

    # -- private --------------------------------------------------------------

    def _keep_piece(self) -> None:
        """Put what is left of the chunk, all of it part of the message, aside."""
        rest = len(self._data) - self._at
        pieces = self._pieces
        if rest >= _SMALL:
            pieces.append(memoryview(self._data)[self._at :] if self._at else self._data)
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += self._data[self._at :]
        else:
            pieces.append(bytearray(self._data[self._at :]))
        self._missing -= rest
        self._data, self._at = b"", 0

    def _finish_message(self) -> bytes | None:
        if len(self._data) - self._at < self._missing:
            if self._eof:
                self._truncated()
            return None
        end = self._at + self._missing
        self._pieces.append(memoryview(self._data)[self._at : end])
        message = b"".join(self._pieces)
        self._at, self._missing = end, 0
        self._pieces = []
        return self._decompress(message) if self.compressed else message

    def _decompress(self, data: bytes) -> bytes | None:
        assert self._encoding is not None  # else the flag was refused
        message = decompress(self._encoding, data, self.max_size)
        if isinstance(message, RpcError):
            self._fail(message.code, message.message)
            return None
        return message

    def _refuses(self, flag: int, size: int) -> bool:
        """Judge a prefix that is not plain; True: the parsing has failed."""
        if flag > COMPRESSED:
            self._fail(StatusCode.INTERNAL, f"the message flag must be 0 or 1, not {flag}; is the framing lost?")
        elif flag and self._encoding is None:
            # doc/compression.md: "If the Compressed-Flag is set and no grpc-encoding is present, INTERNAL".
            self._fail(StatusCode.INTERNAL, "the compressed flag is set on a message, but grpc-encoding names no codec")
        elif size > self.max_size:
            limit = LimitExceeded(
                "grpc.max_receive_message_size",
                self.max_size,
                size,
                kind=LimitKind.MESSAGE_SIZE,
                what="a message",
            )
            self._fail(StatusCode.RESOURCE_EXHAUSTED, str(limit))
        else:
            return False
        return True

    def parse_single(self, body: bytes) -> bytes | None:
        """The message of a body that is exactly one plain message within the limit, else None.

        The fast path of unary calls, to be asked before anything was received; whatever gives None is
        for the parser itself to judge.
        """
        return parse_single(body, self.max_size)

    def _truncated(self) -> None:
        self._fail(StatusCode.INTERNAL, "the stream ended inside a message; send as many bytes as its prefix says")

    def _fail(self, code: StatusCode, message: str) -> None:
        self.failure = RpcError(code, message)
        self._data, self._at = b"", 0
        self._pieces = []


def parse_single(body: bytes, max_size: int) -> bytes | None:
    """The message of a body that is exactly one plain message within the limit, else None."""
    if len(body) < PREFIX_SIZE:
        return None
    flag, size = _unpack_from(body)
    if flag or size > max_size or size != len(body) - PREFIX_SIZE:
        return None
    return body[PREFIX_SIZE:]


# -- sending --------------------------------------------------------------------


def prefix(size: int, *, compressed: bool = False) -> bytes:
    """The five bytes before a message of `size` bytes.

    Raises:
        LocalProtocolError: the length does not fit into 32 bits.
    """
    if size > _MAX_LENGTH:
        raise LocalProtocolError(f"a message of {size} bytes does not fit a gRPC frame; stream it in smaller messages")
    return _pack(COMPRESSED if compressed else 0, size)


def frame(message: bytes, *, compressed: bool = False) -> tuple[bytes, ...]:
    """The pieces that put one message on the wire, in order; a large payload is not copied."""
    head = prefix(len(message), compressed=compressed)
    if len(message) < _JOIN_BELOW:
        return (head + message,)
    return (head, message)
