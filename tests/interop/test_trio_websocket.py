"""trio-websocket as the client of the echo at /echo."""

from __future__ import annotations

import gc

import pytest
import trio

from tests.interop.server_process import ServerProcess

trio_websocket = pytest.importorskip("trio_websocket", reason="install the package trio-websocket")

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("message", ["", "hello", "grüße · 你好", b"", bytes(range(256)), b"y" * 200_000])
async def test_a_message_comes_back_in_its_own_type(engine_server: ServerProcess, message: str | bytes) -> None:
    with trio.fail_after(30):
        async with trio_websocket.open_websocket_url(f"{engine_server.websocket_url}/echo") as client:
            await client.send_message(message)
            assert await client.get_message() == message


async def test_a_ping_is_answered(engine_server: ServerProcess) -> None:
    with trio.fail_after(30):
        async with trio_websocket.open_websocket_url(f"{engine_server.websocket_url}/echo") as client:
            await client.ping(b"are you there")


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_close_is_answered_with_its_own_code(engine_server: ServerProcess, code: int) -> None:
    with trio.fail_after(30):
        async with trio_websocket.open_websocket_url(f"{engine_server.websocket_url}/echo") as client:
            await client.aclose(code=code, reason="done")
            assert client.closed.code == code


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it never closes a refused socket
async def test_a_path_without_a_websocket_is_refused_with_404(engine_server: ServerProcess) -> None:
    with trio.fail_after(30):
        with pytest.raises(trio_websocket.HandshakeError) as refused:
            async with trio_websocket.open_websocket_url(f"{engine_server.websocket_url}/nowhere"):
                pass
        assert isinstance(refused.value, trio_websocket.ConnectionRejected)
        assert refused.value.status_code == 404
    del refused
    gc.collect()  # the socket's warning belongs to this test
