"""Results that clients owe: calls of client methods that somebody waits for.

Owns: which ids are awaited on one connection, and what a client's completion becomes. Never sends:
the connection does.

Spec: docs/specs/HubProtocol.md, "Client Results"; ClientResultsManager.cs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from engine.errors import ConnectionClosed, HubError, LimitExceeded, LimitKind, RemoteProtocolError
from engine.signalr import texts

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.wire.signalr.messages import Completion, HubProtocol


class Respondent(Protocol):
    """The connection whose client is asked."""

    settings: SignalRConfig
    protocol: HubProtocol

    @property
    def connection_id(self) -> str: ...

    def send(self, payload: bytes) -> None:
        """Write hub messages to the client."""


class _Call:
    """A result that somebody waits for."""

    __slots__ = ("completion", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.completion: Completion | None = None


class ClientResults:
    """The results that one client owes."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}

    def complete(self, completion: Completion) -> None:
        """The client answered; late answers and those that nobody asked for are ignored."""
        call = self._calls.get(completion.invocation_id)
        if call is not None:
            call.completion = completion
            call.done.set()

    def lose(self) -> None:
        """No more will come."""
        for call in self._calls.values():
            call.done.set()

    async def ask(self, connection: Respondent, call_id: str, target: str, payload: bytes, result_type: Any) -> Any:
        """Send `payload`, a call with this id, and wait for the result.

        Cancellation gives the result up.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it went away.
            LimitExceeded: it did not answer within `signalr.client_result_timeout`.
        """
        call = self._calls[call_id] = _Call()
        limit = connection.settings.client_result_timeout
        try:
            connection.send(payload)
            with trio.move_on_after(limit) as patience:
                await call.done.wait()
        finally:
            self._calls.pop(call_id, None)
        if patience.cancelled_caught:
            what = f"the client's answer to {target}"
            raise LimitExceeded("signalr.client_result_timeout", limit, kind=LimitKind.TIMEOUT, what=what)
        completion = call.completion
        if completion is None:
            raise ConnectionClosed(reason=texts.connection_gone(connection.connection_id))
        if completion.error is not None:
            raise HubError(completion.error)
        if completion.result is None:
            return None
        try:
            return connection.protocol.decode(completion.result, result_type)
        except (msgspec.ValidationError, RemoteProtocolError) as error:
            wanted = getattr(result_type, "__name__", str(result_type))
            raise HubError(f"Error trying to deserialize result to {wanted}. {error}") from None
