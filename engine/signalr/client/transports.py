"""Which transport a connection gets.

Owns: the choice among what the server offers and the user allows, and the fall-back from one that
cannot be opened to the next, each with a negotiation of its own.

Spec: HttpConnection.ts of the official client, `_createTransport`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from engine.errors import ConnectionClosed, EngineError, HandshakeRejected
from engine.signalr.client.carriers import Carrier, open_long_polling, open_server_sent_events, open_websocket
from engine.signalr.client.negotiate import Negotiated, OfferedTransport, connect_url, negotiate
from engine.signalr.client.refresh import keep_authenticated
from engine.signalr.client.requests import HubRequests
from engine.wire.signalr.messages import TransferFormat
from engine.wire.signalr.negotiate import TransportKind

__all__ = ["Opened", "Wanted", "open_transport"]

_Open = Callable[[HubRequests, str, TransferFormat, float], Awaitable[Carrier]]
_OPENERS: dict[TransportKind, _Open] = {
    TransportKind.WEB_SOCKETS: open_websocket,
    TransportKind.SERVER_SENT_EVENTS: open_server_sent_events,
    TransportKind.LONG_POLLING: open_long_polling,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a connection should be like."""

    url: str
    transports: frozenset[TransportKind]
    transfer_format: TransferFormat
    skip_negotiation: bool
    stateful_reconnect: bool
    max_message_size: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A transport before its handshake."""

    carrier: Carrier
    connection_id: str | None
    stateful_reconnect: bool
    reopen: Callable[[], Awaitable[Carrier]]  # another socket for the same connection id
    upkeep: Callable[[], Awaitable[None]] | None = None  # what has to be done as long as it lives


async def open_transport(requests: HubRequests, wanted: Wanted) -> Opened:
    """Negotiate and open what works.

    Raises:
        HandshakeRejected, HubError, RemoteProtocolError, ConnectionClosed: as `negotiate`.
        ConnectionClosed: no transport works; its reason says why not, of each.
    """
    await requests.begin()
    if wanted.skip_negotiation:
        carrier = await _open(requests, wanted, TransportKind.WEB_SOCKETS, wanted.url)
        return Opened(carrier, None, False, partial(_reopen, requests, wanted, TransportKind.WEB_SOCKETS, wanted.url))
    answer = await negotiate(requests, wanted.url, stateful_reconnect=wanted.stateful_reconnect)
    used = False
    failures: list[str] = []
    refusals: list[HandshakeRejected] = []
    for offered in answer.transports:
        kind = _usable(offered, wanted)
        if isinstance(kind, str):
            failures.append(kind)
            continue
        if used:  # a connection token is for one attempt
            await requests.renew_token()
            answer = await negotiate(requests, answer.url, stateful_reconnect=wanted.stateful_reconnect)
        used = True
        url = connect_url(answer.url, answer.token)
        try:
            carrier = await _open(requests, wanted, kind, url)
        except EngineError as error:
            if isinstance(error, HandshakeRejected):
                refusals.append(error)
            failures.append(f"{kind.value} failed: {error}")
            continue
        return _opened(requests, wanted, answer, carrier, url)
    if refusals and len({each.status for each in refusals}) == 1 and refusals[0].status in (401, 403):
        raise refusals[0]  # not the transports' fault
    if not failures:
        raise ConnectionClosed(reason="None of the transports supported by the client are supported by the server.")
    raise ConnectionClosed(
        reason=f"Unable to connect to the server with any of the available transports. {' '.join(failures)}"
    )


def _opened(requests: HubRequests, wanted: Wanted, answer: Negotiated, carrier: Carrier, url: str) -> Opened:
    kind = carrier.kind
    stateful = answer.stateful_reconnect and kind is TransportKind.WEB_SOCKETS
    upkeep = None
    if answer.token_lifetime is not None and answer.token_lifetime > 0 and requests.makes_tokens:
        upkeep = partial(keep_authenticated, requests, url, answer.token_lifetime)
    return Opened(carrier, answer.connection_id, stateful, partial(_reopen, requests, wanted, kind, url), upkeep)


async def _open(requests: HubRequests, wanted: Wanted, kind: TransportKind, url: str) -> Carrier:
    return await _OPENERS[kind](requests, url, wanted.transfer_format, wanted.max_message_size)


async def _reopen(requests: HubRequests, wanted: Wanted, kind: TransportKind, url: str) -> Carrier:
    await requests.renew_token()  # the one that we have may be as old as the connection
    return await _open(requests, wanted, kind, url)


def _usable(offered: OfferedTransport, wanted: Wanted) -> TransportKind | str:
    """The transport, or why not."""
    try:
        kind = TransportKind(offered.transport)
    except ValueError:
        return f"Skipping transport '{offered.transport}' because it is not supported by this client."
    if kind not in wanted.transports:
        return f"'{kind.value}' is disabled by the client."
    if wanted.transfer_format.value not in offered.transferFormats:
        return f"'{kind.value}' does not support {wanted.transfer_format.value}."
    return kind
