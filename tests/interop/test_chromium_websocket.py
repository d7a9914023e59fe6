"""Chromium's WebSocket on our server, over HTTP/1.1 and HTTP/2, and our client on Chromium's own WebSocket server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import engine
from tests.interop.peers import chromium, require
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop


@pytest.mark.timeout(120)
def test_a_browser_talks_over_both_versions_of_http(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.conformance:app", "--tls-self-signed", "--access-log", tls=True)
    seen = chromium("chromium_websocket.mjs", server.url, server.tls_url, limit=100)
    for name, version in (("http1", "http/1.1"), ("http2", "h2")):
        found = seen[name]
        assert found["version"] == version
        assert found["protocol"] == "b"
        assert found["extensions"].startswith("permessage-deflate")
        assert found["same"] == [True] * 8, name
        assert found["end"] == {"code": 4000, "reason": "", "wasClean": True}
        assert found["refusal"]["code"] == 1009
        assert found["failed"]
    # An extended CONNECT, on the connection that brought the page.
    assert "CONNECT /echo HTTP/2 200" in server.output


async def test_a_browser_is_driven_over_its_own_websocket_server(tmp_path: Path) -> None:
    command = [
        *(require("chromium", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={tmp_path}"),
        "about:blank",
    ]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = tmp_path / "DevToolsActivePort"  # port and path, once it listens
        with trio.fail_after(40):
            while not address.exists() or "\n" not in address.read_text():  # noqa: ASYNC110  # nothing tells of it
                await trio.sleep(0.05)
            port, path = address.read_text().split("\n")
            url = f"ws://127.0.0.1:{port}"
            async with engine.connect_websocket(url + path) as ws:
                await ws.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(await ws.receive())["result"]["targetInfos"]
                [tab_id] = [target["targetId"] for target in targets if target["type"] == "page"]
                async with engine.connect_websocket(f"{url}/devtools/page/{tab_id}", max_message_size=1 << 22) as tab:
                    for expression, value in (("'ключ'.repeat(100000)", "ключ" * 100_000), ("6 * 7", 42)):
                        parameters = {"expression": expression, "returnByValue": True}
                        await tab.send(json.dumps({"id": 2, "method": "Runtime.evaluate", "params": parameters}))
                        assert json.loads(await tab.receive())["result"]["result"]["value"] == value
            assert ws.closed is not None
            assert tab.closed is not None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            process.terminate()
            await process.wait()
