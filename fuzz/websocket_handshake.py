"""The WebSocket handshake judges any header fields without raising, and accepts only what is right.

An input is a request head in lines: the method and version, then `name: value` fields.
"""

from __future__ import annotations

import base64
import re

from engine.config import WebSocketConfig
from engine.wire.websocket.deflate import negotiate
from engine.wire.websocket.extensions import Offer, parse_extensions
from engine.wire.websocket.handshake import Accepted, Refusal, accept_token, check_connect, check_upgrade

_GOOD = b"""GET 1.1
host: example.com
upgrade: websocket
connection: keep-alive, Upgrade
sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==
sec-websocket-version: 13
"""
SEEDS: list[bytes] = [
    _GOOD,
    _GOOD + b"sec-websocket-protocol: a, b\nsec-websocket-protocol: c\n",
    _GOOD + b"sec-websocket-protocol: \xff\n",
    _GOOD + b"sec-websocket-extensions: permessage-deflate; client_max_window_bits=abc\n",
    _GOOD + b'sec-websocket-extensions: x; q="a, b", permessage-deflate\n',
    _GOOD + b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=8, permessage-deflate\n",
    _GOOD
    + b'sec-websocket-extensions: permessage-deflate; client_max_window_bits="1\\0"; server_no_context_takeover\n',
    _GOOD + b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=010\n",
    _GOOD + b"sec-websocket-extensions: permessage-deflate; client_max_window_bits; client_max_window_bits=9\n",
    _GOOD + b"sec-websocket-extensions: permessage-deflate; server_no_context_takeover=1\n",
    _GOOD + b'sec-websocket-extensions: permessage-deflate; client_max_window_bits=""\n',
    _GOOD + b"connection: \xff\nupgrade: h2c\n",
    _GOOD + b"content-length: 0\ntransfer-encoding: chunked\n",
    _GOOD.replace(b"1.1", b"1.0"),
    _GOOD.replace(b"GET", b"POST"),
    _GOOD.replace(b"13", b"8"),
    _GOOD + _GOOD,
]
_BITS = re.compile("[89]|1[0-5]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    first, *lines = data.split(b"\n")
    method, _, version = first.decode("latin-1").partition(" ")
    fields = []
    for line in lines:
        name, _, value = line.partition(b":")
        fields.append((name.strip().lower(), value.strip()))

    answer = check_upgrade(method, version, fields)
    if isinstance(answer, Accepted):
        assert (method, version) == ("GET", "1.1")
        [key] = [value for name, value in fields if name == b"sec-websocket-key"]
        assert len(base64.b64decode(key)) == 16
        assert answer.accept == accept_token(key)
        assert {value for name, value in fields if name == b"sec-websocket-version"} == {b"13"}
        assert any(b"websocket" in value.lower() for name, value in fields if name == b"upgrade")
        assert any(b"upgrade" in value.lower() for name, value in fields if name == b"connection")
    _check(answer)
    answer = check_connect(fields)
    assert isinstance(answer, Refusal) or answer.accept is None
    _check(answer)


def _check(answer: Accepted | Refusal) -> None:
    """What leaves the handshake can go into a response, or to the application."""
    if isinstance(answer, Accepted):
        assert all(_TOKEN.fullmatch(name) for name in answer.subprotocols)
        assert len(set(answer.subprotocols)) == len(answer.subprotocols)
        agreed = negotiate(answer.extensions, WebSocketConfig())
        assert (agreed is not None) is any(_is_acceptable(offer) for offer in answer.extensions)
        if agreed is not None:
            assert 8 <= agreed[0].server_window_bits <= 12
            assert 8 <= agreed[0].client_window_bits <= 15
            [ours] = parse_extensions([agreed[1]])
            assert negotiate([ours], WebSocketConfig()) == agreed, "our own answer is not a valid offer"
        return
    assert answer.status in (400, 405, 426)
    assert answer.status != 426 or (b"sec-websocket-version", b"13") in answer.headers
    assert answer.text.isascii()
    assert answer.text


def _is_acceptable(offer: Offer) -> bool:
    """By the letter of RFC 7692 section 7.1, in which no parameter may be unknown, repeated or out of bounds."""
    names = [name for name, _ in offer.parameters]
    if offer.name != "permessage-deflate" or len(set(names)) != len(names):
        return False
    for name, value in offer.parameters:
        if value is None:
            if name not in ("server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits"):
                return False
        elif name not in ("server_max_window_bits", "client_max_window_bits") or not _BITS.fullmatch(value):
            return False
    return True
