"""The answer to `POST PATH/negotiate`, byte for byte as ASP.NET Core writes it.

Owns: versions, member order and which transports are listed. Never makes ids: they are given.

Spec: docs/specs/TransportProtocols.md, "POST [endpoint-base]/negotiate"; NegotiateProtocol.cs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote_plus

import msgspec

from engine.wire.signalr.messages import TransferFormat

MAX_VERSION = 1  # 0: the connection id addresses the connection; 1: a secret token does
_INT = re.compile(r"\s*[+-]?\d{1,10}\s*", re.ASCII)


class TransportKind(Enum):
    """The transports in the order in which they are offered; clients try them in this order."""

    WEB_SOCKETS = "WebSockets"
    SERVER_SENT_EVENTS = "ServerSentEvents"
    LONG_POLLING = "LongPolling"


TRANSFER_FORMATS: dict[TransportKind, tuple[TransferFormat, ...]] = {
    TransportKind.WEB_SOCKETS: (TransferFormat.TEXT, TransferFormat.BINARY),
    TransportKind.SERVER_SENT_EVENTS: (TransferFormat.TEXT,),
    TransportKind.LONG_POLLING: (TransferFormat.TEXT, TransferFormat.BINARY),
}


@dataclass(frozen=True, slots=True)
class NegotiateRequest:
    """What the query of a negotiate request asks for."""

    version: int
    stateful_reconnect: bool = False


def query_value(query: str, name: str) -> str | None:
    """The first value of a query parameter, its name compared without case; None if it is not there."""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if unquote_plus(key).lower() == name:
            return unquote_plus(value)
    return None


def parse_negotiate(query: str, *, minimum_version: int = 0) -> NegotiateRequest | bytes:
    """The request, or the body that refuses it (with status 200, as clients expect).

    No version is version 0; versions that we do not know yet are answered with our newest.
    """
    text = query_value(query, "negotiateversion")
    version = 0
    if text is not None:
        if _INT.fullmatch(text) is None or not -(2**31) <= int(text) < 2**31:
            return refusal("The client requested a non-integer protocol version.")
        version = int(text)
    if version < minimum_version:
        return refusal(f"The client requested version '{version}', but the server does not support this version.")
    stateful = (query_value(query, "usestatefulreconnect") or "").strip().lower() == "true"
    return NegotiateRequest(min(version, MAX_VERSION), stateful)


def refusal(error: str) -> bytes:
    """A body that says why there is no connection."""
    return msgspec.json.encode({"error": error})


def redirection(url: str, access_token: str | None = None) -> bytes:
    """A body that sends the client to negotiate elsewhere."""
    body: dict[str, Any] = {"url": url}
    if access_token is not None:
        body["accessToken"] = access_token
    return msgspec.json.encode(body)


def negotiation(
    request: NegotiateRequest,
    connection_id: str,
    connection_token: str,
    transports: Sequence[TransportKind],
    *,
    stateful_reconnect: bool = False,
    token_lifetime: int | None = None,
) -> bytes:
    """The body that offers a connection; `transports` are listed in the order of the protocol.

    Args:
        token_lifetime: seconds until the client's authentication ends, where it may be refreshed.
    """
    body: dict[str, Any] = {}
    if stateful_reconnect and request.stateful_reconnect:
        body["useStatefulReconnect"] = True
    body["negotiateVersion"] = request.version
    body["connectionId"] = connection_id
    if request.version >= 1:
        body["connectionToken"] = connection_token
    body["availableTransports"] = [
        {"transport": kind.value, "transferFormats": [each.value for each in TRANSFER_FORMATS[kind]]}
        for kind in TransportKind
        if kind in transports
    ]
    if token_lifetime is not None:
        body["tokenLifetimeSeconds"] = token_lifetime
    return msgspec.json.encode(body)


def refreshed(connection_id: str, refreshed_at: str, token_lifetime: int | None) -> bytes:
    """The body that answers new credentials.

    Args:
        refreshed_at: ISO 8601, UTC.
        token_lifetime: seconds; None: for ever.
    """
    body: dict[str, Any] = {"connectionId": connection_id, "refreshedAt": refreshed_at}
    if token_lifetime is not None:
        body["tokenLifetimeSeconds"] = token_lifetime
    return msgspec.json.encode(body)


def refresh_refusal(error: str, description: str) -> bytes:
    """The body that refuses new credentials."""
    return msgspec.json.encode({"error": error, "error_description": description})
