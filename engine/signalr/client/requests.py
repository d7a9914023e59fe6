"""The HTTP requests of one hub connection, with its headers, token and cookies.

Owns: credentials. A token is fetched anew for each negotiation and each further socket of a connection,
and once more when a server says 401; a token that came with a redirection replaces the user's. It goes
in the Authorization field, never in the query, which ends up in logs. Cookies are kept, because load
balancers keep a client on one server with them. Never interprets an answer except for 401 and
redirections.

Spec: AccessTokenHttpClient.ts, HttpConnection.ts of the official client.
"""

from __future__ import annotations

import inspect
import os
import platform
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, RemoteProtocolError
from engine.transport.http1_client import Http1Client, Response, StreamedResponse, discard, field, split_url
from engine.transport.stream import ByteStream
from engine.websocket.opening import field_pairs, shake_hands
from engine.wire.websocket.client_handshake import ClientHandshake, Offered, Opened, Rejected

__all__ = ["AccessToken", "HubRequests"]

AccessToken = str | Callable[[], str | Awaitable[str | None] | None]
"""A token, or what makes one, synchronously or not."""

USER_AGENT = f"engine (SignalR; {platform.system()}; Python {platform.python_version()})"
REQUEST_TIMEOUT = 100.0  # seconds; the JavaScript client's
_MAX_REDIRECTS = 20  # of HTTP, for one request; fetch's
_REDIRECTIONS = frozenset((301, 302, 303, 307, 308))
_KEEP_METHOD = frozenset((307, 308))  # RFC 9110 section 15.4: the others may turn a POST into a GET
_Fields = list[tuple[str, str]]
_MAX_COOKIES = 50  # of one host, the oldest give way; RFC 6265 section 6.1 asks for as many
_PRINTABLE = re.compile(r"[!-~]+")
_CONFIG = Config()


@dataclass(frozen=True, slots=True)
class _Cookie:
    value: str
    secure: bool  # not for plain HTTP


def server_url(base: str, url: str) -> str:
    """Where a server sends us: a URL, or one relative to `base`, without its fragment.

    Raises:
        RemoteProtocolError: it is none.
    """
    try:
        target = urljoin(base, url).partition("#")[0]
        split_url(target)
        if _PRINTABLE.fullmatch(target) is None:
            raise ValueError
    except (ConfigError, ValueError):
        raise RemoteProtocolError(f"the server redirects to {url[:200]!r}, which is no URL of a server") from None
    return target


