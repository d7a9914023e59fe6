"""Who calls: users, where their tokens are found, and a JWT authenticator.

Owns: `User`, the seam for authenticators, and one of them. An authenticator is any function from the
head of a request to a `User`, or None for a caller that nobody knows; it may be a coroutine function.
It is asked for each request of a hub: negotiate, every transport, refresh. What it answers decides
together with `Access` who gets in. It never decides what a user may do inside: methods ask the hub's
context.

Tokens come in the `Authorization: Bearer` field, or in the query's `access_token`, for browsers
cannot set fields of a WebSocket or an event stream.

Spec: RFC 6750; https://learn.microsoft.com/aspnet/core/signalr/authn-and-authz
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import ConfigError, StartupError
from engine.wire.signalr.negotiate import query_value

if TYPE_CHECKING:
    from engine.transport.exchange import Fields, RequestHead

__all__ = ["Access", "Authenticator", "JwtAuthenticator", "User", "bearer_token"]

_CHALLENGE: Fields = ((b"www-authenticate", b"Bearer"),)
_MAX_LIFETIME = 2**31 - 1  # seconds; clients keep it as an int


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated caller.

    Attributes:
        id: addresses all connections of the user (`clients.user`); None: nobody can.
        claims: what else is known, by name.
        expires: when the authentication ends, in seconds since 1970; None: never.
    """

    id: str | None
    claims: Mapping[str, Any] = field(default_factory=dict)
    expires: float | None = None

    @property
    def remaining(self) -> float:
        """Seconds until the authentication ends."""
        return math.inf if self.expires is None else self.expires - time.time()

    @property
    def lifetime(self) -> int | None:
        """`remaining` in whole seconds, as clients are told; None: for ever, or no more."""
        if self.expires is None or self.remaining <= 0:
            return None
        return int(min(self.remaining, _MAX_LIFETIME))


Authenticator: TypeAlias = "Callable[[RequestHead], User | Awaitable[User | None] | None]"


def bearer_token(head: RequestHead) -> str | None:
    """The token of a request: of its Authorization field, or else of its query."""
    scheme, _, token = (head.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip().decode("latin-1")
    return query_value(head.query, "access_token") or None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a hub.

    Attributes:
        authenticator: None: everybody is anonymous.
        require_user: refuse anonymous callers with 401.
        authorize: refuse those for whom it is False, with 403.
    """

    authenticator: Authenticator | None = None
    require_user: bool = False
    authorize: Callable[[User | None], bool] | None = None

    def __post_init__(self) -> None:
        if self.require_user and self.authenticator is None:
            raise ConfigError("require_user", True, "give an authenticator as well, else nobody can come in")

    async def judge(self, head: RequestHead) -> User | Denied | None:
        """The user of a request, None for an anonymous one that may come in, or why not.

        Cancellation passes through to the authenticator.
        """
        user = None
        if self.authenticator is not None:
            found = self.authenticator(head)
            user = await found if inspect.isawaitable(found) else found
            if user is not None and user.remaining <= 0:
                user = None
        if user is None and self.require_user:
            return Denied(401, _CHALLENGE)
        if self.authorize is not None and not self.authorize(user):
            return Denied(403) if user is not None else Denied(401, _CHALLENGE)
        return user


@dataclass(frozen=True, slots=True)
class Denied:
    """The request is refused with this status."""

    status: int
    fields: Fields = ()


class JwtAuthenticator:
    """Users from JSON Web Tokens (RFC 7519), checked by PyJWT: the extra `jwt`.

    Args:
        key: the secret of HS256 and its like, or a public key in PEM of RS256, ES256 and so on.
        algorithms: those that are accepted; never take them from the token.
        audience: what `aud` must hold; None: tokens must have none.
        issuer: what `iss` must be; None: anything.
        user_claim: the claim that is the user's id.
        leeway: seconds by which clocks may differ.

    Raises:
        StartupError: PyJWT is not installed.
    """

    def __init__(
        self,
        key: str | bytes,
        algorithms: Sequence[str] = ("HS256",),
        *,
        audience: str | None = None,
        issuer: str | None = None,
        user_claim: str = "sub",
        leeway: float = 0.0,
    ) -> None:
        try:
            import jwt
        except ImportError:
            raise StartupError("JSON Web Tokens need PyJWT; install engine[jwt]") from None
        if isinstance(algorithms, str) or not algorithms or "none" in algorithms:
            raise ConfigError("algorithms", algorithms, 'give a list of signed algorithms, such as ("HS256",)')
        self._decode: Callable[..., dict[str, Any]] = jwt.decode
        self._invalid: type[Exception] = jwt.InvalidTokenError
        self._key = key
        self._options: dict[str, Any] = {
            "algorithms": list(algorithms),
            "audience": audience,
            "issuer": issuer,
            "leeway": leeway,
        }
        self._user_claim = user_claim
        self._leeway = leeway

    def __call__(self, head: RequestHead) -> User | None:
        """The user that the request's token names; None: there is none, or it is not valid."""
        token = bearer_token(head)
        if token is None:
            return None
        try:
            claims = self._decode(token, self._key, **self._options)
        except self._invalid:
            return None
        user_id, expires = claims.get(self._user_claim), claims.get("exp")
        if expires is not None:
            expires = float(expires) + self._leeway
        return User(None if user_id is None else str(user_id), claims, expires)
