"""`HealthService`: grpc.health.v1, what load balancers and orchestrators ask.

Owns: the status of each service and who watches it. While a server stops every status is NOT_SERVING.
Spec: grpc/grpc doc/health-checking.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import IntEnum

import trio

from engine.errors import StatusCode
from engine.grpc.context import CallContext
from engine.grpc.generated.grpc.health.v1.health_engine import HealthBase
from engine.grpc.generated.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

__all__ = ["HealthService", "ServingStatus"]

_MAX_LISTED = 100  # grpc-go's: a list is for looking at


class ServingStatus(IntEnum):
    """The wire values of `HealthCheckResponse.ServingStatus`."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3  # what Watch says of a service that is not known


class HealthService(HealthBase):
    """Serve it with `app.add_service(HealthService("greet.Greeter"))`.

    Args:
        services: full names that are SERVING from the start, beside "", the server as a whole.
    """

    def __init__(self, *services: str) -> None:
        self._statuses = dict.fromkeys(("", *services), ServingStatus.SERVING)
        self._changed = trio.Event()  # replaced each time it is set
        self._stopping = False

    def set_status(self, service: str, status: ServingStatus | int) -> None:
        """Change the status of a service, "" for the server as a whole; watchers are told.

        SERVICE_UNKNOWN forgets the service: Check answers NOT_FOUND. After `stop` nobody is told any more.

        Raises:
            ValueError: there is no such status.
        """
        status = ServingStatus(status)
        if status is ServingStatus.SERVICE_UNKNOWN:
            self._statuses.pop(service, None)
        else:
            self._statuses[service] = status
        self._tell()

    def status(self, service: str = "") -> ServingStatus | None:
        """The status of a service, None where it has none."""
        if self._stopping and service in self._statuses:
            return ServingStatus.NOT_SERVING
        return self._statuses.get(service)

    def stop(self) -> None:
        """Everything is NOT_SERVING until `resume`; the server calls this when it begins to drain. Idempotent."""
        self._stopping = True
        self._tell()

    def resume(self) -> None:
        """Undo `stop`; the next server of the same app calls this. Idempotent."""
        self._stopping = False
        self._tell()

    def __serve__(self) -> None:
        self.resume()

    def __drain__(self) -> None:
        self.stop()

    def _watched(self, service: str) -> ServingStatus:
        status = self.status(service)
        return ServingStatus.SERVICE_UNKNOWN if status is None else status

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # -- the service ----------------------------------------------------------

    async def check(self, request: HealthCheckRequest, context: CallContext) -> HealthCheckResponse:
        status = self.status(request.service)
        if status is None:
            context.abort(StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return _response(status)

    async def list(self, request: HealthListRequest, context: CallContext) -> HealthListResponse:
        if len(self._statuses) > _MAX_LISTED:
            context.abort(StatusCode.RESOURCE_EXHAUSTED, f"more than {_MAX_LISTED} services; ask for each with Check")
        return HealthListResponse(statuses={name: _response(self.status(name)) for name in self._statuses})

    async def watch(
        self, request: HealthCheckRequest, context: CallContext
    ) -> AsyncGenerator[HealthCheckResponse, None]:
        """Ends only when the connection drains: else no server with a watcher could stop in time."""
        told: ServingStatus | None = None
        context.on_draining(self._tell)
        while True:
            changed = self._changed
            status = self._watched(request.service)
            if status is not told:
                yield _response(status)
                told = status
                continue  # it may have changed while the client was slow
            if context.draining:
                context.abort(StatusCode.UNAVAILABLE, "the connection is draining; watch on another one")
            await changed.wait()


def _response(status: ServingStatus | None) -> HealthCheckResponse:
    return HealthCheckResponse(status=ServingStatus.UNKNOWN.name if status is None else status.name)
