"""Compression at the client's end of the handshake: what to offer, which answers to accept (RFC 7692).

Owns: the offer, and the checks that sections 5 and 7.1 ask of a client. The compression itself is
`engine.wire.websocket.deflate`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.config import WebSocketConfig
from engine.errors import RemoteProtocolError
from engine.wire.websocket.deflate import NAME, Agreement
from engine.wire.websocket.extensions import parse_extensions

_WINDOW_BITS = frozenset(str(bits) for bits in range(8, 16))  # "without leading zeroes" (7.1.2.1)


def offer(config: WebSocketConfig) -> str:
    """The value of Sec-WebSocket-Extensions.

    A server may decline an offer for a parameter that it does not know (section 7.1.2.1), so that one
    with a smaller server's window has one without behind it.
    """
    takeover = "" if config.server_context_takeover else "; server_no_context_takeover"
    # A hint (section 7.1.1.2): the server need not keep the context of what we compress.
    takeover += "" if config.client_context_takeover else "; client_no_context_takeover"
    bits = "" if config.client_window_bits == 15 else f"={config.client_window_bits}"
    rest = f"; client_max_window_bits{bits}{takeover}"
    if config.server_window_bits == 15:
        return NAME + rest
    return f"{NAME}; server_max_window_bits={config.server_window_bits}{rest}, {NAME}{rest}"


def check_answer(values: Iterable[str], config: WebSocketConfig | None) -> Agreement | None:
    """What the server agreed to; None where it declined.

    Args:
        values: of all Sec-WebSocket-Extensions fields of its answer.
        config: what `offer` was made of; None where there was no offer.

    Raises:
        RemoteProtocolError: "the client MUST _Fail the WebSocket Connection_" (RFC 7692 section 7.1,
            RFC 6455 section 4.1).
    """
    try:
        answer = parse_extensions(values)
    except ValueError as error:
        raise _violation(f"Sec-WebSocket-Extensions: {error}") from None
    if not answer:
        return None
    if config is None or not config.compression or any(each.name != NAME for each in answer):
        raise _violation(f"the extension {answer[-1].name!r} was not offered")
    if len(answer) > 1:
        raise _violation(f"{NAME} is accepted more than once")
    given = dict(answer[0].parameters)
    if len(given) != len(answer[0].parameters):
        raise _violation(f"a parameter of {NAME} is repeated")
    for name, value in given.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            valid = value is None
        else:
            valid = name in ("server_max_window_bits", "client_max_window_bits") and value in _WINDOW_BITS
        if not valid:
            raise _violation(f"{NAME} has the parameter {name}={value}")
    if not config.server_context_takeover and "server_no_context_takeover" not in given:
        raise _violation("server_no_context_takeover was asked for and not granted")
    server_bits = int(given.get("server_max_window_bits") or 15)
    if "server_max_window_bits" in given and server_bits > config.server_window_bits:
        raise _violation(f"server_max_window_bits={server_bits} is more than was offered")
    client_bits = int(given.get("client_max_window_bits") or 15)
    return Agreement(
        server_takeover="server_no_context_takeover" not in given,
        client_takeover=config.client_context_takeover and "client_no_context_takeover" not in given,
        server_window_bits=server_bits,
        # What we offered was "a hint that ... the client is not going to use an LZ77 sliding window size
        # greater than" it, also where the answer's value is greater (section 7.1.2.2).
        client_window_bits=min(client_bits, config.client_window_bits),
    )


def _violation(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the server's answer to the handshake cannot be used: {what}")
