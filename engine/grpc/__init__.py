"""gRPC services: the endpoint that serves them and what handlers hold."""

from __future__ import annotations

from engine.errors import RpcError, StatusCode
from engine.grpc.context import CallContext
from engine.grpc.endpoint import GrpcEndpoint
from engine.grpc.requests import RequestStream
from engine.grpc.service import MethodKind, MethodSpec, ServiceBase, ServiceSpec, StreamingReply, unimplemented
from engine.wire.grpc.metadata import Metadata

__all__ = [
    "CallContext",
    "GrpcEndpoint",
    "Metadata",
    "MethodKind",
    "MethodSpec",
    "RequestStream",
    "RpcError",
    "ServiceBase",
    "ServiceSpec",
    "StatusCode",
    "StreamingReply",
    "unimplemented",
]
