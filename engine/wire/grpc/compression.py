"""Compressed messages: the encodings, bounded inflation, and the fields that name them.

Owns which encodings there are and how large a message may become while it is inflated. Never decides
whether a message is compressed: that is the handler's wish and the peer's `*-accept-encoding`.
Spec: grpc/grpc doc/compression.md; RFC 1952 (gzip); RFC 1950 (zlib, which HTTP and gRPC call "deflate").

Each message has a context of its own. A peer can claim any ratio (1,000:1 is easy), so the limit is
checked while inflating, never after.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection

from engine.errors import LimitExceeded, LimitKind, RpcError, StatusCode

IDENTITY = "identity"

# The `wbits` of zlib: 15 is the largest window, 16 more mean the gzip format.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

ENCODINGS = (IDENTITY, *_WINDOW_BITS)
"""What gRPC and gRPC-Web messages may be encoded with; the first is none at all."""

CONNECT_ENCODINGS = (IDENTITY, "gzip")
"""What Connect may use: its "deflate" would be HTTP's, of which half the peers mean something else."""

_LEVEL = 6  # zlib's default, and that of every official implementation


def inflate(encoding: str, data: bytes, max_size: int) -> bytes | RpcError:
    """The message that `data` was made from.

    An error is returned, not raised: INTERNAL for what is not one complete stream of the encoding
    (bytes behind it included, as in C-core), RESOURCE_EXHAUSTED for more than `max_size` bytes. Nothing
    at all inflates to nothing: Connect's clients send an empty message so.
    """
    if not data:
        return b""
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        message = stream.decompress(data, max_size + 1)
    except zlib.error:
        return RpcError(StatusCode.INTERNAL, f"a message does not inflate as {encoding}")
    if len(message) > max_size:
        limit = LimitExceeded(
            "grpc.max_receive_message_size", max_size, kind=LimitKind.MESSAGE_SIZE, what="an inflated message"
        )
        return RpcError(StatusCode.RESOURCE_EXHAUSTED, str(limit))
    if not stream.eof or stream.unused_data:
        what = "there are bytes behind it" if stream.eof else "it is cut"
        return RpcError(StatusCode.INTERNAL, f"a message does not inflate as {encoding}: {what}")
    return message


def deflate(encoding: str, message: bytes) -> bytes:
    """The message, compressed; the same bytes every time."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return stream.compress(message) + stream.flush()


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
