"""A whole hub connection: whatever a client says in whatever order, it is answered once, and its life has one end.

The first byte chooses the protocol, how the conversation is cut into reads and how it ends; each byte
after it is one message: calls, streams both ways, client results, cancels, pings, and what is none of
these. Virtual time only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import trio
import trio.testing

from engine.config import SignalRConfig
from engine.errors import HubError
from engine.signalr.binding import HubMethods
from engine.signalr.connection import HubConnection
from engine.signalr.endpoint import PROTOCOLS
from engine.signalr.hub import Hub
from engine.signalr.lifetime import LocalLifetimeManager
from engine.signalr.runtime import HubRuntime
from engine.signalr.transports import HubTransport
from engine.transport.exchange import RequestHead
from engine.transport.watchdog import Timer, Watchdog
from engine.wire.signalr.handshake import handshake_request
from engine.wire.signalr.messages import Close, Completion, HubProtocol, Invocation, StreamItem, TransferFormat
from engine.wire.signalr.negotiate import TransportKind

SEEDS: list[bytes] = [
    b"\x00" + bytes(range(16)),
    b"\x01" + bytes(range(16)) * 2,
    b"\x12\x09\x00\x01\x02\x08\x28\x48\x0b\x0c\x0d",  # calls behind one that blocks, and cancels
    b"\x23\x05\x06\x06\x06\x07\x05\x07\x06",  # uploads, and items behind their end
    b"\x34\x0a\x0b\x0a\x0a\x0b\x0b\x00",  # client results
    b"\x41\x03\x04\x03\x04\x28\x08\x0e",  # streams, cancelled and not
    b"\x52\x00\x00\x0f\x00",  # a malformed message
]

_MAX_MESSAGES = 120
_NEVER = 1e9  # seconds
_HEAD = RequestHead("GET", "/hub", "", "http", "x", (), "1.1")


class SessionHub(Hub):
    events: ClassVar[list[str]] = []

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append("disconnected")

    def echo(self, value: int) -> int:
        return value

    async def later(self, value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    async def fail(self) -> None:
        raise HubError("on purpose")

    async def block(self) -> None:
        await trio.sleep_forever()

    async def count(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def endless(self) -> AsyncIterator[int]:
        yield 0
        await trio.sleep_forever()

    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    async def ask(self) -> Any:
        return await self.clients.caller.invoke("Answer")


METHODS = HubMethods(SessionHub, Hub)
for _method in METHODS:
    for _protocol in PROTOCOLS.values():
        _method.prepare(_protocol)


class Memory(HubTransport):
    """Keeps what is written."""

    kind = TransportKind.WEB_SOCKETS
    formats = frozenset(TransferFormat)
    framing = "memory"

    def __init__(self, watchdog: Watchdog) -> None:
        self.written: list[bytes] = []
        self.over = trio.Event()
        self.paused = False
        self._watchdog = watchdog

    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        pass

    def frame(self, payload: bytes) -> bytes:
        return payload

    def write(self, frame: bytes) -> None:
        assert not self.over.is_set(), "something is written behind the end"
        self.written.append(frame)

    def flush(self) -> None:
        pass

    flush_soon = flush

    @property
    def queued(self) -> int:
        return 0

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def timer(self, callback: Callable[[], None]) -> Timer:
        return self._watchdog.timer(callback)

    def close(self, *, going_away: bool = False) -> None:
        self.over.set()

    abort = close

    async def closed(self) -> None:
        await self.over.wait()

    def abandon(self, error: BaseException) -> None:
        self.over.set()


class Client:
    """Makes messages of bytes, and remembers what is owed."""

    def __init__(self, protocol: HubProtocol) -> None:
        self.protocol = protocol
        self.calls: list[str] = []  # ids that are owed one completion each
        self.uploads: list[str] = []
        self.asked: list[str] = []  # ids of the server's calls that were not answered
        self.malformed = False

    def message(self, byte: int) -> bytes:
        kind, amount = byte & 15, byte >> 4
        protocol, last = self.protocol, self.calls[-1 - amount % len(self.calls)] if self.calls else "none"
        upload = self.uploads[-1 - amount % len(self.uploads)] if self.uploads else "none"
        match kind:
            case 0 | 1 | 2 | 9 | 10:
                target, *arguments = (
                    (["Echo", 1], ["Later", 2], ["Fail"])[kind] if kind < 3 else [("Block", "Ask")[kind - 9]]
                )
                return protocol.invocation(target, arguments, self._new_id())
            case 3 | 4:
                target, *arguments = ["Count", amount] if kind == 3 else ["Endless"]
                return protocol.invocation(target, arguments, self._new_id(), stream=True)
            case 5:
                self.uploads.append(f"u{len(self.uploads)}")
                return protocol.invocation("Total", [], self._new_id(), stream_ids=self.uploads[-1:])
            case 6:
                return protocol.stream_item(upload, amount if amount < 15 else "no int")
            case 7:
                return protocol.error(upload, "mine") if amount & 1 else protocol.finished(upload)
            case 8:
                return protocol.cancel(last)
            case 11:
                return protocol.result(self.asked.pop() if self.asked and amount < 12 else "s0", amount)
            case 12:
                return protocol.ping
            case 13:
                return protocol.invocation("Nope", [amount], self._new_id() if amount & 1 else None)
            case 14:
                return b'{"type":99}\x1e' if protocol.transfer_format is TransferFormat.TEXT else b"\x02\x91\x63"
            case _:
                self.malformed = self.malformed or amount == 15
                return b"\x01\x1e" if amount == 15 else protocol.invocation("Echo", [amount], None)

    def last_words(self) -> bytes:
        """Whatever may still be waited for ends."""
        protocol = self.protocol
        ends = [protocol.finished(each) for each in self.uploads]
        return b"".join([*ends, *map(protocol.cancel, self.calls)])

    def _new_id(self) -> str:
        self.calls.append(str(len(self.calls)))
        return self.calls[-1]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    SessionHub.events = []
    trio.run(_converse, data[: _MAX_MESSAGES + 1] or b"\0", clock=trio.testing.MockClock(autojump_threshold=0))


async def _converse(data: bytes) -> None:
    settings = data[0]
    protocol = list(PROTOCOLS.values())[settings & 1]
    client = Client(protocol)
    config = SignalRConfig(
        parallel_invocations=1 + (settings >> 1 & 1),
        stream_buffer_capacity=1 + (settings >> 4 & 3),
        keep_alive_interval=_NEVER,
        client_timeout=_NEVER,
        max_pending_invocations=4,  # reading pauses, and must go on
    )
    runtime = HubRuntime("SessionHub", SessionHub, METHODS, PROTOCOLS, config, False, LocalLifetimeManager())
    async with trio.open_nursery() as nursery:
        watchdog = Watchdog()
        nursery.start_soon(watchdog.run)
        transport = Memory(watchdog)
        connection = HubConnection(runtime, _HEAD, "id", None, 1 << 20)
        connection.open(transport)
        nursery.start_soon(connection.run)
        connection.receive([handshake_request(protocol.name, 1)])
        await trio.testing.wait_all_tasks_blocked()  # connected
        for position, byte in enumerate(data[1:]):
            connection.receive([client.message(byte)])
            if settings & 4 or position % 5 == 0:
                await trio.testing.wait_all_tasks_blocked()
                client.asked += _asked(protocol, transport, client)
        connection.receive([client.last_words()])
        await trio.sleep(config.client_result_timeout * (_MAX_MESSAGES + 1))  # what is never answered is given up
        await trio.testing.wait_all_tasks_blocked()
        _check_answers(protocol, transport, client)
        assert not transport.paused, "nothing is read any more"
        if settings & 8:
            transport.over.set()
            connection.end_of_transport(clean=bool(settings & 64))
        else:
            connection.receive([protocol.close()])
        await transport.closed()
        await trio.testing.wait_all_tasks_blocked()
        assert SessionHub.events == ["connected", "disconnected"], SessionHub.events
        nursery.cancel_scope.cancel()


def _messages(protocol: HubProtocol, transport: Memory) -> list[Any]:
    reader = protocol.reader(1 << 20)
    answer, *written = transport.written
    assert answer == b"{}\x1e"
    reader.receive_data(b"".join(written))
    found = []
    while (message := reader.next_event()) is not None:
        found.append(message)
    assert reader.failure is None, reader.failure
    return found


def _asked(protocol: HubProtocol, transport: Memory, client: Client) -> list[str]:
    ids = [each.invocation_id for each in _messages(protocol, transport) if isinstance(each, Invocation)]
    return [each for each in ids[len(ids) - 1 :] if each not in client.asked]


def _check_answers(protocol: HubProtocol, transport: Memory, client: Client) -> None:
    messages = _messages(protocol, transport)
    closes = [index for index, each in enumerate(messages) if isinstance(each, Close)]
    assert closes == ([len(messages) - 1] if client.malformed else []), "a Close is the last, and only for an error"
    answers = Counter(each.invocation_id for each in messages if isinstance(each, Completion))
    assert set(answers) <= set(client.calls), "an answer to nobody"
    assert all(count == 1 for count in answers.values()), "answered twice"
    if not client.malformed:
        assert len(answers) == len(client.calls), f"never answered: {set(client.calls) - set(answers)}"
    ended: set[str] = set()
    for each in messages:
        if isinstance(each, Completion):
            ended.add(each.invocation_id)
        assert not (isinstance(each, StreamItem) and each.invocation_id in ended), "an item behind the end"
