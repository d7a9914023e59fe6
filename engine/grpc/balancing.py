"""Which connection a call goes to: connecting, back-off, pick_first and round_robin.

Owns: the connections of a channel and its state (grpc/grpc doc/connectivity-semantics-and-api.md), the
back-off between attempts (doc/connection-backoff.md) and the choice among addresses (doc/load-balancing.md,
gRFC A61 and A62). Never opens a stream.

A balancer connects when somebody first wants it to. `pick` is synchronous and gives a usable connection or
nothing; who got nothing waits for `on_change`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from random import Random

import trio

from engine.config import ChannelConfig
from engine.errors import ConnectionClosed
from engine.grpc.resolver import Resolver
from engine.transport.client import Address
from engine.transport.http2_client import Http2ClientConnection
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog

__all__ = ["Balancer", "ChannelState", "Connector", "PickFirst", "RoundRobin"]


class ChannelState(Enum):
    """The states of a channel."""

    IDLE = "idle"  # nobody has called yet, or the last connection has ended in order
    CONNECTING = "connecting"
    READY = "ready"
    TRANSIENT_FAILURE = "transient failure"  # no address could be reached; tried again after a back-off
    SHUTDOWN = "shutdown"


class Backoff:
    """The delays between attempts to connect."""

    def __init__(self, config: ChannelConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self._current = config.backoff_initial

    def next(self) -> float:
        """Seconds from the begin of the attempt that failed to the next one."""
        config, current = self._config, self._current
        self._current = min(current * config.backoff_multiplier, config.backoff_max)
        return current * (1 + self._random.uniform(-config.backoff_jitter, config.backoff_jitter))

    def reset(self) -> None:
        """An attempt succeeded."""
        self._current = self._config.backoff_initial


class Connector:
    """Makes connections and owns their tasks.

    Args:
        nursery: where connections run.
        dial: an address to a byte stream, TLS included.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        watchdog: Watchdog,
        config: ChannelConfig,
        dial: Callable[[Address], Awaitable[ByteStream]],
        random: Random,
    ) -> None:
        self._nursery = nursery
        self._watchdog = watchdog
        self._dial = dial
        self.config = config
        self.random = random
        self.keepalive_time = config.keepalive_time
        self.connections: set[Http2ClientConnection] = set()
        self.ended = trio.Event()  # some connection has

    async def connect(
        self, address: Address, on_unusable: Callable[[Http2ClientConnection], None]
    ) -> Http2ClientConnection:
        """A connection whose peer has sent its SETTINGS. Cancellation closes what there is of it.

        Raises:
            ConnectionClosed: it did not come about in `connect_timeout`.
        """
        timeout = self.config.connect_timeout
        with trio.move_on_after(timeout):
            return await self._connect(address, on_unusable)
        raise ConnectionClosed(1006, f"no connection within {timeout:g} s")

    async def _connect(
        self, address: Address, on_unusable: Callable[[Http2ClientConnection], None]
    ) -> Http2ClientConnection:
        stream = await self._dial(address)
        settled = trio.Event()
        ready = False

        def unusable() -> None:
            if connection.too_many_pings:  # gRFC A8: "the client should double the keepalive time"
                self.keepalive_time = max(self.keepalive_time, self.config.min_keepalive_time) * 2
            settled.set()
            if ready:
                on_unusable(connection)

        connection = Http2ClientConnection(
            stream,
            config=self.config,
            watchdog=self._watchdog,
            on_ready=settled.set,
            on_unusable=unusable,
            keepalive_time=self.keepalive_time,
        )
        connection.peer_address = str(address)
        self._nursery.start_soon(self._run, connection)
        try:
            await settled.wait()
        except BaseException:
            connection.close("the attempt to connect was given up")
            raise
        if not connection.usable:
            raise ConnectionClosed(1006, connection.ended_by.removeprefix("connection lost: "))
        ready = True
        return connection

    async def _run(self, connection: Http2ClientConnection) -> None:
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.ended.set()
            self.ended = trio.Event()


class Balancer(ABC):
    """See the module.

    Args:
        on_change: called, synchronously, when `state` or what `pick` gives may have changed.
    """

    def __init__(self, connector: Connector, resolve: Resolver, on_change: Callable[[], None]) -> None:
        self._connector = connector
        self._resolve = resolve
        self._on_change = on_change
        self._wanted = trio.Event()
        self.state = ChannelState.IDLE
        self.failures: dict[str, str] = {}
        """Why each address could not be reached, the last time."""

    @abstractmethod
    def pick(self) -> Http2ClientConnection | None:
        """A connection that takes streams, or None."""

    @abstractmethod
    async def run(self) -> None:
        """Connect and reconnect until cancelled."""

    def connect(self) -> None:
        """Somebody wants a connection."""
        self._wanted.set()

    @property
    def trouble(self) -> str:
        """Why there is no connection, in one line."""
        if not self.failures:
            return "no address could be reached"
        return "; ".join(f"{address}: {reason}" for address, reason in self.failures.items())

    def _set(self, state: ChannelState) -> None:
        self.state = state
        self._on_change()

    async def _addresses(self) -> Sequence[Address]:
        """What the resolver gives; nothing, and a failure on record, where it fails."""
        try:
            addresses = await self._resolve()
        except OSError as error:
            self.failures = {"name resolution": error.strerror or str(error)}
            return ()
        if not addresses:
            self.failures = {"name resolution": "no addresses"}
        return addresses


