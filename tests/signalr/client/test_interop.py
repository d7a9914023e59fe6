"""The client over real sockets: our server's demo, TLS, cuts, and aiosignalr's server where it works (JSON)."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from engine import HubConnection
from engine.errors import ConnectionClosed, HubError, RemoteProtocolError
from engine.signalr.client.connection import HubConnectionState
from tests.interop.cutting_proxy import CuttingProxy
from tests.interop.server_process import ROOT

OTHER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"


@pytest.mark.parametrize(
    ("transport", "protocol"),
    [
        ("WebSockets", "json"),
        ("WebSockets", "messagepack"),
        ("ServerSentEvents", "json"),
        ("LongPolling", "json"),
        ("LongPolling", "messagepack"),
    ],
)
async def test_two_clients_chat_over_sockets(engine_server, transport, protocol):
    url, options = f"{engine_server.url}/chathub", {"transports": [transport], "protocol": protocol}
    async with HubConnection(url, **options) as ada, HubConnection(url, **options) as bob:
        heard = trio.Event()
        received: list[tuple[str, str]] = []

        def receive(user: str, message: str) -> None:
            received.append((user, message))
            heard.set()

        bob.on("ReceiveMessage", receive)
        await bob.invoke("JoinGroup", "cats")
        await ada.invoke("SendToGroup", "cats", "Ada", "meow " * 1000)
        with trio.fail_after(10):
            await heard.wait()
        assert received == [("Ada", "meow " * 1000)]
        assert [await ada.invoke("Echo", number) for number in range(20)] == list(range(20))
        with pytest.raises(HubError, match="Method does not exist"):
            await ada.invoke("Nobody")


async def test_tls_is_spoken_and_certificates_are_checked(engine_tls_server):
    url = f"{engine_tls_server.tls_url}/chathub"
    with pytest.raises(ConnectionClosed, match="the certificate is not trusted"):
        await HubConnection(url).__aenter__()
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    for transport in ("WebSockets", "ServerSentEvents", "LongPolling"):
        async with HubConnection(url, transports=[transport], tls=trusting) as hub:
            assert await hub.invoke("Echo", transport) == transport


@pytest.fixture(scope="module")
def aiosignalr_server() -> Iterator[str]:
    if not OTHER_PYTHON.exists():
        pytest.skip("aiosignalr is not installed in .venv-bench")
    script = ROOT / "tests" / "signalr" / "client" / "aiosignalr_hub.py"
    with subprocess.Popen([OTHER_PYTHON, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/hub"
        process.kill()


@pytest.mark.interop
@pytest.mark.parametrize("transport", ["ServerSentEvents", "WebSockets"])  # its long polling lets nobody in
async def test_aiosignalr_answers(aiosignalr_server, transport):
    with trio.fail_after(20):
        async with HubConnection(aiosignalr_server, transports=[transport]) as hub:
            texts = ["a", "\u20ac", "x" * 5000]
            assert [await hub.invoke("echo", text) for text in texts] == texts
            assert await hub.invoke("Add", 1, 2, result_type=int) == 3
            async with hub.stream("count", 100) as items:
                assert [item async for item in items] == list(range(100))
            heard = trio.Event()
            hub.on("told", lambda text: heard.set())
            await hub.invoke("tell", "x")
            await heard.wait()
            with pytest.raises(HubError, match="invoking 'fail' on the server"):
                await hub.invoke("fail")
            with pytest.raises(HubError, match="nobody"):
                await hub.invoke("nobody")


@pytest.mark.interop
async def test_the_messagepack_of_aiosignalr_is_an_error_and_no_hang(aiosignalr_server):
    """It is none: headers are a number there."""
    with trio.fail_after(20):
        async with HubConnection(aiosignalr_server, protocol="messagepack", transports=["WebSockets"]) as hub:
            with pytest.raises((RemoteProtocolError, ConnectionClosed)):
                await hub.invoke("echo", "a")


@pytest.mark.interop
async def test_calls_survive_cuts_of_the_network_over_the_same_connection(start_engine):
    """Stateful reconnect over sockets, both ways at once; nothing is lost, doubled or reordered."""
    server = start_engine("examples.conformance:app")

    async def numbers() -> AsyncIterator[int]:
        for number in range(300):
            yield number
            await trio.sleep(0.003)

    async def call_often(hub: HubConnection) -> None:
        for number in range(200):
            assert await hub.invoke("Add", number, 1) == number + 1
            await trio.sleep(0.003)

    async def upload(hub: HubConnection) -> None:
        assert await hub.invoke("UploadSum", numbers()) == sum(range(300))

    async def read(hub: HubConnection) -> None:
        async with hub.stream("StreamCounter", 300, 3) as items:
            assert [item async for item in items] == list(range(300))

    proxy = CuttingProxy(server.url.removeprefix("http://"))
    with trio.fail_after(55):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            url = f"http://{proxy.address}/conformance"
            async with HubConnection(url, stateful_reconnect=True, transports=["WebSockets"]) as hub:
                connection_id = hub.connection_id
                async with trio.open_nursery() as uses:
                    for use in (call_often, upload, read):
                        uses.start_soon(use, hub)
                    for _ in range(4):
                        # Its answer tells that the connection is there again: only one attempt is made to resume.
                        assert await hub.invoke("Add", 1, 1) == 2
                        proxy.cut()
                assert hub.connection_id == connection_id
                assert hub.state is HubConnectionState.CONNECTED
            assert proxy.cuts >= 4
            nursery.cancel_scope.cancel()
