"""The examples of hub clients do what they say, against their own hubs."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import trio

from engine import HubConnection
from tests.interop.cutting_proxy import CuttingProxy
from tests.interop.server_process import ROOT


def test_the_client_streams_calls_and_is_called(start_engine):
    server = start_engine("examples.hub_client:app")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.hub_client", f"{server.url}/tickerhub"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == ["ABC 100.00", "ABC 100.25", "ABC 100.50", "400"]
    assert sorted(lines[4:]) == ["bought ABC", "somebody bought ABC"]


async def test_the_client_that_comes_back_misses_nothing(start_engine):
    server = start_engine("examples.hub_reconnect:app")
    proxy = CuttingProxy(server.url.removeprefix("http://"))
    lines: list[str] = []
    news = trio.Event()

    async def read(output: trio.abc.ReceiveStream) -> None:
        nonlocal news
        rest = b""
        async for data in output:
            *whole, rest = (rest + bytes(data)).split(b"\n")
            lines.extend(line.decode() for line in whole)
            news.set()
            news = trio.Event()

    async def until(line: str) -> None:
        while line not in lines:
            await news.wait()

    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            command = [sys.executable, "-m", "examples.hub_reconnect", f"http://{proxy.address}/newshub"]
            options = {"cwd": ROOT, "stdout": subprocess.PIPE, "check": False}
            process = await nursery.start(partial(trio.run_process, command, **options))
            nursery.start_soon(read, process.stdout)
            async with HubConnection(f"{server.url}/newshub") as editor:
                await editor.invoke("Publish", "first")
                await until("1 first")
                proxy.cut()
                await editor.invoke("Publish", "second")
                await until("2 second")
                await editor.invoke("Publish", "third")
                await until("3 third")
            process.kill()
            nursery.cancel_scope.cancel()
    assert [line for line in lines if line != "lost"] == ["1 first", "2 second", "3 third"]
    assert "lost" in lines
