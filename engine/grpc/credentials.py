"""Who we are, call by call: metadata that proves it.

Owns the type of call credentials and when they may be sent. Channel credentials (certificates) are
`engine.config.ClientTlsConfig`'s. Source: grpc.io guides/auth, "Call credentials".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.metadata import MetadataLike

__all__ = ["AuthContext", "CallCredentials", "access_token"]


@dataclass(frozen=True, slots=True)
class AuthContext:
    """What credentials are asked for."""

    service_url: str  # "https://api.example/pkg.Service": the audience of a token
    method: str  # "/pkg.Service/Method"


CallCredentials = Callable[[AuthContext], Awaitable[MetadataLike]]
"""Gives the metadata that proves who we are; called for each attempt of each call.

What it raises ends the call: an `RpcError` as it is, anything else is the caller's own exception.
"""


def access_token(token: str) -> CallCredentials:
    """Credentials that send `authorization: Bearer TOKEN` with each call."""

    async def credentials(context: AuthContext) -> MetadataLike:
        await trio.lowlevel.checkpoint()
        return (("authorization", f"Bearer {token}"),)

    return credentials


def require_privacy(*, secure: bool) -> None:
    """Refuse to send credentials where anybody could read them.

    Raises:
        RpcError: UNAUTHENTICATED, as the official implementations.
    """
    if not secure:
        raise RpcError(
            StatusCode.UNAUTHENTICATED,
            "call credentials are not sent over a connection without TLS; give the channel tls=..., or "
            "insecure_credentials=True where the network is trusted",
        )
