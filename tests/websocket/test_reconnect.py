"""Connecting anew: when, after how long, and how a program leaves. Time is virtual."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest
import trio

import engine
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, RemoteProtocolError
from engine.websocket import reconnect
from engine.websocket.link import Closed
from engine.websocket.reconnect import Backoff, is_transient, reconnecting_websocket

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "ws://example.invalid/"
JUST = Backoff(initial=1, factor=2, maximum=10, jitter=0)


class FakeWebSocket:
    """Open until the test says otherwise."""

    def __init__(self) -> None:
        self.closed: Closed | None = None

    def lose(self, code: int = 1006) -> ConnectionClosed:
        self.closed = Closed(code, "", clean=False)
        return ConnectionClosed(code, "gone")


class FakeServer:
    """In the place of `connect_websocket`: each attempt has the next of the outcomes that were scripted."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes: Iterator[Exception | str] = iter(outcomes)
        self.attempts: list[float] = []
        self.exits: list[BaseException | None] = []

    def __call__(self, url: str, **options: object) -> FakeServer:
        assert url == URL
        return self

    async def open(self) -> None:
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        outcome = next(self.outcomes, "open")
        if outcome == "silent":
            await trio.sleep_forever()
        if isinstance(outcome, Exception):
            raise outcome

    async def __aenter__(self) -> FakeWebSocket:
        return FakeWebSocket()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.exits.append(error)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeServer]:
    def use(*outcomes: Exception | str) -> FakeServer:
        server = FakeServer(*outcomes)
        monkeypatch.setattr(reconnect, "connect_websocket", server)
        return server

    return use


REFUSED = ConnectionClosed(1006, "cannot connect")


async def test_the_pauses_grow_to_the_cap(script: Any, autojump_clock: MockClock) -> None:
    server = script(*[REFUSED] * 7)
    async for connection in reconnecting_websocket(URL, backoff=JUST):
        async with connection:
            break
    began = server.attempts[0]
    assert [at - began for at in server.attempts] == pytest.approx([0, 1, 3, 7, 15, 25, 35, 45])
    assert server.exits == [None]


async def test_jitter_takes_a_random_part_away(script: Any, autojump_clock: MockClock) -> None:
    server = script(REFUSED, REFUSED, REFUSED)
    dice = iter([0.0, 0.5, 1.0])
    backoff = Backoff(initial=4, factor=1, maximum=4, jitter=0.5)
    async for connection in reconnecting_websocket(URL, backoff=backoff, random=lambda: next(dice)):
        async with connection:
            break
    began = server.attempts[0]
    assert [at - began for at in server.attempts] == pytest.approx([0, 4, 7, 9])


async def test_a_lost_connection_ends_its_block_and_the_next_one_follows(
    script: Any, autojump_clock: MockClock
) -> None:
    server = script()
    seen = 0
    async for connection in reconnecting_websocket(URL, backoff=JUST):
        async with connection as ws:
            seen += 1
            if seen == 3:
                break
            raise ws.lose()
    began = server.attempts[0]
    assert [at - began for at in server.attempts] == pytest.approx([0, 1, 3])
    assert server.exits == [None, None, None]


async def test_a_connection_that_was_stable_starts_the_count_anew(script: Any, autojump_clock: MockClock) -> None:
    server = script(REFUSED, REFUSED, REFUSED)
    opened = 0
    async for connection in reconnecting_websocket(URL, backoff=JUST):
        async with connection as ws:
            opened += 1
            if opened == 2:
                break
            await trio.sleep(10)
            raise ExceptionGroup("a nursery of the block's", [ws.lose(), ExceptionGroup("", [ws.lose()])])
    assert server.attempts[-1] - server.attempts[-2] == pytest.approx(10 + 1)


async def test_a_block_that_just_ends_is_followed_by_another(script: Any, autojump_clock: MockClock) -> None:
    server = script()
    async for connection in reconnecting_websocket(URL, backoff=JUST):
        async with connection:
            if len(server.attempts) == 3:
                break
    assert len(server.exits) == 3


