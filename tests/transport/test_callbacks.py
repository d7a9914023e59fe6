"""Custom protocols: callbacks run by the driver, on a port or Unix socket of their own."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from engine import App, Config, StreamProtocol, serve
from engine.config import TlsConfig
from engine.errors import ConfigError, StartupError
from engine.server import Server

QUIET = Config().replace(server__port=0)


class Echo(StreamProtocol):
    lost: list[str]

    def data_received(self, data: bytes) -> None:
        self.connection.write(data[:1])
        self.connection.write(data[1:])

    def connection_lost(self, reason: str) -> None:
        LOST.append(reason)


LOST: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_lost_yet() -> None:
    LOST.clear()


@asynccontextmanager
async def serving(
    factory: Callable[[], StreamProtocol], address: int | str = 0, config: Config = QUIET, *, tls: bool = False
) -> AsyncIterator[tuple[Server, str]]:
    app = App()
    app.protocol(address, factory, tls=tls)
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, app, config)
        yield server, server.protocol_addresses[str(address)][0]
        server.stop()


async def dial(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def test_bytes_come_back_and_an_end_of_input_closes() -> None:
    async with serving(Echo) as (server, address):
        stream = await dial(address)
        await stream.send_all(b"hello")
        assert await stream.receive_some(100) == b"hello"  # two writes, one send
        await stream.send_eof()
        assert await rest(stream) == b""
        await stream.aclose()
        await server.wait_until_idle()
        assert LOST == ["closed"]


async def test_it_runs_beside_http_on_the_same_server() -> None:
    async with serving(Echo) as (server, _):
        stream = await dial(server.addresses[0])
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await rest(stream)).startswith(b"HTTP/1.1 404 ")
        await stream.aclose()


async def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    async with serving(Echo, f"unix:{path}") as (_, address):
        assert address == str(path)
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"x")
        assert await stream.receive_some(10) == b"x"
        await stream.aclose()
        second = App()
        second.protocol(f"unix:{path}", Echo)
        with pytest.raises(StartupError, match="cannot listen on unix:"):
            await Server(second, QUIET).run()
    assert not path.exists()


async def test_a_socket_file_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    left = trio.socket.socket(trio.socket.AF_UNIX)
    await left.bind(str(path))
    left.close()
    async with serving(Echo, f"unix:{path}"):
        await (await trio.open_unix_socket(path)).aclose()


async def test_tls_is_the_servers_own() -> None:
    config = Config(server=QUIET.server, tls=TlsConfig(self_signed=True))
    async with serving(Echo, 0, config, tls=True) as (_, address):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stream = trio.SSLStream(await dial(address), context)
        await stream.send_all(b"secret")
        assert await stream.receive_some(100) == b"secret"
        await stream.aclose()


async def test_tls_without_a_certificate_is_refused() -> None:
    app = App()
    app.protocol(0, Echo, tls=True)
    with pytest.raises(ConfigError, match=r"tls\.cert_file: the protocol at 0 asks for TLS"):
        await Server(app, QUIET).run()


@pytest.mark.parametrize("when", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_a_callback_that_raises_ends_its_connection_and_no_other(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Echo):
        armed = True

    def fail(self: Broken, *_: object) -> None:
        if Broken.armed:
            Broken.armed = False
            raise ValueError("mine")
        getattr(Echo, when)(self, *_)

    setattr(Broken, when, fail)
    async with serving(Broken) as (server, address):
        stream = await dial(address)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"x")
            await stream.send_eof()
            await rest(stream)
        await stream.aclose()
        await server.wait_until_idle()
        other = await dial(address)
        await other.send_all(b"y")
        assert await other.receive_some(10) == b"y"
        await other.aclose()
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["connection 1 failed; mend its protocol's callback"]


async def test_a_timer_calls_back_and_what_it_raises_stays_inside() -> None:
    class Timed(Echo):
        def connection_made(self) -> None:
            self.connection.timer(self.tick).set(trio.current_time() + 0.01)

        def tick(self) -> None:
            self.connection.write(b"tick")
            raise ValueError("mine")

    async with serving(Timed) as (server, address):
        stream = await dial(address)
        assert await rest(stream) == b"tick"
        await stream.aclose()
        await server.wait_until_idle()
        await (await dial(address)).aclose()


async def test_a_task_of_a_connection_ends_with_it() -> None:
    ended = trio.Event()

    class Working(Echo):
        def connection_made(self) -> None:
            self.connection.start_soon(self.work, b"working")

        async def work(self, word: bytes) -> None:
            self.connection.write(word)
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

    async with serving(Working) as (_, address):
        stream = await dial(address)
        assert await stream.receive_some(100) == b"working"
        await stream.aclose()
        await ended.wait()


async def test_a_peer_that_does_not_read_is_dropped_at_the_limit() -> None:
    calls: list[str] = []
    over = trio.Event()

    class Flood(Echo):
        def data_received(self, data: bytes) -> None:
            for _ in range(100):
                self.connection.write(bytes(100_000))

        def pause_writing(self) -> None:
            calls.append("pause")

        def connection_lost(self, reason: str) -> None:
            calls.append(reason)
            over.set()

    async with serving(Flood) as (_server, address):
        stream = await dial(address)
        await stream.send_all(b"x")
        await over.wait()
        await stream.aclose()
    assert len(calls) == 1
    assert "exceeds server.outbox_size (1 MiB)" in calls[0]


async def test_writing_pauses_and_resumes_with_the_peer() -> None:
    calls: list[str] = []

    class Slow(Echo):
        def data_received(self, data: bytes) -> None:
            while not calls:
                self.connection.write(bytes(100_000))
                self.connection._driver._call(lambda: None)  # as if each were a read of its own

        def pause_writing(self) -> None:
            calls.append("pause")

        def resume_writing(self) -> None:
            calls.append("resume")
            self.connection.close()

    async with serving(Slow) as (_, address):
        stream = await dial(address)
        await stream.send_all(b"x")
        assert len(await rest(stream)) % 100_000 == 0
        await stream.aclose()
    assert calls == ["pause", "resume"]


async def test_reading_pauses_and_resumes() -> None:
    protocols: list[Echo] = []
    made = trio.Event()

    class Paused(Echo):
        def connection_made(self) -> None:
            self.connection.pause_reading()
            protocols.append(self)
            made.set()

    async with serving(Paused) as (_, address):
        stream = await dial(address)
        await stream.send_all(b"x")
        await made.wait()
        with trio.move_on_after(0.02) as scope:
            await stream.receive_some(10)
        assert scope.cancelled_caught
        protocols[0].connection.resume_reading()
        assert await stream.receive_some(10) == b"x"
        await stream.aclose()


async def test_a_drain_asks_the_protocol_and_waits_for_it() -> None:
    class Polite(Echo):
        def drain_requested(self) -> None:
            self.connection.write(b"goodbye")
            self.connection.close()

    async with serving(Polite) as (server, address):
        stream = await dial(address)
        await stream.send_all(b"x")
        await stream.receive_some(10)
        server.drain()
        assert await rest(stream) == b"goodbye"
        await stream.aclose()


async def test_a_protocol_that_ignores_the_drain_is_cancelled_after_the_grace() -> None:
    class Stubborn(Echo):
        def drain_requested(self) -> None:
            pass

    async with serving(Stubborn, config=QUIET.replace(server__graceful_timeout=0.05)) as (server, address):
        stream = await dial(address)
        await stream.send_all(b"x")
        await stream.receive_some(10)
        server.drain()
        with pytest.raises(trio.BrokenResourceError):
            await rest(stream)
        await stream.aclose()
    assert LOST == ["the server is stopping"]


@pytest.mark.parametrize("address", ["nowhere", "host:port", 70000, "unix", "", "1.2.3.4:99999"])
def test_a_wrong_address_is_a_config_error(address: int | str) -> None:
    with pytest.raises(ConfigError, match="give a port from 0 to 65535"):
        App().protocol(address, Echo)


def test_an_address_can_be_taken_once() -> None:
    app = App()
    app.protocol(7000, Echo)
    with pytest.raises(ConfigError, match="another protocol of this app has it"):
        app.protocol(7000, Echo)
    assert [(route.kind, route.path, route.name) for route in app.routes()] == [("protocol", "7000", "Echo")]