class HubRequests:
    """See the module.

    Args:
        http: sends them.
        headers: the user's own.
        access_token: the user's.
    """

    def __init__(
        self,
        http: Http1Client,
        headers: Mapping[str, str] | Sequence[tuple[str, str]],
        access_token: AccessToken | None,
    ) -> None:
        self.http = http
        self._headers = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        self._access_token = access_token
        self._redirected = False
        self._token: str | None = None
        self._cookies: dict[str, dict[str, _Cookie]] = {}  # by host

    async def begin(self) -> None:
        """A connection is about to be negotiated: fetch a token."""
        self._redirected = False
        await self._fetch_token()

    def redirect(self, token: str | None) -> None:
        """The hub is elsewhere, with this token or else the one that we have.

        Raises:
            RemoteProtocolError: no header field can hold it.
        """
        if token:
            if _PRINTABLE.fullmatch(token) is None:
                raise RemoteProtocolError("the server redirects with an access token that no header field can hold")
            self._redirected = True
            self._token = token

    async def request(
        self, method: str, url: str, body: bytes | None = None, content_type: str = "", *, repeat: bool = False
    ) -> Response:
        """A whole response, redirections followed.

        Args:
            repeat: nothing is lost when the server gets it twice, though it is a POST.

        Raises:
            ConnectionClosed: no connection, or no answer in time.
            RemoteProtocolError: what came is no HTTP.
        """
        extra = [("X-Requested-With", "XMLHttpRequest")]  # servers answer it with a 401 instead of a page to log in
        if content_type:
            extra.append(("Content-Type", content_type))
        with trio.move_on_after(REQUEST_TIMEOUT):
            response = await self._follow(method, url, body, extra, repeat)
            if response.status == 401 and await self._renew():
                response = await self._follow(method, url, body, extra, repeat)
            return response
        raise ConnectionClosed(1006, f"no answer from {url} within {REQUEST_TIMEOUT:g} s")

    async def _follow(
        self, method: str, url: str, body: bytes | None, extra: Sequence[tuple[str, str]], repeat: bool
    ) -> Response:
        async with self._stream(method, url, body, extra, repeat=repeat) as response:
            return Response(response.status, response.headers, await response.read())
        raise AssertionError("unreachable: the context manager does not swallow")

    @asynccontextmanager
    async def stream(self, url: str, accept: str) -> AsyncIterator[StreamedResponse]:
        """A GET whose body comes bit by bit, redirections followed; raises as `request`."""
        extra = [("Accept", accept)]
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self._stream("GET", url, None, extra))
            if response.status == 401 and await self._renew():
                await stack.aclose()
                response = await stack.enter_async_context(self._stream("GET", url, None, extra))
            yield response

    @asynccontextmanager
    async def _stream(
        self, method: str, url: str, body: bytes | None, extra: Sequence[tuple[str, str]], *, repeat: bool = False
    ) -> AsyncIterator[StreamedResponse]:
        asked = split_url(url)[0]
        for _ in range(_MAX_REDIRECTS):
            own = split_url(url)[0] == asked  # credentials stay where they were meant to go
            fields = self._fields(url, extra, secret=own)
            async with self.http.stream(method, url, fields, body, repeat=repeat) as response:
                self._keep_cookies(url, response.headers)
                location = field(response.headers, b"location")
                if location is None or response.status not in (_KEEP_METHOD if method != "GET" else _REDIRECTIONS):
                    yield response
                    return
                await response.read()
            url = server_url(url, location)
        raise RemoteProtocolError(f"{url} redirects for ever")

    async def upgrade(self, url: str) -> tuple[ByteStream, Opened] | Rejected:
        """Open a WebSocket.

        Raises:
            ConnectionClosed: the server cannot be reached, or went away.
            HandshakeRejected: the proxy refused.
            RemoteProtocolError, LimitExceeded: its answer breaks the protocol, or a limit.
        """
        answer = await self._upgrade(url)
        if isinstance(answer, Rejected) and answer.status == 401 and await self._renew():
            answer = await self._upgrade(url)
        return answer

    async def _upgrade(self, url: str) -> tuple[ByteStream, Opened] | Rejected:
        origin, target = split_url(url)
        offered = Offered(origin.authority.encode("ascii"), target.encode("ascii"), field_pairs(self._fields(url, ())))
        core = ClientHandshake(offered, os.urandom(16), _CONFIG.http1)
        stream = await self.http.connect(url)
        try:
            answer = await shake_hands(stream, core, _CONFIG.websocket)
            self._keep_cookies(url, answer.headers)
            if isinstance(answer, Opened):
                return stream, answer
        except BaseException:
            await discard(stream)  # noqa: ASYNC102  it shields itself
            raise
        await stream.aclose()
        return answer

    @property
    def makes_tokens(self) -> bool:
        """There can be another token than the present one."""
        return callable(self._access_token) and not self._redirected

    async def renew_token(self) -> None:
        """More is about to be asked for the same connection: with a new token, if it is the user's."""
        if not self._redirected:
            await self._fetch_token()

    async def _fetch_token(self) -> None:
        given = self._access_token
        if not callable(given):
            self._token = given
            return
        try:
            made = given()
            self._token = await made if inspect.isawaitable(made) else made
        except Exception as error:  # the invocation barrier: one attempt to connect has failed
            raise ConnectionClosed(1006, f"access_token failed: {type(error).__name__}: {error}") from error

    async def _renew(self) -> bool:
        """After a 401: another token, if there can be one."""
        if not self.makes_tokens:
            return False
        await self._fetch_token()
        return True

    def _fields(self, url: str, extra: Sequence[tuple[str, str]], *, secret: bool = True) -> _Fields:
        fields: _Fields = [("User-Agent", USER_AGENT)]
        if self._token and secret:
            fields.append(("Authorization", f"Bearer {self._token}"))
        origin = split_url(url)[0]
        cookies = [
            f"{name}={each.value}"
            for name, each in self._cookies.get(origin.host, {}).items()
            if origin.scheme == "https" or not each.secure
        ]
        if cookies:
            fields.append(("Cookie", "; ".join(cookies)))
        fields += extra
        if not secret:
            return fields
        given = {name.lower() for name, _ in self._headers}
        return [each for each in fields if each[0].lower() not in given] + self._headers

    def _keep_cookies(self, url: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """RFC 6265 without paths and domains: a hub is one host and one path."""
        for name, value in headers:
            if name != b"set-cookie":
                continue
            pair, *attributes = value.decode("latin-1").split(";")
            key, _, text = (part.strip() for part in pair.partition("="))
            cookies = self._cookies.setdefault(split_url(url)[0].host, {})
            cookies.pop(key, None)
            marks = [each.strip().lower() for each in attributes]
            if not any(map(_expires, marks)):
                cookies[key] = _Cookie(text, "secure" in marks)
                if len(cookies) > _MAX_COOKIES:
                    del cookies[next(iter(cookies))]


def _expires(attribute: str) -> bool:
    """An attribute of a cookie says that it is over."""
    name, _, value = attribute.partition("=")
    try:
        if name == "max-age":
            return int(value) <= 0
        return name == "expires" and parsedate_to_datetime(value).timestamp() <= time.time()
    except ValueError:
        return False
