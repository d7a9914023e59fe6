"""WebSocket URLs (RFC 6455 section 3), and those of Unix sockets.

Owns: what a URL means for connecting and for the request, and where a redirect leads.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from engine.errors import ConfigError

_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}
_HINT = "give ws://host:port/path, wss://..., or ws+unix:///path/of/socket:/path"
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")
_SAFE_IN_PATH = "/%:@!$&'()*+,;=~-._"
_SAFE_IN_QUERY = _SAFE_IN_PATH + '?[]|{}^`"<>\\'


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says.

    Attributes:
        tls: wss.
        host: without brackets, in ASCII.
        port: of TCP.
        target: path and query, for the request.
        unix: the path of a Unix socket to connect to instead of host and port.
        authorization: the Authorization field for the user and password in the URL, or None.
    """

    tls: bool
    host: str
    port: int
    target: str
    unix: str | None = None
    authorization: str | None = None

    @property
    def authority(self) -> str:
        """For Host and `:authority`; without the default port (RFC 9110 section 4.2.3)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.tls) else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int, str | None]:
        """Equal for URLs of the same server."""
        return self.tls, self.host, self.port, self.unix

    @property
    def url(self) -> str:
        """As text, without credentials."""
        if self.unix is not None:
            return f"ws+unix://{self.unix}:{self.target}"
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.target}"


def parse_address(url: str, unix: str | None = None) -> Address:
    """Read a URL; http and https mean ws and wss.

    Args:
        url: "ws+unix:///run/app.sock:/path" names a Unix socket and then a path, as Node's `ws` has it.
        unix: the path of a Unix socket to connect to, whatever host the URL names.

    Raises:
        ConfigError: it is no such URL.
    """
    shown = re.sub(r"//[^/@]*@", "//", url)  # no passwords in errors
    if _FORBIDDEN.search(url):
        raise ConfigError("url", shown, "no spaces and control characters; percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("url", shown, f"{error}; {_HINT}") from None
    if parts.fragment or url.endswith("#"):
        # "Fragment identifiers ... MUST NOT be used on these URIs" (RFC 6455 section 3)
        raise ConfigError("url", shown, "leave off what starts with #; percent-encode a # that is meant")
    if parts.scheme == "ws+unix":
        path, _, target = parts.path.partition(":")
        if not path:
            raise ConfigError("url", shown, _HINT)
        return Address(False, "localhost", 80, _target(target, parts.query), unquote(path))
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError("url", shown, _HINT)
    tls = _SCHEMES[parts.scheme]
    return Address(
        tls=tls,
        host=_ascii_host(parts.hostname, shown),
        port=_default_port(tls) if port is None else port,
        target=_target(parts.path, parts.query),
        unix=unix,
        authorization=_authorization(parts),
    )


def follow(address: Address, location: str) -> Address:
    """Where a redirect leads.

    Raises:
        ConfigError: to no WebSocket, or from wss to ws.
    """
    scheme = "https" if address.tls else "http"  # `urljoin` does not know ws
    absolute = urljoin(f"{scheme}://{address.authority}{address.target}", location)
    target = parse_address(absolute.partition("#")[0])
    if address.tls and not target.tls:
        raise ConfigError("redirect", target.url, "the server leads from wss to ws; that is not followed")
    if target.unix is not None:
        raise ConfigError("redirect", target.url, "the server leads to a Unix socket; that is not followed")
    if address.unix is not None:
        if target.origin[:3] != address.origin[:3]:
            raise ConfigError(
                "redirect", target.url, "the server leads away from its Unix socket; that is not followed"
            )
        return Address(target.tls, target.host, target.port, target.target, address.unix)
    return target


def _default_port(tls: bool) -> int:
    return 443 if tls else 80


def _target(path: str, query: str) -> str:
    target = quote(path or "/", safe=_SAFE_IN_PATH)
    if not target.startswith("/"):
        target = "/" + target
    return f"{target}?{quote(query, safe=_SAFE_IN_QUERY)}" if query else target


def _ascii_host(host: str, shown: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ConfigError("url", shown, "the host is no domain name") from None


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")
