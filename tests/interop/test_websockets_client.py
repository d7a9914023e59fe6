"""`websockets` (asyncio) as the client of the echo at /echo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.interop.server_process import ServerProcess

websockets = pytest.importorskip("websockets", reason="install the package websockets")

from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus  # noqa: E402

pytestmark = pytest.mark.interop

LIMIT = 30.0  # seconds for one conversation


def converse(server: ServerProcess, talk: Callable[[ClientConnection], Awaitable[None]], path: str = "/echo") -> None:
    """Run one conversation in an event loop of its own."""

    async def run() -> None:
        async with (
            asyncio.timeout(LIMIT),
            connect(f"{server.websocket_url}{path}", max_size=None, proxy=None, compression=None) as client,
        ):
            await talk(client)

    asyncio.run(run())


@pytest.mark.parametrize(
    "message",
    ["", "hello", "grüße · 你好 · 🦀", b"", bytes(range(256)), "x" * 125, "x" * 126, "x" * 65_535, b"y" * 65_536],
    ids=lambda message: f"{type(message).__name__}-{len(message)}",
)
def test_a_message_comes_back_in_its_own_type(engine_server: ServerProcess, message: str | bytes) -> None:
    async def talk(client: ClientConnection) -> None:
        await client.send(message)
        assert await client.recv() == message

    converse(engine_server, talk)


def test_a_message_of_nearly_the_limit_comes_back(engine_server: ServerProcess) -> None:
    message = bytes(1024 * 1024)

    async def talk(client: ClientConnection) -> None:
        await client.send(message)
        assert await client.recv() == message

    converse(engine_server, talk)


def test_many_messages_at_once_come_back_in_order(engine_server: ServerProcess) -> None:
    async def talk(client: ClientConnection) -> None:
        async def send() -> None:
            for number in range(1000):
                await client.send(str(number))

        sending = asyncio.create_task(send())
        received = [await client.recv() for _ in range(1000)]
        await sending
        assert received == [str(number) for number in range(1000)]

    converse(engine_server, talk)


def test_a_fragmented_message_comes_back_whole(engine_server: ServerProcess) -> None:
    async def talk(client: ClientConnection) -> None:
        await client.send(["frag", "men", "ted"])
        assert await client.recv() == "fragmented"

    converse(engine_server, talk)


def test_a_ping_is_answered(engine_server: ServerProcess) -> None:
    async def talk(client: ClientConnection) -> None:
        pong = await client.ping(b"are you there")
        assert await pong >= 0

    converse(engine_server, talk)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_a_close_is_answered_with_its_own_code(engine_server: ServerProcess, code: int) -> None:
    async def talk(client: ClientConnection) -> None:
        await client.close(code, "done")
        assert client.close_code == code
        with pytest.raises((ConnectionClosedOK, ConnectionClosedError)) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code

    converse(engine_server, talk)


def test_a_message_over_the_limit_is_closed_with_1009(engine_server: ServerProcess) -> None:
    async def talk(client: ClientConnection) -> None:
        await client.send(bytes(1024 * 1024 + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009

    converse(engine_server, talk)


def test_a_path_without_a_websocket_is_refused_with_404(engine_server: ServerProcess) -> None:
    async def talk(client: ClientConnection) -> None:
        raise AssertionError("the handshake must fail")

    with pytest.raises(InvalidStatus) as refused:
        converse(engine_server, talk, path="/nowhere")
    assert refused.value.response.status_code == 404


def test_two_hundred_connections_echo_at_once(engine_server: ServerProcess) -> None:
    async def one(number: int) -> None:
        async with connect(f"{engine_server.websocket_url}/echo", proxy=None) as client:
            for turn in range(5):
                message = f"{number}-{turn}"
                await client.send(message)
                assert await client.recv() == message

    async def run() -> None:
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))

    asyncio.run(run())
