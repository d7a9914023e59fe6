"""The request as a handler of plain HTTP sees it.

Owns: the views of a head (headers, query, path parameters) and the reading of a body, which is
bounded by `http1.max_body_size` or `http2.max_body_size`. Never answers anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import parse_qsl

import msgspec

from engine.errors import HTTPError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.transport.exchange import Exchange, Fields, Peer

__all__ = ["Headers", "QueryParams", "Request"]

T = TypeVar("T")

_MAX_QUERY_FIELDS = 1000  # the standard library's and PHP's order of magnitude


class Headers(Mapping[str, str]):
    """Header fields by name, whatever its case; repeated ones joined with `, ` (RFC 9110 5.3)."""

    __slots__ = ("_joined", "raw")

    def __init__(self, fields: Fields) -> None:
        self.raw = fields
        self._joined: dict[str, str] | None = None

    def _index(self) -> dict[str, str]:
        joined = self._joined
        if joined is None:
            joined = self._joined = {}
            for raw_name, raw_value in self.raw:
                name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
                separator = "; " if name == "cookie" else ", "  # RFC 9113 8.2.3
                joined[name] = f"{joined[name]}{separator}{value}" if name in joined else value
        return joined

    def __getitem__(self, name: str) -> str:
        return self._index()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())

    def getlist(self, name: str) -> list[str]:
        """Each value of a repeated field."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for field, value in self.raw if field == wanted]

    def __repr__(self) -> str:
        return f"Headers({self._index()!r})"


class QueryParams(Mapping[str, str]):
    """Query parameters by name, the last of each; `getlist` gives all."""

    __slots__ = ("_last", "pairs")

    def __init__(self, query: str) -> None:
        """
        Raises:
            HTTPError: 400, more than a thousand parameters.
        """
        try:
            self.pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS) if query else []
        except ValueError:
            raise HTTPError(400, f"more than {_MAX_QUERY_FIELDS} query parameters; send fewer") from None
        self._last = dict(self.pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def getlist(self, name: str) -> list[str]:
        """Each value of a repeated parameter."""
        return [value for key, value in self.pairs if key == name]

    def __repr__(self) -> str:
        return f"QueryParams({self.pairs!r})"


class Request:
    """One request.

    Attributes:
        method: such as `GET`.
        path: percent-decoded, without the query.
        params: the parameters of the route's path template.
    """

    __slots__ = ("_body", "_headers", "_query", "_streamed", "exchange", "method", "params", "path")

    def __init__(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        self.exchange = exchange
        self.method = exchange.head.method
        self.path = exchange.head.path
        self.params = params
        self._headers: Headers | None = None
        self._query: QueryParams | None = None
        self._body: bytes | None = None
        self._streamed = False

    @property
    def headers(self) -> Headers:
        """The header fields."""
        if self._headers is None:
            self._headers = Headers(self.exchange.head.headers)
        return self._headers

    @property
    def query(self) -> QueryParams:
        """The query's parameters, decoded."""
        if self._query is None:
            self._query = QueryParams(self.exchange.head.query)
        return self._query

    @property
    def query_string(self) -> str:
        """The query as sent, without the question mark."""
        return self.exchange.head.query

    @property
    def path_params(self) -> Mapping[str, str]:
        """The same as `params`."""
        return self.params

    @property
    def host(self) -> str:
        """What the client calls this server: `example.org`, `localhost:8000`; may be empty."""
        return self.exchange.head.authority

    @property
    def url(self) -> str:
        """The whole URL, as far as the request tells it."""
        head = self.exchange.head
        query = f"?{head.query}" if head.query else ""
        return f"{head.scheme}://{head.authority}{head.raw_path.decode('latin-1')}{query}"

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self.exchange.peer

    @property
    def config(self) -> Config:
        """The server's settings."""
        return self.exchange.config

    async def stream(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, as fast as it is taken; only once.

        Cancellation loses what has not been taken.

        Raises:
            LimitExceeded: the body is larger than the server accepts; uncaught it is answered 413.
            ConnectionClosed: it can no longer arrive whole.
        """
        if self._body is not None:
            if self._body:
                yield self._body
            return
        if self._streamed:
            raise RuntimeError("the body was streamed before; keep what is needed again, or use body()")
        self._streamed = True
        receive = self.exchange.receive
        data = await receive()
        while data:
            yield data
            data = await receive()

    async def body(self) -> bytes:
        """The whole body; again when asked again. Cancellation loses what had arrived.

        Raises:
            LimitExceeded: it is larger than the server accepts; uncaught it is answered 413.
            ConnectionClosed: it can no longer arrive whole.
        """
        if self._body is None:
            self._body = b"".join([piece async for piece in self.stream()])
        return self._body

    async def text(self) -> str:
        """The whole body as UTF-8.

        Raises:
            HTTPError: 400, it is not.
        """
        try:
            return (await self.body()).decode()
        except UnicodeDecodeError:
            raise HTTPError(400, "the body is not UTF-8") from None

    @overload
    async def json(self) -> Any: ...

    @overload
    async def json(self, type: type[T]) -> T: ...

    async def json(self, type: Any = Any) -> Any:
        """The whole body as JSON, converted to `type` (a dataclass, a `msgspec.Struct`, `list[int]` ...).

        Raises:
            HTTPError: 400, it is not JSON, or not of that type.
        """
        try:
            return msgspec.json.decode(await self.body(), type=type)
        except msgspec.DecodeError as error:  # ValidationError too
            raise HTTPError(400, f"the body is not the JSON that is wanted: {error}") from None
        except UnicodeDecodeError:
            raise HTTPError(400, "the body is not UTF-8") from None
        except RecursionError:
            raise HTTPError(400, "the body is nested too deeply") from None
