"""The server's half of the WebSocket opening handshake, on plain header fields.

Owns: which requests may become a WebSocket and how the others are refused, over HTTP/1.1 (RFC 6455
section 4.2) and over an HTTP/2 extended CONNECT (RFC 8441). Never writes a response and never
raises for what a peer sent: bad bytes are a 400 like any other malformed field.

Fields are pairs of bytes with names in lower case, as in `engine.transport.exchange`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.wire.websocket.extensions import Offer, parse_extensions

Fields = Sequence[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION = (b"sec-websocket-version", b"13")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_VISIBLE = re.compile(rb"[\t\x20-\x7e]*")
_BLANK = b" \t"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request may become a WebSocket.

    Attributes:
        subprotocols: what the client offers, its favourite first, without repetitions.
        accept: the value of Sec-WebSocket-Accept; None over HTTP/2, which has no such field.
        extensions: what the client offers, its favourite first; nothing is negotiated yet.
    """

    subprotocols: tuple[str, ...]
    accept: bytes | None
    extensions: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request may not; this is the plain response to it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    text: str


class _Malformed(Exception):
    """A field's bytes are not what its grammar allows; never leaves this module."""


def check_upgrade(method: str, http_version: str, fields: Fields) -> Accepted | Refusal:
    """Judge an HTTP/1.1 Upgrade request (RFC 6455 section 4.2.1).

    Args:
        method: as sent; methods are case-sensitive.
        http_version: "1.0" or "1.1"; "2" is refused, for HTTP/2 has no Upgrade.
        fields: of the request's head.
    """
    if method != "GET":
        return Refusal(405, ((b"allow", b"GET"),), "A WebSocket is opened with GET.\n")
    try:
        # "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
        # (RFC 9110 section 7.8); RFC 9113 section 8.6 has none in HTTP/2.
        if http_version != "1.1" or b"websocket" not in _lower_tokens(fields, b"upgrade"):
            return _upgrade_required(http_version, "This is a WebSocket: open it with an Upgrade request.\n")
        if b"upgrade" not in _lower_tokens(fields, b"connection"):
            return _malformed("The Connection field lacks `upgrade`; is there a proxy that removes it?")
        if _values(fields, b"transfer-encoding") or _values(fields, b"content-length") - {b"0"}:
            return _malformed("A WebSocket handshake has no body.")
        if _values(fields, b"sec-websocket-version") != {b"13"}:
            return _upgrade_required(http_version, "Only version 13 of the WebSocket protocol is spoken here.\n")
        accept = accept_token(_key(fields))
        return Accepted(_subprotocols(fields), accept, _extensions(fields))
    except _Malformed as error:
        return _malformed(str(error))


def check_connect(fields: Fields) -> Accepted | Refusal:
    """Judge an extended CONNECT with `:protocol` websocket (RFC 8441 section 5).

    "The Sec-WebSocket-Key and Sec-WebSocket-Accept header fields ... are not used": they are ignored.
    """
    try:
        if _values(fields, b"sec-websocket-version") != {b"13"}:
            return _upgrade_required("2", "Only version 13 of the WebSocket protocol is spoken here.\n")
        return Accepted(_subprotocols(fields), None, _extensions(fields))
    except _Malformed as error:
        return Refusal(400, (), f"{error}\n")


def accept_token(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_token(text: str) -> bool:
    """Whether `text` can be a subprotocol's name."""
    return text.isascii() and _TOKEN.fullmatch(text.encode("ascii")) is not None


def _malformed(text: str) -> Refusal:
    # What comes behind a handshake are frames, if its client did not wait: they must not be read as a request.
    return Refusal(400, ((b"connection", b"close"),), f"{text}\n")


def _upgrade_required(http_version: str, text: str) -> Refusal:
    # "The server MUST send an Upgrade header field in a 426 response" (RFC 9110 section 15.5.22), with
    # its connection option (section 7.8); in HTTP/2 it must send neither (RFC 9113 section 8.2.2).
    upgrade = () if http_version == "2" else ((b"upgrade", b"websocket"), (b"connection", b"upgrade"))
    return Refusal(426, (*upgrade, _VERSION), text)


def _values(fields: Fields, name: bytes) -> set[bytes]:
    return {value.strip(_BLANK) for key, value in fields if key == name}


def _tokens(fields: Fields, name: bytes) -> Iterable[bytes]:
    """The elements of a `#token` list over all fields of a name; empty elements are skipped (RFC 9110 5.6.1.2)."""
    for key, value in fields:
        if key != name:
            continue
        for element in value.split(b","):
            token = element.strip(_BLANK)
            if token and _TOKEN.fullmatch(token) is None:
                raise _Malformed(f"The {name.decode('ascii')} field is not a list of tokens.")
            if token:
                yield token


def _lower_tokens(fields: Fields, name: bytes) -> set[bytes]:
    # Upgrade may hold name/version pairs (RFC 9110 section 7.8); the slash is no token character.
    if name == b"upgrade":
        fields = [(key, value.replace(b"/", b"-")) for key, value in fields if key == name]
    return {token.lower() for token in _tokens(fields, name)}


def _key(fields: Fields) -> bytes:
    keys = [value.strip(_BLANK) for key, value in fields if key == b"sec-websocket-key"]
    if len(keys) != 1:
        raise _Malformed(f"There must be one Sec-WebSocket-Key field, not {len(keys)}.")
    try:
        nonce = base64.b64decode(keys[0], validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16 or len(keys[0]) != 24:
        raise _Malformed("Sec-WebSocket-Key must be 16 bytes in base64.")
    return keys[0]


def _subprotocols(fields: Fields) -> tuple[str, ...]:
    offered = (token.decode("ascii") for token in _tokens(fields, b"sec-websocket-protocol"))
    return tuple(dict.fromkeys(offered))


def _extensions(fields: Fields) -> tuple[Offer, ...]:
    values = [value for key, value in fields if key == b"sec-websocket-extensions"]
    if any(_VISIBLE.fullmatch(value) is None for value in values):
        raise _Malformed("The sec-websocket-extensions field holds bytes that no extension can have.")
    try:
        return parse_extensions(value.decode("ascii") for value in values)
    except ValueError as error:
        raise _Malformed(f"The sec-websocket-extensions field is malformed: {error}.") from None