class PickFirst(Balancer):
    """One connection, to the first address that answers; the others are tried only without it."""

    _connection: Http2ClientConnection | None = None

    def pick(self) -> Http2ClientConnection | None:
        return self._connection

    async def run(self) -> None:
        backoff = Backoff(self._connector.config, self._connector.random)
        while True:
            await self._wanted.wait()
            if self.state is not ChannelState.TRANSIENT_FAILURE:  # A62: left for READY alone
                self._set(ChannelState.CONNECTING)
            began = trio.current_time()
            gone = trio.Event()
            connection = await self._try_all(await self._addresses(), gone)
            if connection is None:
                self._set(ChannelState.TRANSIENT_FAILURE)
                await trio.sleep_until(began + backoff.next())
                continue
            backoff.reset()
            self._wanted = trio.Event()
            self.failures = {}
            if not gone.is_set():
                self._connection = connection
                self._set(ChannelState.READY)
                await gone.wait()
            self._set(ChannelState.IDLE)

    async def _try_all(self, addresses: Sequence[Address], gone: trio.Event) -> Http2ClientConnection | None:
        """A61: in order, the next one beside a slow one after `attempt_delay`."""
        winner: Http2ClientConnection | None = None
        failures: dict[str, str] = {}

        def unusable(connection: Http2ClientConnection) -> None:
            if connection is winner:
                self._connection = None
                gone.set()

        async def attempt(address: Address, failed: trio.Event) -> None:
            nonlocal winner
            try:
                connection = await self._connector.connect(address, unusable)
            except ConnectionClosed as error:
                failures[str(address)] = error.reason
                failed.set()
                return
            if winner is None:
                winner = connection
                nursery.cancel_scope.cancel()
            else:
                connection.close("another address was faster")

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(self._connector.config.attempt_delay):
                    await failed.wait()
        if failures:
            self.failures = failures
        return winner


class RoundRobin(Balancer):
    """A connection to every address; calls take turns."""

    def __init__(self, connector: Connector, resolve: Resolver, on_change: Callable[[], None]) -> None:
        super().__init__(connector, resolve, on_change)
        self._states: dict[Address, ChannelState] = {}
        self._ready: list[Http2ClientConnection] = []
        self._turn = 0
        self._stale = trio.Event()  # the addresses are to be asked for again

    def pick(self) -> Http2ClientConnection | None:
        ready = self._ready
        for _ in range(len(ready)):
            self._turn = (self._turn + 1) % len(ready)
            if ready[self._turn].has_slot:
                return ready[self._turn]
        if not ready:
            return None
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn]

    async def run(self) -> None:
        await self._wanted.wait()
        self._set(ChannelState.CONNECTING)
        backoff = Backoff(self._connector.config, self._connector.random)
        scopes: dict[Address, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                began = trio.current_time()
                self._stale = trio.Event()
                addresses = await self._addresses()
                for address in addresses:
                    if address not in scopes:
                        scopes[address] = trio.CancelScope()
                        nursery.start_soon(self._keep, address, scopes[address])
                for address in [each for each in scopes if addresses and each not in addresses]:
                    scopes.pop(address).cancel()
                if not scopes:
                    self._set(ChannelState.TRANSIENT_FAILURE)
                    await trio.sleep_until(began + backoff.next())
                    continue
                backoff.reset()
                await self._stale.wait()
                await trio.sleep_until(began + self._connector.config.backoff_initial)

    async def _keep(self, address: Address, scope: trio.CancelScope) -> None:
        """Stay connected to one address."""
        connection: Http2ClientConnection | None = None
        with scope:
            backoff = Backoff(self._connector.config, self._connector.random)
            while True:
                began = trio.current_time()
                if self._states.get(address) is not ChannelState.TRANSIENT_FAILURE:
                    self._set_one(address, ChannelState.CONNECTING)
                gone = trio.Event()

                def unusable(lost: Http2ClientConnection, gone: trio.Event = gone) -> None:
                    if lost in self._ready:
                        self._ready.remove(lost)
                    gone.set()

                try:
                    connection = await self._connector.connect(address, unusable)
                except ConnectionClosed as error:
                    self.failures[str(address)] = error.reason
                    self._set_one(address, ChannelState.TRANSIENT_FAILURE)
                    self._stale.set()
                    await trio.sleep_until(began + backoff.next())
                    continue
                self.failures.pop(str(address), None)
                if not gone.is_set():
                    backoff.reset()
                    self._ready.append(connection)
                    self._set_one(address, ChannelState.READY)
                    await gone.wait()
                self._stale.set()
                self._set_one(address, ChannelState.CONNECTING)
                # A server that accepts and closes at once must not make us spin.
                await trio.sleep_until(began + self._connector.config.attempt_delay)
        if connection is not None:
            connection.retire("the address is no longer among those of the target")
        self._states.pop(address, None)
        self.failures.pop(str(address), None)
        self._aggregate()

    def _set_one(self, address: Address, state: ChannelState) -> None:
        self._states[address] = state
        self._aggregate()

    def _aggregate(self) -> None:
        """doc/load-balancing.md: the best state of any address is the channel's."""
        states = set(self._states.values())
        for state in (ChannelState.READY, ChannelState.CONNECTING, ChannelState.TRANSIENT_FAILURE):
            if state in states:
                # A channel that has failed stays so until an address is ready (A62).
                if state is not ChannelState.CONNECTING or self.state is not ChannelState.TRANSIENT_FAILURE:
                    self.state = state
                break
        self._on_change()
