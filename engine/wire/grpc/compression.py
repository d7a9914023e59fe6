"""Compressed messages: the encodings, bounded decompression, and the fields that name them.

Owns which encodings there are and how large a message may become while it is decompressed. Never decides
whether a message is compressed: that is the handler's wish and the peer's `*-accept-encoding`.
Spec: grpc/grpc doc/compression.md; RFC 1952 (gzip); RFC 1950 (zlib, which HTTP and gRPC
call "deflate"); `engine.wire.grpc.zstd`.

Each message has a context of its own. A peer can claim any ratio (1,000:1 is easy), so the limit is
checked while decompressing, never after.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from engine.errors import LimitExceeded, LimitKind, RpcError, StatusCode
from engine.wire.grpc import zstd

IDENTITY = "identity"


class _Stream(Protocol):
    """What zlib and zstd decompress one message with."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Coding:
    compress: Callable[[bytes], bytes]
    stream: Callable[[], _Stream]


_LEVEL = 6  # zlib's default, and that of every official implementation


def _compress_by_zlib(window_bits: int, message: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, window_bits)
    return stream.compress(message) + stream.flush()


def _zlib(window_bits: int) -> _Coding:
    """`wbits` of zlib: 15 is the largest window, 16 more mean the gzip format."""
    return _Coding(partial(_compress_by_zlib, window_bits), partial(zlib.decompressobj, window_bits))


_CODINGS = {"gzip": _zlib(31), "deflate": _zlib(15)}
if zstd.AVAILABLE:
    _CODINGS["zstd"] = _Coding(zstd.compress, zstd.decompressor)
_ERRORS: tuple[type[Exception], ...] = (zlib.error, *zstd.ERRORS)

ENCODINGS = (IDENTITY, *_CODINGS)
"""What gRPC and gRPC-Web messages may be encoded with; the first is none at all."""

CONNECT_ENCODINGS = tuple([name for name in ENCODINGS if name != "deflate"])
"""What Connect may use: its "deflate" would be HTTP's, of which half the peers mean something else."""


def decompress(encoding: str, data: bytes, max_size: int) -> bytes | RpcError:
    """The message that `data` was made from.

    An error is returned, not raised: INTERNAL for what is not one complete stream of the encoding
    (bytes behind it included, as in C-core), RESOURCE_EXHAUSTED for more than `max_size` bytes. Nothing
    at all decompresses to nothing: Connect's clients send an empty message so.
    """
    if not data:
        return b""
    stream = _CODINGS[encoding].stream()
    try:
        message = stream.decompress(data, max_size + 1)
    except _ERRORS:
        return RpcError(StatusCode.INTERNAL, f"a message is not compressed as {encoding}")
    if len(message) > max_size:
        limit = LimitExceeded(
            "grpc.max_receive_message_size", max_size, kind=LimitKind.MESSAGE_SIZE, what="a decompressed message"
        )
        return RpcError(StatusCode.RESOURCE_EXHAUSTED, str(limit))
    if not stream.eof or stream.unused_data:
        what = "there are bytes behind it" if stream.eof else "it is cut"
        return RpcError(StatusCode.INTERNAL, f"a message is not compressed as {encoding}: {what}")
    return message


def compress(encoding: str, message: bytes) -> bytes:
    """The message, compressed; the same bytes every time."""
    return _CODINGS[encoding].compress(message)


def advice() -> str:
    """What to do where an encoding is not known."""
    hint = "" if zstd.AVAILABLE else "; zstd comes with pip install 'engine[zstd]'"
    return f"use one of {', '.join(ENCODINGS)}{hint}"


def accepts(value: bytes | None, encoding: str) -> bool:
    """Whether an `accept-encoding` of any protocol lists the encoding; `;q=0` is a no (RFC 9110 12.5.3)."""
    if not value:
        return False
    wanted = encoding.encode("ascii")
    for item in value.lower().split(b","):
        name, _, weight = item.partition(b";")
        if name.strip() == wanted:
            return weight.replace(b" ", b"").rstrip(b"0").rstrip(b".") not in (b"q=", b"q=0")
    return False


def known(value: bytes, encodings: Collection[str]) -> str | None:
    """The encoding that a field names, or None where it is none of `encodings`."""
    name = value.decode("latin-1").strip().lower()
    return name if name in encodings else None


def listed(encodings: Collection[str]) -> bytes:
    """The value of an `*-accept-encoding` field."""
    return ",".join(encodings).encode("ascii")
