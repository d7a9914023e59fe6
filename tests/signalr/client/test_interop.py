"""The client over real sockets: our server's demo, TLS, and aiosignalr's server where it works (events and JSON)."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator

import pytest
import trio

from engine import HubConnection
from engine.errors import ConnectionClosed, HubError
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
    script = ROOT / "tests" / "benchmarks" / "peers" / "aiosignalr_aiohttp.py"
    with subprocess.Popen([OTHER_PYTHON, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/hub"
        process.kill()


@pytest.mark.interop
async def test_aiosignalr_answers_over_events(aiosignalr_server):
    async with HubConnection(aiosignalr_server, transports=["ServerSentEvents"]) as hub:
        assert [await hub.invoke("echo", text) for text in ("a", "\u20ac", "x" * 5000)] == ["a", "\u20ac", "x" * 5000]
        with pytest.raises(HubError):
            await hub.invoke("nobody")
