"""Negotiation never raises for a query, and every body is JSON whose parts a client can rely on."""

from __future__ import annotations

import msgspec

from engine.wire.signalr.negotiate import (
    MAX_VERSION,
    NegotiateRequest,
    TransportKind,
    negotiation,
    parse_negotiate,
    query_value,
    redirection,
    refresh_refusal,
    refreshed,
)

SEEDS: list[bytes] = [
    b"",
    b"negotiateVersion=1&useStatefulReconnect=true",
    b"NEGOTIATEVERSION=%31&id=a+b%2B&access_token=x",
    b"negotiateVersion=-1",
    b"negotiateVersion=99999999999999999999",
    b"negotiateVersion= 1 &negotiateVersion=2&&=&==&id",
    b"negotiateVersion=\xd9\xa1&%6eegotiateVersion=0&useStatefulReconnect= TRUE",
    b"useStatefulReconnect=%zz%&id=%ff%fe",
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    query = data.decode("latin-1")
    for minimum in (0, 1):
        _check_request(query, minimum)
    token = query_value(query, "id")
    assert token is None or "id" in query.lower() or "%" in query
    assert msgspec.json.decode(redirection(query, query)) == {"url": query, "accessToken": query}
    assert msgspec.json.decode(refresh_refusal(query, query))["error"] == query
    assert msgspec.json.decode(refreshed(query, "now", len(data)))["tokenLifetimeSeconds"] == len(data)


def _check_request(query: str, minimum: int) -> None:
    request = parse_negotiate(query, minimum_version=minimum)
    if isinstance(request, bytes):
        assert list(msgspec.json.decode(request)) == ["error"]
        return
    assert isinstance(request, NegotiateRequest)
    assert minimum <= request.version <= MAX_VERSION
    for allowed in (False, True):
        body = negotiation(request, "ID", "TOKEN", tuple(TransportKind), stateful_reconnect=allowed)
        offer = msgspec.json.decode(body)
        assert offer["connectionId"] == "ID"
        assert offer.get("connectionToken") == ("TOKEN" if request.version else None)
        assert ("useStatefulReconnect" in offer) is (allowed and request.stateful_reconnect)
        assert [each["transport"] for each in offer["availableTransports"]] == [each.value for each in TransportKind]
