"""A server on a Unix socket in place of a port, with clients of others and our own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import engine
from tests.interop.peers import curl
from tests.interop.server_process import ROOT

pytestmark = pytest.mark.interop


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of a running server, which must end well and take the file with it."""
    made = tmp_path / "engine.sock"
    command = [sys.executable, "-m", "engine", "serve", "examples.conformance:app", "--host", f"unix:{made}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Serving examples.conformance:app on unix:{made}\n"
        assert process.stdout.readline() == f"  http       curl --unix-socket {made} http://localhost/\n"
        try:
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert not made.exists()


def test_curl_in_both_versions_of_http(path: Path) -> None:
    for version in ("--http1.1", "--http2-prior-knowledge"):
        assert curl(version, "--unix-socket", str(path), "http://localhost/") == b"engine conformance app\n"


def test_websockets(path: Path) -> None:
    client = pytest.importorskip("websockets.sync.client", reason="install the package websockets")
    with client.unix_connect(str(path), uri="ws://localhost/echo") as ws:
        for message in ("hello", b"x" * 100_000):
            ws.send(message)
            assert ws.recv(timeout=20) == message


@pytest.mark.parametrize("http2", [False, True])
async def test_our_own_client(path: Path, http2: bool) -> None:
    with trio.fail_after(20):
        async with engine.connect_websocket(f"ws+unix://{path}:/echo", http2=http2) as ws:
            for message in ("hello", b"x" * 100_000):
                await ws.send(message)
                assert await ws.receive() == message
