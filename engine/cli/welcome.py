"""What `serve` prints when it has begun: where, what, and a command to try each kind with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from engine.routing import RouteInfo

# A gRPC message can be written by hand: flag, length, fields. An empty one suits every unary method.
_GRPC_MESSAGES = {"/greet.Greeter/SayHello": r"\0\0\0\0\7\n\5World"}
_EMPTY_GRPC_MESSAGE = r"\0\0\0\0\0"


def urls(addresses: Sequence[str], tls_addresses: Sequence[str], *, tls: bool) -> list[str]:
    """The base URLs, cleartext first. TLS without a port of its own shares the cleartext port."""
    encrypted = tls_addresses or (addresses if tls else ())
    return [f"http://{each}" for each in addresses] + [f"https://{each}" for each in encrypted]


def lines(
    target: str,
    base_urls: Sequence[str],
    routes: Sequence[RouteInfo],
    protocols: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[str]:
    """What to print; `protocols` are the custom ones' real addresses by the address that the app gave.

    The first line holds the first URL, so that programs can read the real port.
    """
    printed = [f"Serving {target} on {base_urls[0]}"]
    printed += [f"{'and':>{len(f'Serving {target} on')}} {url}" for url in base_urls[1:]]
    base = _reachable(base_urls[0])
    for kind in ("http", "websocket", "grpc", "hub"):
        of_kind = [route for route in routes if route.kind == kind]
        if not of_kind:
            continue
        example = min(of_kind, key=lambda route: "{" in route.path)  # one that works as it is printed
        more = f"  (and {len(of_kind) - 1} more)" if len(of_kind) > 1 else ""
        printed.append(f"  {kind:<10} {_command(example, base)}{more}")
    printed += [f"  {'protocol':<10} {_netcat(address)}" for addresses in protocols.values() for address in addresses]
    printed.append("Ctrl-C stops; python -m engine routes lists all.")
    return printed


def _netcat(address: str) -> str:
    if address.startswith("/"):
        return f"nc -U {shlex.quote(address)}"
    host, _, port = address.rpartition(":")
    return f"nc {host.strip('[]')} {port}"


def _reachable(url: str) -> str:
    """A URL that works on this machine where the server listens on all addresses."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _command(route: RouteInfo, base: str) -> str:
    url = base + route.path
    match route.kind:
        case "websocket":
            return f"python -m websockets {shlex.quote(url.replace('http', 'ws', 1))}"
        case "grpc":
            message = _GRPC_MESSAGES.get(route.path, _EMPTY_GRPC_MESSAGE)
            return (
                f"printf '{message}' | curl -s --http2-prior-knowledge -H content-type:application/grpc "
                f"-H te:trailers --data-binary @- -o - {url}"
            )
        case "hub":
            return f"curl -X POST '{url}/negotiate?negotiateVersion=1'"
        case _:
            if "GET" in route.methods:
                return f"curl {url}" if route.path != "/" else f"open {url} in a browser"
            return f"curl -X {route.methods[0]} -d text {url}"
