"""Foreign WebSocket clients agree with us on compression, and on what comes of it."""

from __future__ import annotations

import asyncio
import random
import zlib

import pytest

from tests.interop.peers import node
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

LIMIT = 40.0  # seconds for one conversation
WORDS = [" ".join(random.Random(n).choices(["engine", "frame", "wire", "grüße", "0"], k=n * 20)) for n in range(40)]
MESSAGES: list[str | bytes] = [*WORDS, b"", b"\0" * 500_000, random.Random(0).randbytes(100_000), "", WORDS[7]]


@pytest.fixture(scope="module")
def server():
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
        {"server_max_window_bits": 9, "client_max_window_bits": 9},
        {"client_max_window_bits": True},
    ],
)
def test_websockets_in_every_way_to_agree(server: ServerProcess, parameters: dict[str, bool | int]) -> None:
    client = pytest.importorskip("websockets.asyncio.client", reason="install the package websockets")
    deflate = pytest.importorskip("websockets.extensions.permessage_deflate")

    async def talk() -> None:
        extensions = [deflate.ClientPerMessageDeflateFactory(**parameters)]
        options = {"compression": None, "extensions": extensions, "max_size": None, "proxy": None}
        async with asyncio.timeout(LIMIT), client.connect(f"{server.websocket_url}/echo", **options) as socket:
            assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
            for message in MESSAGES:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(WORDS)  # one message, in fragments
            assert await socket.recv() == "".join(WORDS)

    asyncio.run(talk())


@pytest.mark.parametrize("bits", [15, 9])
def test_aiohttp(server: ServerProcess, bits: int) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="install the package aiohttp")

    async def talk() -> None:
        async with (
            asyncio.timeout(LIMIT),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.url}/echo", compress=bits, max_msg_size=0, protocols=("a",)) as socket,
        ):
            assert socket.protocol == "a"
            assert socket.compress
            for message in MESSAGES:
                await (socket.send_str if isinstance(message, str) else socket.send_bytes)(message)
                assert (await socket.receive()).data == message

    asyncio.run(talk())


def test_picows_which_leaves_messages_and_compression_to_its_user(server: ServerProcess) -> None:
    picows = pytest.importorskip("picows", reason="install the package picows")
    inflater = zlib.decompressobj(-15)
    deflater = zlib.compressobj(wbits=-15)
    received: list[bytes] = []

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport, frame) -> None:
            if frame.msg_type != picows.WSMsgType.TEXT:
                return
            payload = frame.get_payload_as_bytes()
            received.append(inflater.decompress(payload + b"\0\0\xff\xff") if frame.rsv1 else payload)
            if len(received) == len(WORDS):
                transport.send_close(picows.WSCloseCode.OK)

    async def talk() -> None:
        headers = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        async with asyncio.timeout(LIMIT):
            transport, _ = await picows.ws_connect(Listener, f"{server.websocket_url}/echo", extra_headers=headers)
            for word in WORDS:
                data = deflater.compress(word.encode()) + deflater.flush(zlib.Z_SYNC_FLUSH)
                transport.send(picows.WSMsgType.TEXT, data[:-4] or b"\0", True, True)
            await transport.wait_disconnected()

    asyncio.run(talk())
    assert received == [word.encode() for word in WORDS]


def test_ws_for_node(server: ServerProcess) -> None:
    found = node("websocket_echo.mjs", f"{server.websocket_url}/echo")
    for case in found.values():
        assert case["same"] == [True] * 5
        assert (case["code"], case["protocol"]) == (4000, "b")
    assert found["plain"]["agreed"] is None
    assert found["compressed"]["agreed"] == {"client_max_window_bits": 12}
    assert found["noTakeover"]["agreed"] == {
        "server_no_context_takeover": True,
        "client_no_context_takeover": True,
        "server_max_window_bits": 10,
        "client_max_window_bits": 10,
    }
