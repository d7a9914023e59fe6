"""HTTP/1.1, HTTP/2, WebSocket, gRPC and SignalR on one port, on Trio.

The public names, nothing else. They are imported when they are first used, so that a part of the
package (a sans-IO core, say) can be used without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine import errors
    from engine.app import App
    from engine.config import Config
    from engine.grpc.channel import Channel
    from engine.grpc.context import CallContext
    from engine.http.request import Request
    from engine.http.response import Response, StreamingResponse
    from engine.server import serve
    from engine.signalr.client.connection import HubConnection, HubConnectionState
    from engine.signalr.filters import HubFilter
    from engine.signalr.hub import Hub, HubContext, authorize, hub_method
    from engine.transport.callbacks import StreamProtocol
    from engine.websocket.broadcast import broadcast
    from engine.websocket.callbacks import WebSocketProtocol
    from engine.websocket.client import connect_websocket
    from engine.websocket.connection import WebSocket
    from engine.websocket.reconnect import reconnecting_websocket

__all__ = [
    "App",
    "CallContext",
    "Channel",
    "Config",
    "Hub",
    "HubConnection",
    "HubConnectionState",
    "HubContext",
    "HubFilter",
    "Request",
    "Response",
    "StreamProtocol",
    "StreamingResponse",
    "WebSocket",
    "WebSocketProtocol",
    "__version__",
    "authorize",
    "broadcast",
    "connect_websocket",
    "errors",
    "hub_method",
    "reconnecting_websocket",
    "serve",
]

__version__ = "0.1.0"

_HOMES = {
    "App": "engine.app",
    "CallContext": "engine.grpc.context",
    "Channel": "engine.grpc.channel",
    "Config": "engine.config",
    "Hub": "engine.signalr.hub",
    "HubConnection": "engine.signalr.client.connection",
    "HubConnectionState": "engine.signalr.client.connection",
    "HubContext": "engine.signalr.hub",
    "HubFilter": "engine.signalr.filters",
    "Request": "engine.http.request",
    "Response": "engine.http.response",
    "StreamProtocol": "engine.transport.callbacks",
    "StreamingResponse": "engine.http.response",
    "WebSocket": "engine.websocket.connection",
    "WebSocketProtocol": "engine.websocket.callbacks",
    "authorize": "engine.signalr.hub",
    "broadcast": "engine.websocket.broadcast",
    "connect_websocket": "engine.websocket.client",
    "hub_method": "engine.signalr.hub",
    "reconnecting_websocket": "engine.websocket.reconnect",
    "serve": "engine.server",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
