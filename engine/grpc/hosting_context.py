"""What a stock servicer holds of its call: `grpc.aio.ServicerContext` and `grpc.ServicerContext` over ours.

Owns: the status that a servicer sets beside its reply, and the translation of grpcio's names. Nothing here
imports grpc. Each context is entered for the run of its handler: leaving it turns the status that was set
into the end of the call.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import trio

from engine.errors import RpcError, StatusCode
from engine.grpc.context import CallContext

__all__ = ["AioServicerContext", "Metadatum", "SyncServicerContext"]

_log = logging.getLogger(__name__)

_DETAILS = "grpc-status-details-bin"
_COMPRESSIONS = {0: None, 1: "deflate", 2: "gzip"}  # grpc.Compression
_EOF = object()  # where grpc.aio is not loaded


class Metadatum(NamedTuple):
    """One entry of metadata."""

    key: str
    value: str | bytes


class _ServicerContext:
    """What both kinds of context share; nothing here waits."""

    def __init__(self, context: CallContext, requests: Any) -> None:
        self._context = context
        self._requests = requests
        self._code = 0
        self._details = ""
        self._trailing: tuple[Metadatum, ...] = ()
        self._packed: bytes | None = None  # grpc-status-details-bin
        self._callbacks: list[Callable[[], object]] = []
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        for callback in self._callbacks:
            callback()
        if self._code == 0 or isinstance(error, RpcError):
            return
        if error is None:
            raise self._failure()
        if isinstance(error, Exception):
            # grpc.aio: "Allows users to raise other types of exception with specified status code".
            if not isinstance(error, NotImplementedError):  # what a method that nobody wrote raises
                _log.error("%s raised with a status set", self._context.method.path, exc_info=error)
            raise self._failure() from error

    def _failure(self) -> RpcError:
        return RpcError(_status_code(self._code), self._details, self._packed)

    # -- the call -------------------------------------------------------------

    def invocation_metadata(self) -> Sequence[Metadatum]:
        """The client's metadata, in order."""
        return tuple(Metadatum(key, value) for key, value in self._context.metadata)

    def peer(self) -> str:
        """The client, as a URI: "ipv4:127.0.0.1:54321"."""
        address = self._context.peer.address
        if address.startswith("["):
            return "ipv6:" + address.replace("[", "%5B").replace("]", "%5D")
        return f"ipv4:{address}" if ":" in address else f"{address}:"

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """How the client has authenticated itself; empty without TLS."""
        if not self._context.peer.tls:
            return {}
        known: dict[str, list[bytes]] = {"transport_security_type": [b"ssl"]}
        identity = self._context.tls_identity
        if identity is not None:
            known["x509_pem_cert"] = [identity.pem.encode()]
            for key, values in (
                ("x509_common_name", identity.common_names),
                ("x509_subject_alternative_name", identity.alternative_names),
            ):
                if values:
                    known[key] = [value.encode() for value in values]
        return known

    def peer_identity_key(self) -> str | None:
        """Which entry of `auth_context` names the client."""
        known = self.auth_context()
        keys = ("x509_subject_alternative_name", "x509_common_name")
        return next((key for key in keys if key in known), None)

    def peer_identities(self) -> Iterable[bytes] | None:
        """The client's names, or None."""
        key = self.peer_identity_key()
        return None if key is None else self.auth_context()[key]

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, or None."""
        return self._context.time_remaining()

    def is_active(self) -> bool:
        """The call has not ended."""
        return not self._over and self._context.cancelled is None

    def cancelled(self) -> bool:
        """The call was cancelled, or its deadline has expired."""
        return self._context.cancelled is not None or self._context.time_remaining() == 0

    def done(self) -> bool:
        """The call has ended."""
        return not self.is_active()

    # -- the status -----------------------------------------------------------

    def set_code(self, code: Any) -> None:
        """The status with which the call will end: a `grpc.StatusCode`, or a number."""
        self._code = _number(code)

    def code(self) -> int:
        """What `set_code` has set, 0 before."""
        return self._code

    def set_details(self, details: str) -> None:
        """The message of the status."""
        self._details = details

    def details(self) -> str:
        """What `set_details` has set."""
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Metadata to send with the status."""
        self._trailing = tuple(Metadatum(key, value) for key, value in trailing_metadata)
        for key, value in self._trailing:
            if key == _DETAILS:
                self._packed = value if isinstance(value, bytes) else value.encode("latin-1")
        self._context.set_trailing_metadata([item for item in self._trailing if item.key != _DETAILS])

    def trailing_metadata(self) -> Sequence[Metadatum]:
        """What `set_trailing_metadata` has set."""
        return self._trailing

    def set_compression(self, compression: Any) -> None:
        """How replies are compressed from now on: a `grpc.Compression`."""
        self._context.set_compression(_COMPRESSIONS.get(int(getattr(compression, "value", compression))))

    def disable_next_message_compression(self) -> None:
        """Send the next message as it is."""
        self._context.disable_next_message_compression()

    def _abort(self, code: Any, details: str, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> NoReturn:
        trailing = tuple(trailing_metadata or ())
        if trailing:
            self.set_trailing_metadata(trailing)
        self._code, self._details = _number(code) or int(StatusCode.UNKNOWN), details
        raise self._failure()


class AioServicerContext(_ServicerContext):
    """`grpc.aio.ServicerContext`."""

    async def read(self) -> Any:
        """The next request, `grpc.aio.EOF` at the end. Cancellation loses no request."""
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            return getattr(sys.modules.get("grpc.aio"), "EOF", _EOF)

    async def write(self, message: Any) -> None:
        """Send one message. Cancellation never cuts it."""
        await self._context.send(message)

    async def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send the response head now. Cancellation leaves it queued."""
        await self._context.send_initial_metadata(list(initial_metadata))

    async def abort(
        self, code: Any, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with this status.

        Raises:
            RpcError: always.
        """
        self._abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with a `grpc.Status`, such as `grpc_status.rpc_status.to_status` makes.

        Raises:
            RpcError: always.
        """
        self._abort(status.code, status.details or "", status.trailing_metadata)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call back with this context when the handler has ended."""
        self._callbacks.append(lambda: callback(self))


class SyncServicerContext(_ServicerContext):
    """`grpc.ServicerContext`, for a handler in a thread."""

    async def next_request(self, end: object) -> Any:
        """The next request, or `end`."""
        return await anext(self._requests, end)

    def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send the response head now."""
        trio.from_thread.run(self._context.send_initial_metadata, list(initial_metadata))

    def abort(self, code: Any, details: str = "") -> NoReturn:
        """End the call with this status.

        Raises:
            RpcError: always.
        """
        self._abort(code, details, ())

    def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with a `grpc.Status`.

        Raises:
            RpcError: always.
        """
        self._abort(status.code, status.details or "", status.trailing_metadata)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, or None."""
        return trio.from_thread.run_sync(self._context.time_remaining)

    def cancelled(self) -> bool:
        """The call was cancelled, or its deadline has expired."""
        return self._context.cancelled is not None or self.time_remaining() == 0

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call back when the handler has ended; False: it has."""
        if not self._over:
            self._callbacks.append(callback)
        return not self._over


def _number(code: Any) -> int:
    """The number of a `grpc.StatusCode`, whose values are pairs, or of an int."""
    value = getattr(code, "value", code)
    return int(value[0] if isinstance(value, tuple) else value)


def _status_code(number: int) -> StatusCode:
    try:
        return StatusCode(number)
    except ValueError:
        return StatusCode.UNKNOWN
