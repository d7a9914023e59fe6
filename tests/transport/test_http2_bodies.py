"""Request bodies over HTTP/2: their limits, their rate, and the asking for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hpack
import pytest
import trio

from engine.errors import LimitExceeded
from engine.transport.exchange import Exchange
from tests.transport.http2_connection import connected
from tests.wire.http2_peer import HEADERS, POST, data, headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


def refusing(errors: list[LimitExceeded], status: int) -> Callable[[Exchange], Awaitable[None]]:
    """A handler that reads the body, and answers a limit's error with this status."""

    async def read(exchange: Exchange) -> None:
        try:
            while await exchange.receive():
                pass
        except LimitExceeded as error:
            errors.append(error)
            await exchange.send_head(status, end=True)

    return read


async def test_a_body_that_grows_too_large_is_a_limit_error_to_its_handler(autojump_clock: MockClock) -> None:
    errors: list[LimitExceeded] = []
    async with connected(refusing(errors, 413), http2__max_body_size=10) as connection:
        await connection.send(headers(1, POST, end=False), data(1, b"12345678"), data(1, b"9012"))
        await connection.until(HEADERS, 1)
        assert errors[0].name == "http2.max_body_size"


async def test_a_body_that_says_it_will_be_too_large_is_refused_at_its_first_byte() -> None:
    sizes: list[float | None] = []

    async def read(exchange: Exchange) -> None:
        try:
            await exchange.receive()
        except LimitExceeded as error:
            sizes.append(error.observed)
            await exchange.send_head(413, end=True)

    async with connected(read, http2__max_body_size=10) as connection:
        fields = [*POST, (b"content-length", b"1000")]
        await connection.send(headers(1, fields, end=False), data(1, b"1"))
        await connection.until(HEADERS, 1)
        assert sizes == [1000]


@pytest.mark.parametrize(("expects", "statuses"), [(b"100-Continue", [100, 200]), (b"else", [200])])
async def test_a_client_that_waits_to_be_asked_for_the_body_is_asked_once(expects: bytes, statuses: list[int]) -> None:
    read = trio.Event()

    async def handle(exchange: Exchange) -> None:
        for _ in range(2):
            with trio.move_on_after(0.01):  # a handler may give up waiting and try again
                await exchange.receive()
        read.set()
        await exchange.send_head(200, end=True)

    async with connected(handle) as connection:
        await connection.send(headers(1, [*POST, (b"expect", expects)], end=False))
        await read.wait()
        decoder = hpack.Decoder()
        heads = [decoder.decode((await connection.until(HEADERS, 1))[3]) for _ in statuses]
        assert [int(dict(head)[":status"]) for head in heads] == statuses


async def test_a_body_in_tiny_frames_reaches_its_handler_in_larger_pieces() -> None:
    sizes: list[int] = []

    async def read(exchange: Exchange) -> None:
        while received := await exchange.receive():
            sizes.append(len(received))
        await exchange.send_head(200, end=True)

    async with connected(read) as connection:
        await connection.send(headers(1, POST, end=False), data(1, b"xy") * 1000, data(1, end=True))
        await connection.until(HEADERS, 1)
        assert sum(sizes) == 2000
        assert len(sizes) <= 4


async def test_a_body_below_the_minimum_rate_is_a_limit_error_to_its_handler(autojump_clock: MockClock) -> None:
    errors: list[LimitExceeded] = []
    async with connected(refusing(errors, 408), http2__min_body_rate=100, http2__min_body_rate_grace=5) as connection:
        begin = trio.current_time()
        await connection.send(headers(1, POST, end=False))
        await trio.sleep(2)
        await connection.send(data(1, bytes(600)))
        await connection.until(HEADERS, 1)
        assert errors[0].name == "http2.min_body_rate"
        assert trio.current_time() - begin == pytest.approx(10)
