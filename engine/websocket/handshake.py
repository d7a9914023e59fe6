"""What an application may say about a WebSocket before it is accepted.

Owns: `Handshake`, which `authorize` gets, and the policy on origins. The rules of the protocol itself
are `engine.wire.websocket.handshake`'s; who sends the answer is `engine.websocket.endpoint`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace

from engine.errors import ConfigError, LocalProtocolError
from engine.transport.exchange import Fields, Peer, RequestHead

__all__ = ["Handshake"]

_NAME_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_OURS = frozenset(("connection", "upgrade", "transfer-encoding", "content-length", "keep-alive"))
SAME_ORIGIN = "same-origin"


class Handshake:
    """A request that may become a WebSocket; every rule of the protocol is met.

    Attributes:
        head: the request.
        peer: who sent it.
        path_params: what the path template captured.
        offered_subprotocols: the client's, its favourite first.
        state: for `authorize` to leave what it found out; the handler has it as `ws.state`.
    """

    __slots__ = ("_subprotocol", "head", "offered_subprotocols", "path_params", "peer", "response_fields", "state")

    def __init__(
        self,
        head: RequestHead,
        peer: Peer,
        path_params: Mapping[str, str],
        offered_subprotocols: tuple[str, ...],
        subprotocol: str | None,
    ) -> None:
        self.head = head
        self.peer = peer
        self.path_params = path_params
        self.offered_subprotocols = offered_subprotocols
        self.state = SimpleNamespace()
        self.response_fields: list[tuple[bytes, bytes]] = []
        self._subprotocol = subprotocol

    @property
    def headers(self) -> Fields:
        """The request's header fields: pairs of bytes, names in lower case."""
        return self.head.headers

    @property
    def origin(self) -> str | None:
        """The Origin field; None where there is none, as from programs that are no browsers."""
        value = self.head.header(b"origin")
        return None if value is None else value.decode("latin-1")

    @property
    def subprotocol(self) -> str | None:
        """The one to speak. Assign one of `offered_subprotocols`, or None, to choose otherwise.

        Raises:
            LocalProtocolError: the client did not offer it, and would close the connection (RFC 6455 4.1).
        """
        return self._subprotocol

    @subprotocol.setter
    def subprotocol(self, name: str | None) -> None:
        if name is not None and name not in self.offered_subprotocols:
            raise LocalProtocolError(f"subprotocol {name!r} was not offered; choose from {self.offered_subprotocols}")
        self._subprotocol = name

    def add_header(self, name: str, value: str) -> None:
        """Add a field to the response that accepts, such as Set-Cookie.

        Raises:
            LocalProtocolError: not a field that an application can add, or a value with control characters.
        """
        lower = name.lower()
        if not lower or not _NAME_CHARACTERS.issuperset(lower):
            raise LocalProtocolError(f"{name!r} is no field name; use letters, digits and dashes")
        if lower in _OURS or lower.startswith("sec-websocket-"):
            raise LocalProtocolError(f"the field {name!r} belongs to the handshake; leave it out")
        stripped = value.strip(" \t")
        try:
            raw = stripped.encode("latin-1")
        except UnicodeEncodeError:
            raise LocalProtocolError(f"the value of {name!r} is not Latin-1; encode it") from None
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in raw):
            raise LocalProtocolError(f"control characters in the field {name!r}; check where its value comes from")
        self.response_fields.append((lower.encode("ascii"), raw))


def check_origins(origins: Collection[str] | str | None) -> frozenset[str] | None:
    """The policy as a set, in lower case; None: any.

    Raises:
        ConfigError: an entry is no origin.
    """
    if origins is None:
        return None
    entries = frozenset((origins,) if isinstance(origins, str) else origins)
    for entry in entries:
        scheme, separator, host = entry.partition("://")
        if entry not in (SAME_ORIGIN, "null") and not (scheme and separator and host and "/" not in host):
            raise ConfigError("origins", entry, f'give "https://example.com", without a path, or "{SAME_ORIGIN}"')
    return frozenset(entry.lower() for entry in entries)


def is_origin_allowed(head: RequestHead, allowed: frozenset[str] | None) -> bool:
    """Whether a page of the request's origin may open it (RFC 6455 section 10.2).

    A request without an origin is none of a browser's, and nothing that a page could forge.
    """
    if allowed is None:
        return True
    values = [value for name, value in head.headers if name == b"origin"]
    if not values:
        return True
    if len(values) > 1:
        return False
    origin = values[0].decode("latin-1").lower()
    if SAME_ORIGIN in allowed and origin == f"{head.scheme}://{head.authority}".lower():
        return True
    return origin != SAME_ORIGIN and origin in allowed
