"""Keeps a connection authenticated: gives the server a new token before the old one expires.

Owns: when, and the request. Servers that offer it tell the lifetime of the token in their answer to the
negotiation. A refresh that fails is not repeated: the connection lives until its token ends, and then
comes back as after any other loss.

Spec: `POST PATH/refresh?id=TOKEN` of ASP.NET Core 11, HttpConnectionDispatcher.ProcessRefresh; the times
are those of its clients.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from engine.errors import EngineError
from engine.signalr.client.requests import HubRequests

__all__ = ["keep_authenticated", "refresh_url"]

_log = logging.getLogger(__name__)

MARGIN = 300.0  # seconds before the end of a token; of one that lives less than twice as long, half of its life
_LEAST = 1.0  # seconds between two requests, whatever the server says


class _Refreshed(msgspec.Struct):
    tokenLifetimeSeconds: float | None = None  # the name of the wire


_decode = msgspec.json.Decoder(_Refreshed).decode


def refresh_url(url: str) -> str:
    """Where to send new credentials, of the URL where a transport connects."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + "/refresh", parts.query, ""))


async def keep_authenticated(requests: HubRequests, url: str, lifetime: float) -> None:
    """Refresh again and again, until the server knows no end or a refresh fails.

    Args:
        url: where the transport connects.
        lifetime: seconds that the present token lives.
    """
    left: float | None = lifetime
    while left is not None:
        await trio.sleep(max(_LEAST, left - MARGIN if left > 2 * MARGIN else left / 2))
        try:
            await requests.renew_token()
            response = await requests.request("POST", refresh_url(url), b"", repeat=True)
            if response.status != 200:
                _log.warning("the server refused a new token with %d; the old one will expire", response.status)
                return
            left = _decode(response.body).tokenLifetimeSeconds
        except (EngineError, msgspec.DecodeError) as error:
            _log.warning("no new token for this connection, the old one will expire: %s", error)
            return
