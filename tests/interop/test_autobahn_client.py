"""Autobahn's cases against our client, as an echo; `kosoku` is the server that runs them."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import engine
from engine.errors import ConnectionClosed
from tests.interop.test_autobahn import INFORMATIONAL, RUN

pytest.importorskip("kosoku", reason="install the package kosoku")

pytestmark = pytest.mark.interop

# Of the suite's section 13, by what they ask of a client; a server cannot have the second unless we offer it.
WITH_CONTEXT = (1, 3, 4, 7)
WITHOUT_CONTEXT = (2, 5, 6)
AT_ONCE = 4  # cases; some only wait for a time-out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def echo(url: str, **settings: bool) -> None:
    """Send back what comes until the suite, or the protocol, ends the connection.

    The suite takes a ping for the end of a case, and some last longer than the time between two of ours.
    """
    limits = {"max_message_size": 1 << 24, "compression_threshold": 0, "ping_interval": math.inf}
    async with engine.connect_websocket(url, **limits, **settings) as ws:
        try:
            async for message in ws:
                await ws.send(message)
        except ConnectionClosed:
            pass  # what the case was about is in the report


async def count_cases(url: str) -> int:
    while True:
        try:
            async with engine.connect_websocket(f"{url}/getCaseCount") as ws:
                return int(await ws.receive())
        except ConnectionClosed:
            await trio.sleep(0.1)  # it is starting


async def run_cases(url: str, limit: float, settings: dict[str, bool]) -> None:
    with trio.fail_after(limit):
        with trio.fail_after(30):
            total = await count_cases(url)
        numbers = iter(range(1, total + 1))

        async def work() -> None:
            for number in numbers:
                await echo(f"{url}/runCase?case={number}&agent=engine", **settings)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
        await echo(f"{url}/updateReports?agent=engine")


async def judge(folder: Path, *patterns: str, limit: float = 60.0, **settings: bool) -> set[str]:
    """Run cases; all must be right."""
    port = free_port()
    selection = [part for pattern in patterns for part in ("--include", pattern)]
    options = ["--mode", "fuzzingserver", "--outdir", str(folder), *selection, f"127.0.0.1:{port}"]
    command = [sys.executable, "-W", "ignore", "-c", RUN, *options]
    async with trio.open_nursery() as nursery:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        await nursery.start(partial(trio.run_process, command, **quiet))
        await run_cases(f"ws://127.0.0.1:{port}", limit, settings)
        nursery.cancel_scope.deadline = trio.current_time() + limit  # it writes the report, and ends
    [cases] = json.loads((folder / "index.json").read_text()).values()
    wrong = {
        name: (case["behavior"], case["behaviorClose"])
        for name, case in cases.items()
        if {case["behavior"], case["behaviorClose"]} - ({"OK", "INFORMATIONAL"} if name in INFORMATIONAL else {"OK"})
    }
    assert not wrong
    return set(cases)


async def test_framing_fragments_utf_8_and_closing_are_right(tmp_path: Path) -> None:
    found = await judge(tmp_path, "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
    assert len(found) == 247


async def test_compression_is_right_with_each_way_to_negotiate_it(tmp_path: Path) -> None:
    found = await judge(tmp_path, "12.1.1", "12.1.3", "12.2.7", "12.5.5", *(f"13.{n}.3" for n in WITH_CONTEXT))
    assert len(found) == 8
    found = await judge(tmp_path, *(f"13.{n}.3" for n in WITHOUT_CONTEXT), client_context_takeover=False)
    assert len(found) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_every_case_is_right(tmp_path: Path) -> None:
    most = await judge(
        tmp_path, *(f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12)), *(f"13.{n}.*" for n in WITH_CONTEXT), limit=800
    )
    rest = await judge(tmp_path, *(f"13.{n}.*" for n in WITHOUT_CONTEXT), limit=300, client_context_takeover=False)
    assert len(most | rest) == 517
