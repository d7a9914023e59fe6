"""What `serve` prints when it has begun: where, what, and a command to try each kind with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from engine.routing import RouteInfo

# What to send where more than nothing shows more; the demo's.
_REQUESTS = {"/greet.Greeter/SayHello": '{"name": "World"}'}
_HUB_CALLS = {"/chathub": "SendMessage Ada hello"}
_REFLECTION = "/grpc.reflection."


def urls(addresses: Sequence[str], tls_addresses: Sequence[str], *, tls: bool) -> list[str]:
    """The base URLs, cleartext first. TLS without a port of its own shares the cleartext port."""
    if addresses and addresses[0].startswith("/"):
        return [f"unix:{addresses[0]}", *(f"https://{each}" for each in tls_addresses)]
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
    reflects = any(route.path.startswith(_REFLECTION) for route in routes)
    if base.startswith("unix:"):
        path = shlex.quote(base.removeprefix("unix:"))
        printed.append(f"  {'http':<10} curl --unix-socket {path} http://localhost/")
        routes = ()
    for kind in ("http", "websocket", "grpc", "hub"):
        of_kind = [route for route in routes if route.kind == kind and not route.path.startswith(_REFLECTION)]
        if not of_kind:
            continue
        example = min(of_kind, key=_difficulty)
        more = f"  (and {len(of_kind) - 1} more)" if len(of_kind) > 1 else ""
        printed.append(f"  {kind:<10} {_command(example, base, reflects=reflects)}{more}")
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


def _difficulty(route: RouteInfo) -> bool:
    """Whether the command would not work as it is printed: a placeholder, a stream of requests."""
    return "{" in route.path or (route.kind == "grpc" and route.detail != "unary")


def _command(route: RouteInfo, base: str, *, reflects: bool) -> str:
    url = base + route.path
    match route.kind:
        case "websocket":
            return f"python -m websockets {shlex.quote(url.replace('http', 'ws', 1))}"
        case "grpc":
            request = _REQUESTS.get(route.path, "{}")
            if reflects:
                return f"python -m engine call {base.partition('//')[2]} {route.path[1:]} '{request}'"
            return f"curl -H content-type:application/json -d '{request}' {url}"
        case "hub":
            if route.path in _HUB_CALLS and route.name == "ChatHub":
                return f"python -m engine hub call {url} {_HUB_CALLS[route.path]}"
            return f"curl -X POST '{url}/negotiate?negotiateVersion=1'"
        case _:
            if "GET" in route.methods:
                return f"curl {url}" if route.path != "/" else f"open {url} in a browser"
            return f"curl -X {route.methods[0]} -d text {url}"
