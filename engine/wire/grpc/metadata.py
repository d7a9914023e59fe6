"""Custom metadata: header fields to what a handler sees, and back.

Owns the rules for keys, ASCII values and binary (`-bin`) values. Never touches the fields that
gRPC itself uses. Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, "Custom-Metadata".
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from engine.errors import LocalProtocolError, RpcError, StatusCode

Fields = Sequence[tuple[bytes, bytes]]
Value = str | bytes
MetadataLike = Iterable[tuple[str, Value]] | Mapping[str, Value]

FIELD_OVERHEAD = 32  # bytes a field counts beyond name and value (RFC 9113 6.5.2)

# What the call itself consists of. Other `grpc-` keys that arrive (grpc-previous-rpc-attempts,
# grpc-trace-bin) are delivered, as grpc-go does: they are addressed to the application.
_OURS = frozenset(
    {
        b"te",
        b"host",
        b"content-type",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-message-type",
        b"grpc-status",
        b"grpc-message",
        # gRPC-Web's and Connect's
        b"x-grpc-web",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"connect-content-encoding",
        b"connect-accept-encoding",
    }
)
# Reserved keys that a handler may nevertheless send.
_SENDABLE = frozenset({"grpc-status-details-bin", "grpc-retry-pushback-ms", "grpc-trace-bin", "grpc-tags-bin"})
# Fields that belong to HTTP: sent from a handler they would break the response.
_HTTP = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_KEY = re.compile(r"[0-9a-z_.-]+")
_ASCII_VALUE = re.compile(r"[\x20-\x7e]*")


class Metadata(Sequence[tuple[str, Value]]):
    """Metadata in order of arrival, duplicates kept. Values of `-bin` keys are bytes, others text."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, Value]] = ()) -> None:
        self._pairs = tuple(pairs)

    def get(self, key: str) -> Value | None:
        """The first value of a key, or None."""
        for name, value in self._pairs:
            if name == key:
                return value
        return None

    def get_all(self, key: str) -> list[Value]:
        """Every value of a key, in order."""
        return [value for name, value in self._pairs if name == key]

    def text(self, key: str) -> str | None:
        """The first value of a key that is no `-bin` key, or None."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def binary(self, key: str) -> bytes | None:
        """The first value of a `-bin` key, or None."""
        value = self.get(key)
        return value if isinstance(value, bytes) else None

    def __contains__(self, key: object) -> bool:
        """Whether a key, or a pair of key and value, is there."""
        return any(name == key or (name, value) == key for name, value in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return iter(self._pairs)

    def __getitem__(self, index: int) -> tuple[str, Value]:  # type: ignore[override]  # slices: tuple(metadata)[a:b]
        return self._pairs[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Metadata):
            return self._pairs == other._pairs
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Metadata({list(self._pairs)!r})"


# -- receiving ------------------------------------------------------------------


def size(fields: Fields) -> int:
    """Bytes of metadata as limits count them: name, value and 32 for each field."""
    return sum([len(name) + len(value) + FIELD_OVERHEAD for name, value in fields])


def decode(fields: Fields) -> Metadata | RpcError:
    """The custom metadata among these fields; an INTERNAL `RpcError` for broken base64.

    "ASCII-Value … implementations … may strip leading and trailing whitespace"; a value that is legal
    HTTP but not printable ASCII "must not be an error": it is read as Latin-1.
    """
    pairs: list[tuple[str, Value]] = []
    for name, value in fields:
        if name in _OURS or name[:1] == b":":
            continue
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            pairs.append((key, value.strip(b" \t").decode("latin-1")))
            continue
        decoded = decode_binary(value)
        if decoded is None:
            return RpcError(StatusCode.INTERNAL, f"metadata {key}: the value is not base64 (RFC 4648 section 4)")
        pairs.extend([(key, item) for item in decoded])
    return Metadata(pairs)


def decode_binary(value: bytes) -> list[bytes] | None:
    """The values of a `-bin` field: "split on ',' before decoding", padded or not; None if broken."""
    if b"," not in value:
        single = _decode_base64(value.strip(b" \t"))
        return None if single is None else [single]
    values: list[bytes] = []
    for piece in value.split(b","):
        decoded = _decode_base64(piece.strip(b" \t"))
        if decoded is None:
            return None
        values.append(decoded)
    return values


def _decode_base64(value: bytes) -> bytes | None:
    if not value:
        return b""
    if value[-1:] != b"=":
        value += b"=" * (-len(value) % 4)
    elif len(value) % 4 or value[-3:] == b"===":
        return None  # binascii takes "AQIw=" and "AQIw====", also in its strict mode
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error:
        return None


# -- sending --------------------------------------------------------------------


def encode(metadata: MetadataLike) -> list[tuple[bytes, bytes]]:
    """Fields for the wire, one for each pair, order kept; keys are put in lower case.

    Raises:
        LocalProtocolError: a key or value that gRPC cannot carry.
    """
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    return [_encode_pair(key, value) for key, value in pairs]


def encode_binary(value: bytes) -> bytes:
    """Base64 without padding: "implementations … should emit un-padded values"."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def _encode_pair(key: str, value: Value) -> tuple[bytes, bytes]:
    name = key.lower()
    if not _KEY.fullmatch(name):
        raise LocalProtocolError(f"metadata key {key!r}: use letters, digits, '_', '-' and '.' only")
    if name in _HTTP or (name.startswith("grpc-") and name not in _SENDABLE):
        raise LocalProtocolError(f"metadata key {key!r} is reserved; choose another name")
    if name.endswith("-bin"):
        if isinstance(value, str):
            raise LocalProtocolError(f"metadata {key!r}: a '-bin' key carries bytes; encode the text first")
        return name.encode("ascii"), encode_binary(value)
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not _ASCII_VALUE.fullmatch(text):
        raise LocalProtocolError(f"metadata {key!r}: only printable ASCII is allowed; use a key that ends in '-bin'")
    return name.encode("ascii"), text.strip(" ").encode("ascii")