async def test_an_attempt_without_an_answer_is_given_up(script: Any, autojump_clock: MockClock) -> None:
    server = script("silent")
    async for connection in reconnecting_websocket(URL, backoff=JUST, attempt_timeout=5):
        async with connection:
            break
    assert server.attempts[1] - server.attempts[0] == pytest.approx(5 + 1)


async def test_a_server_that_asks_for_a_longer_pause_gets_it_within_the_cap(
    script: Any, autojump_clock: MockClock
) -> None:
    answers = [HandshakeRejected(503, [("retry-after", text)]) for text in ("7", "999", "soon")]
    server = script(*answers)
    async for connection in reconnecting_websocket(URL, backoff=JUST):
        async with connection:
            break
    began = server.attempts[0]
    assert [at - began for at in server.attempts] == pytest.approx([0, 7, 17, 21])


async def raise_in_each(connections: reconnecting_websocket, error: Exception | int) -> None:
    """Raise `error` in the block of each connection; a number: lose the connection with that code."""
    async for connection in connections:
        async with connection as ws:
            raise ws.lose(error) if isinstance(error, int) else error


@pytest.mark.parametrize("error", [HandshakeRejected(401), RemoteProtocolError("no")])
async def test_what_no_other_attempt_mends_is_raised(script: Any, error: Exception) -> None:
    server = script(error)
    with pytest.raises(type(error)):
        await raise_in_each(reconnecting_websocket(URL), AssertionError("there is no connection"))
    assert len(server.attempts) == 1


async def test_the_program_decides_what_is_worth_another_attempt(script: Any, autojump_clock: MockClock) -> None:
    server = script(HandshakeRejected(401))

    def retry(error: Exception) -> bool:
        return isinstance(error, HandshakeRejected)

    with pytest.raises(ConnectionClosed):
        await raise_in_each(reconnecting_websocket(URL, retry=retry), 4001)
    assert len(server.attempts) == 2


async def test_another_error_leaves_the_loop_as_it_is(script: Any) -> None:
    server = script()
    mine = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await raise_in_each(reconnecting_websocket(URL), mine)
    assert server.exits == [mine]


async def test_the_end_of_another_connection_is_an_error_like_any_other(script: Any) -> None:
    script()
    with pytest.raises(ConnectionClosed, match="another"):
        await raise_in_each(reconnecting_websocket(URL), ConnectionClosed(1006, "another"))


async def test_each_connection_must_be_entered_once(script: Any) -> None:
    script()
    connections = reconnecting_websocket(URL)
    first = await anext(connections)
    with pytest.raises(RuntimeError, match="was not used"):
        await anext(connections)
    async with first:
        pass
    with pytest.raises(RuntimeError, match="opened once"):
        async with first:
            pass


def test_arguments_that_cannot_be_used_are_an_error_at_once() -> None:
    for options in ({"attempt_timeout": 0}, {"no_such": 1}):
        with pytest.raises(ConfigError):
            engine.reconnecting_websocket(URL, **options)
    with pytest.raises(ConfigError):
        engine.reconnecting_websocket("ftp://x")
    for settings in ({"initial": -1}, {"factor": 0.5}, {"maximum": 0.1}, {"jitter": 2}):
        with pytest.raises(ConfigError, match="backoff"):
            Backoff(**settings)


def test_a_long_row_of_failures_overflows_nothing() -> None:
    assert Backoff(jitter=0).delay(10**6, 0.5) == 60


def test_which_failures_are_transient() -> None:
    distrusted = ConnectionClosed(1006, "TLS")
    distrusted.__cause__ = ssl.SSLCertVerificationError()
    assert is_transient(REFUSED)
    assert is_transient(HandshakeRejected(503))
    assert not is_transient(HandshakeRejected(404))
    assert not is_transient(distrusted)
    assert not is_transient(ValueError())
