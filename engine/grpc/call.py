"""A call: attempts at it until one counts.

Owns: the request's head, the deadline, credentials, and the decision to repeat what failed: transparently
where the server has done nothing (REFUSED_STREAM, GOAWAY below the stream, a head that never left), by
policy where a service config says so (gRFC A6). Attempts side by side are `engine.grpc.hedging`'s, how a
user talks to a call is `engine.grpc.client`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import CallCause, ConfigError, RpcError, StatusCode
from engine.grpc.attempt import Attempt
from engine.grpc.credentials import AuthContext, CallCredentials, require_privacy
from engine.grpc.hedging import Hedge, HedgedAttempt
from engine.grpc.methods import MethodKind
from engine.transport.http2_client import Http2ClientConnection, LossKind
from engine.wire.grpc import compression as wire_compression
from engine.wire.grpc import metadata as wire_metadata
from engine.wire.grpc import timeout as wire_timeout
from engine.wire.grpc.framing import prefix
from engine.wire.grpc.metadata import MetadataLike

if TYPE_CHECKING:
    from engine.grpc.channel_interface import ChannelInterface
    from engine.grpc.retry import MethodConfig
    from engine.transport.watchdog import Timer
    from engine.wire.http2 import Fields

__all__ = ["Call", "CallDetails", "ClientMethod"]

_SAME_DEADLINE = 0.05  # seconds: the server's clock for the same deadline may be so much ahead of ours


@dataclass(frozen=True, slots=True)
class ClientMethod:
    """A method as a client needs it."""

    path: str  # "/greet.Greeter/SayHello"
    kind: MethodKind
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class CallDetails:
    """Everything about a call but its requests; interceptors may `dataclasses.replace` it."""

    method: ClientMethod
    timeout: float | None = None  # seconds, beside the enclosing scope's deadline
    metadata: MetadataLike = ()
    wait_for_ready: bool | None = None  # None: as the service config, else the channel says
    compression: str | None = None  # "gzip", "deflate", "zstd", "identity"; None: as the channel says
    credentials: CallCredentials | None = None


def known_compression(name: str | None) -> str | None:
    """The encoding of requests that a user named; None: none at all.

    Raises:
        ConfigError: we have none of that name.
    """
    if name is not None and name not in wire_compression.ENCODINGS:
        raise ConfigError("compression", name, wire_compression.advice())
    return None if name == wire_compression.IDENTITY else name


class Call:
    """See the module. Owned by the task that makes the call."""

    __slots__ = (
        "_backoffs",
        "_channel",
        "_config",
        "_extra",
        "_number",
        "_refused",
        "_retries",
        "_timer",
        "attempt",
        "causes",
        "deadline",
        "details",
        "encoding",
        "hedge",
        "method",
        "scope_deadline",
        "single",
    )

    def __init__(self, channel: ChannelInterface, details: CallDetails) -> None:
        # immutable
        self._channel = channel
        self.details = details
        self.method = details.method
        self.single = not details.method.kind.response_streaming
        self._config: MethodConfig = channel.method_config(details.method.path)
        own_encoding = details.compression
        self.encoding = channel.compression if own_encoding is None else known_compression(own_encoding)
        timeout = details.timeout
        if self._config.timeout is not None:
            timeout = self._config.timeout if timeout is None else min(timeout, self._config.timeout)
        self.scope_deadline = trio.current_effective_deadline()
        self.deadline = self.scope_deadline
        self._timer: Timer | None = None
        if timeout is not None:
            own = trio.current_time() + timeout
            if own < self.deadline:
                self.deadline = own
                self._timer = channel.watchdog.timer(self._expired)
                self._timer.set(own)
        # owned by the caller's task
        self.attempt: Attempt | None = None
        self.causes: tuple[CallCause, ...] = ()
        self._number = 0
        self._retries = 0
        self._backoffs = 0  # retries since the server last said when
        self._extra: Fields = ()  # what the credentials gave
        policy = self._config.hedging
        self.hedge = None if policy is None else Hedge(channel, self, policy)
        self._refused = 0  # transparent retries of what a server refused

    # -- attempts -------------------------------------------------------------

    async def start(self, *, again: bool = False) -> Attempt:
        """Begin the next attempt: its head is queued, nothing else.

        Args:
            again: beside an attempt that is running, with the credentials of that one.

        Raises:
            RpcError: UNAVAILABLE without a connection, DEADLINE_EXCEEDED, or what the credentials raise.
        """
        channel = self._channel
        if self._timer is None and self.deadline == -math.inf:
            await trio.lowlevel.checkpoint()  # our scope is cancelled: this raises
        credentials = None if again else self.details.credentials or channel.call_credentials
        connection = channel.pick()
        if credentials is None and connection is not None and connection.has_slot:
            attempt = self._open(connection, reserved=False)
            if attempt is not None:
                return attempt
        with trio.CancelScope(deadline=self.deadline if self._timer is not None else math.inf) as scope:
            if credentials is not None:
                self._extra = await self._credentials(credentials)
            wait_for_ready = self.details.wait_for_ready
            if wait_for_ready is None:
                wait_for_ready = self._config.wait_for_ready
            while True:
                connection = await channel.connection(wait_for_ready=wait_for_ready)
                if await connection.reserve():
                    attempt = self._open(connection, reserved=True)
                    if attempt is not None:
                        return attempt
        assert scope.cancelled_caught  # there is no other way out of the loop
        raise self._error(StatusCode.DEADLINE_EXCEEDED, f"the deadline passed; {channel.why_not_ready}")

    def _new_attempt(self, connection: Http2ClientConnection) -> Attempt:
        kind = Attempt if self.hedge is None else HedgedAttempt
        attempt = kind(
            connection,
            self._channel.config,
            number=self._number + 1,
            single=self.single,
            max_size=self._config.max_response_size or self._channel.config.max_receive_message_size,
            deadline=self.deadline,
        )
        if self.hedge is not None:
            assert isinstance(attempt, HedgedAttempt)  # see above
            attempt.hedge = self.hedge
        return attempt

    def _open(self, connection: Http2ClientConnection, *, reserved: bool) -> Attempt | None:
        attempt, fields = self._new_attempt(connection), self._fields()
        if self.details.metadata or self._extra:
            self._check_size(connection, fields, reserved=reserved)
        if not attempt.open(fields, reserved=reserved):
            return None
        self._number += 1
        self.attempt = attempt
        if self.hedge is not None:
            self._retries += 1
        return attempt

    def _check_size(self, connection: Http2ClientConnection, fields: Fields, *, reserved: bool) -> None:
        """Sent nevertheless, what a server does not take could cost the connection and all other calls on it."""
        size = wire_metadata.size(fields)
        if size > connection.max_header_list:
            if reserved:
                connection.release()
            limit = f"the {connection.max_header_list} that {connection.peer_address} takes"
            raise self._error(StatusCode.RESOURCE_EXHAUSTED, f"metadata of {size} bytes exceeds {limit}; send less")

    def _fields(self) -> Fields:
        """The request's head; the same object for the same simple call, so that HPACK encodes it once."""
        head = self._channel.head(self.method.path, self.encoding)
        if self.deadline != math.inf:
            left = self.deadline - trio.current_time()
            timeout = (b"grpc-timeout", wire_timeout.encode(left))
            head = (*head[:5], timeout, *head[5:])  # right behind `te`
        if self.details.metadata:
            head = (*head, *wire_metadata.encode(self.details.metadata))
        if self._extra:
            head = (*head, *self._extra)
        if self._retries:  # A6: transparent retries do not count
            head = (*head, (b"grpc-previous-rpc-attempts", b"%d" % self._retries))
        return head

    async def _credentials(self, credentials: CallCredentials) -> Fields:
        channel = self._channel
        require_privacy(secure=channel.secure)
        service = self.method.path.rpartition("/")[0]
        context = AuthContext(f"https://{channel.authority}{service}", self.method.path)
        return tuple(wire_metadata.encode(await credentials(context)))

    def frame(self, message: Any, *, compress: bool = True) -> bytes:
        """A request message as it goes on the wire.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, it is larger than the service config allows.
        """
        payload = self.method.encode(message)
        limit = self._config.max_request_size
        if limit is not None and len(payload) > limit:
            text = f"a request of {len(payload)} bytes exceeds maxRequestMessageBytes ({limit}) of the service config"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        if self.encoding is not None and compress and payload:
            payload = wire_compression.compress(self.encoding, payload)
            return prefix(len(payload), compressed=True) + payload
        return prefix(len(payload)) + payload

    # -- ends -----------------------------------------------------------------

    def succeeded(self) -> None:
        """The status is OK."""
        self._drop_timer()
        throttle = self._channel.throttle
        if throttle is not None:
            throttle.succeeded()

    def close(self) -> None:
        """The caller is done with the call, whatever its state: cancelled, unless it has ended."""
        self._drop_timer()
        if self.hedge is not None:
            self.hedge.close()
        if self.attempt is not None and not self.attempt.finished:
            self.attempt.cancel()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.clear()
            self._timer = None  # it holds this call

    async def failed(self, attempt: Attempt, *, replayable: bool = True) -> None:
        """After an attempt with another status than OK: returns, perhaps later, for another attempt.

        Args:
            replayable: what was sent is still there to be sent again.

        Raises:
            RpcError: there is no other attempt.
        """
        self.causes += (attempt.cause,)
        delay = self._delay_of_retry(attempt) if replayable else None
        if delay is None:
            await self._raise(attempt)
        elif delay > 0:
            with trio.CancelScope(deadline=self.deadline if self._timer is not None else math.inf) as scope:
                await trio.sleep(delay)
            if scope.cancelled_caught:
                text = f"the deadline passed before a retry; the last attempt: {attempt.message}"
                raise self._error(StatusCode.DEADLINE_EXCEEDED, text)

    def _delay_of_retry(self, attempt: Attempt) -> float | None:
        """Seconds until the next attempt, None for none."""
        if trio.current_time() >= self.deadline or attempt.committed:
            return None
        if self.unseen(attempt):
            return 0.0
        policy, throttle, pushback = self._config.retry, self._channel.throttle, attempt.pushback
        retryable = policy is not None and attempt.code in policy.codes
        affordable = True
        if throttle is not None and (retryable or pushback == -1):
            affordable = throttle.failed()
        if policy is None or not retryable or not affordable or pushback == -1:
            return None
        if self._retries + 1 >= policy.max_attempts:
            return None
        self._retries += 1
        if pushback is not None:
            self._backoffs = 0  # as grpc-java does: the server's word begins the delays anew
            return pushback / 1000
        self._backoffs += 1
        return policy.delay(self._backoffs, self._channel.random)

    def unseen(self, attempt: Attempt) -> bool:
        """Whether an attempt that failed is repeated as if it had not been: no policy has a say."""
        if attempt.loss is LossKind.UNPROCESSED and not self._refused:
            self._refused += 1  # A6: "at most once" where the server has seen the stream
        elif attempt.loss is not LossKind.UNSENT:
            return False
        if self.hedge is not None:
            self._retries -= 1
        return True

    async def _raise(self, attempt: Attempt) -> None:
        if self._timer is not None:
            self._timer.clear()
        left = self.scope_deadline - trio.current_time()
        if attempt.code is StatusCode.DEADLINE_EXCEEDED and self._timer is None and 0 <= left < _SAME_DEADLINE:
            # The server was a little faster than the enclosing scope with the same deadline: let the
            # scope speak, so that `trio.fail_after` behaves the same way every time.
            await trio.sleep_until(self.scope_deadline)
            await trio.lowlevel.checkpoint()
        raise attempt.error(self.causes)

    def _error(self, code: StatusCode, message: str) -> RpcError:
        error = RpcError(code, message)
        error.causes = (*self.causes, CallCause("", self._number + 1, message))
        return error

    def _expired(self) -> None:
        if self.hedge is not None:
            self.hedge.expire()
        if self.attempt is not None and not self.attempt.finished:
            self.attempt.expire()
