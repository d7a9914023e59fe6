"""Which endpoint answers a request: path templates, and what can share a path.

Owns: the table from paths to endpoints, the refusal of collisions when the table is built, and the
listing of it. Never looks at a body and never answers anything itself.

A template is a path whose segments are literal, `{name}` (one non-empty segment), or, as the last
one, `{name:path}` (the rest, slashes included, perhaps empty). Matching is on the percent-decoded
path. A literal segment is preferred to `{name}`, and that to `{name:path}`, so the order in which
routes are added never matters.

One path can hold plain HTTP methods and one WebSocket; a hub or a gRPC method has its path alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.transport.callbacks import StreamProtocol
    from engine.transport.exchange import Exchange, RequestHead

__all__ = ["Endpoint", "ProtocolRoute", "RouteInfo", "Router", "protocol_route"]

Params = Mapping[str, str]

NO_PARAMS: Params = {}

# application/grpc, application/grpc+proto, application/grpc-web, application/connect+json ...
_RPC_CONTENT_TYPES = (b"application/grpc", b"application/connect+")
# What a browser announces of such a call before it makes it, if it is one across origins.
_RPC_FIELDS = (b"x-grpc-web", b"connect-protocol-version")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::(\w+))?\}")


class Endpoint(Protocol):
    """What serves an exchange once the router has chosen it."""

    kind: str

    async def serve(self, exchange: Exchange, params: Params) -> None:
        """Answer the exchange. Cancellation is the driver's way to say that nobody listens any more."""

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Write the protocol's answer to an error that left `serve`; synchronous, and it must not raise."""


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A line of the listing of routes."""

    kind: str  # "http", "websocket", "grpc", "hub" or "protocol"
    path: str  # of a protocol: its address
    methods: tuple[str, ...]  # HTTP methods; empty where the protocol fixes them
    name: str  # of the handler, as its author wrote it
    detail: str = ""  # what else is worth a word: subprotocols, the shape of a gRPC call


@dataclass(frozen=True, slots=True)
class ProtocolRoute:
    """A custom protocol on a listener of its own."""

    address: str  # as the app gave it
    factory: Callable[[], StreamProtocol]
    host: str | None = None  # None: server.host
    port: int = 0
    unix_path: str | None = None
    tls: bool = False


def protocol_route(address: int | str, factory: Callable[[], StreamProtocol], *, tls: bool) -> ProtocolRoute:
    """Take an address apart: a port, `host:port` or `unix:/path`.

    Raises:
        ConfigError: it is none of them.
    """
    if isinstance(address, str) and address.startswith("unix:"):
        return ProtocolRoute(address, factory, unix_path=address.removeprefix("unix:"), tls=tls)
    host, _, port = str(address).rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError("address", address, 'give a port from 0 to 65535, "host:port", or "unix:/path"')
    return ProtocolRoute(str(address), factory, host=host.strip("[]") or None, port=int(port), tls=tls)


@dataclass(slots=True)
class _Place:
    """All that is registered at one template."""

    template: str
    names: tuple[str, ...]
    http: dict[str, Any] = field(default_factory=dict)  # method: handler
    http_endpoint: Endpoint | None = None
    websocket: Endpoint | None = None
    exclusive: Endpoint | None = None  # a hub's or a gRPC method's: it takes every request
    owners: dict[str, str] = field(default_factory=dict)  # what is taken: by whom, for messages

    def choose(self, head: RequestHead) -> Endpoint | None:
        if self.exclusive is not None:
            return self.exclusive
        websocket, http = self.websocket, self.http_endpoint
        if websocket is None:
            return http
        # A handshake is the WebSocket's. So is a GET that nobody else takes: it is answered 426,
        # which says what to do, where 405 would not.
        if http is None or head.protocol == "websocket":
            return websocket
        return websocket if head.method == "GET" and "GET" not in self.http else http


@dataclass(slots=True)
class _Node:
    """One segment of the tree of templates."""

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    rest: _Place | None = None
    place: _Place | None = None


def _split(template: str) -> tuple[list[str], tuple[str, ...]]:
    """Segments (`{}` and `{:path}` for parameters) and the parameters' names.

    Raises:
        ConfigError: it is not a template.
    """
    if not template.startswith("/"):
        raise ConfigError("path", template, "begin it with a slash")
    segments: list[str] = []
    names: list[str] = []
    parts = template[1:].split("/")
    for index, part in enumerate(parts):
        if "{" not in part and "}" not in part:
            segments.append(part)
            continue
        match = _PARAMETER.fullmatch(part)
        if match is None:
            hint = f"{part!r} must be a whole segment: {{name}}, or {{name:path}} at the end"
            raise ConfigError("path", template, hint)
        name, converter = match.groups()
        if converter not in (None, "path"):
            raise ConfigError("path", template, f"there is no {converter!r}; use {{{name}}} or {{{name}:path}}")
        if converter == "path" and index != len(parts) - 1:
            raise ConfigError("path", template, f"{part} takes the rest of the path, so it must come last")
        if name in names:
            raise ConfigError("path", template, f"{{{name}}} appears twice; give each parameter a name of its own")
        names.append(name)
        segments.append("{:path}" if converter else "{}")
    return segments, tuple(names)


class Router:
    """The table of one app. It is filled when the app is built and only read afterwards."""

    def __init__(self, http_endpoint: Callable[[Mapping[str, Any]], Endpoint], not_found: Endpoint) -> None:
        """`http_endpoint` makes the endpoint of one path from its handlers by method."""
        self._make_http_endpoint = http_endpoint
        self._not_found = not_found
        self._grpc: Endpoint | None = None
        self._static: dict[str, _Place] = {}
        self._root = _Node()
        self._has_templates = False
        self._places: dict[tuple[str, ...], _Place] = {}
        self._infos: list[RouteInfo] = []

    # -- building -------------------------------------------------------------

    def add_http(self, path: str, methods: Sequence[str], handler: Any, name: str) -> None:
        """Let `handler` answer these methods on `path`.

        Raises:
            ConfigError: a method is already taken there, or the path is not a template.
        """
        place = self._claim(path, [f"{method} {path}" for method in methods], "http", name)
        place.http.update(dict.fromkeys(methods, handler))
        place.http_endpoint = self._make_http_endpoint(dict(place.http))
        self._infos.append(RouteInfo("http", path, tuple(methods), name))

    def add_websocket(self, path: str, endpoint: Endpoint, name: str, detail: str = "") -> None:
        """Let `endpoint` answer the WebSocket handshakes on `path`.

        Raises:
            ConfigError: the path has one already, or is not a template.
        """
        self._claim(path, ["websocket"], "websocket", name).websocket = endpoint
        self._infos.append(RouteInfo("websocket", path, (), name, detail))

    def add_hub(self, path: str, endpoint: Endpoint, name: str, detail: str = "") -> None:
        """Let `endpoint` answer everything on `path`, `path/negotiate` and `path/refresh`.

        Raises:
            ConfigError: one of the paths is taken.
        """
        for each in (path, path.rstrip("/") + "/negotiate", path.rstrip("/") + "/refresh"):
            self._claim(each, ["all"], "hub", name).exclusive = endpoint
        self._infos.append(RouteInfo("hub", path, (), name, detail))

    def add_grpc(self, endpoint: Endpoint, methods: Iterable[tuple[str, str, str]]) -> None:
        """Let `endpoint` answer gRPC: `methods` (path, name, detail), and every unknown one.

        Raises:
            ConfigError: a method's path is taken.
        """
        for path, name, detail in methods:
            self._claim(path, ["all"], "grpc", name).exclusive = endpoint
            self._infos.append(RouteInfo("grpc", path, (), name, detail))
        self._grpc = endpoint

    def _claim(self, path: str, slots: Sequence[str], kind: str, name: str) -> _Place:
        segments, names = _split(path)
        place = self._places.get(tuple(segments))
        claimant = f"{kind} {name}"
        if place is None:
            place = _Place(path, names)
            self._places[tuple(segments)] = place
            self._insert(segments, place)
        elif place.template != path:
            other = next(iter(place.owners.values()))
            hint = f"{claimant} matches the same as {other} at {place.template}; name the parameters alike"
            raise ConfigError("path", path, hint)
        for slot in slots:
            taken = [place.owners[each] for each in place.owners if each in (slot, "all") or slot == "all"]
            if taken:
                raise ConfigError("path", path, f"{claimant} collides with {taken[0]}; give one of them another path")
        place.owners.update(dict.fromkeys(slots, claimant))
        return place

    def _insert(self, segments: Sequence[str], place: _Place) -> None:
        if not place.names:
            self._static[place.template] = place
            return
        self._has_templates = True
        node = self._root
        for segment in segments:
            if segment == "{:path}":
                node.rest = place
                return
            if segment == "{}":
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.place = place

    # -- resolving ------------------------------------------------------------

    def resolve(self, head: RequestHead) -> tuple[Endpoint, Params]:
        """The endpoint for a request and the path's parameters."""
        place = self._static.get(head.path)
        if place is not None:
            return place.choose(head) or self._not_found, NO_PARAMS
        if self._grpc is not None and _is_rpc(head):
            return self._grpc, NO_PARAMS  # an unknown method: UNIMPLEMENTED, in gRPC's own words
        if self._has_templates and head.path.startswith("/"):
            values: list[str] = []
            place = _walk(self._root, head.path[1:].split("/"), 0, values)
            if place is not None:
                return place.choose(head) or self._not_found, dict(zip(place.names, values, strict=True))
        return self._not_found, NO_PARAMS

    def routes(self) -> list[RouteInfo]:
        """All routes in the order in which they were added."""
        return list(self._infos)


def _is_rpc(head: RequestHead) -> bool:
    """A call, or the CORS preflight of one, whatever its path."""
    if (head.header(b"content-type") or b"").startswith(_RPC_CONTENT_TYPES):
        return True
    if head.method == "OPTIONS":
        announced = (head.header(b"access-control-request-headers") or b"").lower()
        return any(name in announced for name in _RPC_FIELDS)
    return head.header(b"connect-protocol-version") is not None


def _walk(node: _Node, segments: Sequence[str], index: int, values: list[str]) -> _Place | None:
    """Depth first, the most literal first; `values` holds the parameters of the match."""
    if index == len(segments):
        return node.place
    segment = segments[index]
    child = node.literals.get(segment)
    if child is not None:
        found = _walk(child, segments, index + 1, values)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        values.append(segment)
        found = _walk(node.parameter, segments, index + 1, values)
        if found is not None:
            return found
        values.pop()
    if node.rest is not None:
        values.append("/".join(segments[index:]))
        return node.rest
    return None
