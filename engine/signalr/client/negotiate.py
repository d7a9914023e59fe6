"""The client's half of `POST PATH/negotiate`.

Owns: the URLs of a hub, the reading of the answer, and redirections to other hubs. Never opens a
transport.

Spec: docs/specs/TransportProtocols.md, "POST [endpoint-base]/negotiate"; HttpConnection.ts.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from engine.errors import HandshakeRejected, HubError, RemoteProtocolError
from engine.signalr.client.requests import HubRequests, server_url

__all__ = ["Negotiated", "OfferedTransport", "connect_url", "negotiate", "negotiate_url"]

MAX_REDIRECTS = 100  # the official clients'
_MAX_QUOTED = 4096  # bytes of a refusal's body that an error keeps


class OfferedTransport(msgspec.Struct, frozen=True):
    """A way in that the server has."""

    transport: str
    transferFormats: tuple[str, ...] = ()  # the name of the wire


class _Answer(msgspec.Struct):
    negotiateVersion: int = 0  # the names of the wire
    connectionId: str | None = None
    connectionToken: str | None = None
    availableTransports: tuple[OfferedTransport, ...] = ()
    useStatefulReconnect: bool = False
    tokenLifetimeSeconds: float | None = None
    url: str | None = None
    accessToken: str | None = None
    error: str | None = None
    ProtocolVersion: str | None = None


_HINT = "check the URL and the server"
_HINTS = {
    401: "check access_token and headers",
    403: "check access_token and headers",
    404: "either this is not a SignalR endpoint, or a proxy blocks the connection",
}

_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class Negotiated:
    """A connection that waits for its transport."""

    url: str  # of the hub, after redirections
    connection_id: str | None
    token: str | None
    transports: tuple[OfferedTransport, ...]
    stateful_reconnect: bool
    token_lifetime: float | None  # seconds, where the server takes new tokens meanwhile


def negotiate_url(url: str, *, stateful_reconnect: bool) -> str:
    """Where to negotiate; what the user's own query says is kept."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = {name for name, _ in query}
    if "negotiateVersion" not in names:
        query.append(("negotiateVersion", "1"))
    if stateful_reconnect and "useStatefulReconnect" not in names:
        query.append(("useStatefulReconnect", "true"))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + "/negotiate", urlencode(query), ""))


def asks_for_stateful_reconnect(url: str) -> bool:
    """The user, or the server that sent us here, asks for it in the URL."""
    return ("useStatefulReconnect", "true") in parse_qsl(urlsplit(url).query)


def connect_url(url: str, token: str | None) -> str:
    """Where a transport connects."""
    if token is None:
        return url
    return f"{url}{'&' if '?' in url else '?'}id={quote(token, safe='')}"


async def negotiate(requests: HubRequests, url: str, *, stateful_reconnect: bool) -> Negotiated:
    """Ask for a connection, going where the server sends us.

    Raises:
        HandshakeRejected: an answer with another status than 200.
        HubError: the server says why not.
        RemoteProtocolError: the answer is none, or redirects too often.
        ConnectionClosed: nobody answers.
    """
    for _ in range(MAX_REDIRECTS):
        answer = await _ask(requests, negotiate_url(url, stateful_reconnect=stateful_reconnect))
        if answer.error is not None:
            raise HubError(answer.error)
        if answer.ProtocolVersion is not None:
            raise RemoteProtocolError(
                "Detected a connection attempt to an ASP.NET SignalR Server. This client only supports connecting to "
                "an ASP.NET Core SignalR Server."
            )
        if answer.url is None:
            break
        url = server_url(url, answer.url)
        requests.redirect(answer.accessToken)
    else:
        raise RemoteProtocolError("Negotiate redirection limit exceeded.")
    if answer.useStatefulReconnect and not (stateful_reconnect or asks_for_stateful_reconnect(url)):
        raise RemoteProtocolError("Client didn't negotiate Stateful Reconnect but the server did.")
    return Negotiated(
        url,
        answer.connectionId,
        answer.connectionToken if answer.negotiateVersion >= 1 else answer.connectionId,
        answer.availableTransports,
        answer.useStatefulReconnect,
        answer.tokenLifetimeSeconds,
    )


async def _ask(requests: HubRequests, url: str) -> _Answer:
    # What a negotiation leaves behind, nobody misses: an idle connection may have been closed meanwhile.
    response = await requests.request("POST", url, b"", repeat=True)
    if response.status != 200:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
        raise HandshakeRejected(
            response.status,
            headers,
            response.body[:_MAX_QUOTED],
            message=f"{url} answered the negotiation with {response.status}; {_HINTS.get(response.status, _HINT)}",
        )
    try:
        return _decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError(f"{url} did not answer as a hub does; check the path") from None
