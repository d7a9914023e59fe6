"""gRPC: the endpoint that serves services and what handlers hold; the channel that calls them and its stubs."""

from __future__ import annotations

from engine.errors import RpcError, StatusCode
from engine.grpc.call import CallDetails
from engine.grpc.channel import Channel, ChannelState
from engine.grpc.client import (
    BidiMethod,
    BidiStream,
    ClientInterceptor,
    ClientStream,
    ClientStreamMethod,
    Reply,
    ServerStream,
    ServerStreamMethod,
    StubBase,
    UnaryMethod,
)
from engine.grpc.context import CallContext
from engine.grpc.credentials import AuthContext, access_token
from engine.grpc.deprecation import deprecated
from engine.grpc.endpoint import GrpcEndpoint
from engine.grpc.error_details import RichStatus, rich_error, rich_status
from engine.grpc.interceptors import MethodOptions, ServerInterceptor
from engine.grpc.methods import MethodKind, MethodSpec, ServiceSpec
from engine.grpc.requests import RequestStream
from engine.grpc.service import ServiceBase, StreamingReply, unimplemented
from engine.wire.grpc.metadata import Metadata

__all__ = [
    "AuthContext",
    "BidiMethod",
    "BidiStream",
    "CallContext",
    "CallDetails",
    "Channel",
    "ChannelState",
    "ClientInterceptor",
    "ClientStream",
    "ClientStreamMethod",
    "GrpcEndpoint",
    "Metadata",
    "MethodKind",
    "MethodOptions",
    "MethodSpec",
    "Reply",
    "RequestStream",
    "RichStatus",
    "RpcError",
    "ServerInterceptor",
    "ServerStream",
    "ServerStreamMethod",
    "ServiceBase",
    "ServiceSpec",
    "StatusCode",
    "StreamingReply",
    "StubBase",
    "UnaryMethod",
    "access_token",
    "deprecated",
    "rich_error",
    "rich_status",
    "unimplemented",
]
