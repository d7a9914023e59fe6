"""Python's other SignalR clients against our server: pysignalr (asyncio) and signalrcore (threads)."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.app import App
from engine.config import Config
from engine.server import Server
from examples.conformance.hub import ConformanceHub, identify
from tests.interop.peers import run

pytestmark = pytest.mark.interop

TEXT = "An unexpected error occurred invoking '%s' on the server. HubException: %s"
SAME: dict[str, Any] = {
    "echo": {"text": "\u00e9\u20ac\U0001f600", "list": [1, None, True, -1.5]},
    "add": 42,
    "error": TEXT % ("ThrowHubError", "mine"),
    "unknown": "Failed to invoke 'Nope' due to an error on the server. HubException: Method does not exist.",
    "stream": [0, 1, 2, 3],
    "heard": ["grouped", *range(20)],
    "sum": 6,
    "user": "ada",
}


class TellingHub(ConformanceHub):
    """Both clients can upload a stream only by itself, and neither can wait for what comes of it."""

    async def tell_sum(self, numbers: AsyncIterator[int]) -> None:
        await self.clients.caller.send("Heard", sum([number async for number in numbers]))


async def results_of(nursery: trio.Nursery, script: str, *arguments: str) -> Any:
    app = App(Config().replace(server__port=0))
    app.hub("/hub", authenticator=identify)(TellingHub)
    server: Server = await nursery.start(Server(app).run)
    command = (sys.executable, str(Path(__file__).with_name(script)), f"http://{server.addresses[0]}/hub", *arguments)
    done = await trio.to_thread.run_sync(run, *command)
    server.stop()
    return json.loads(done.stdout)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_pysignalr_calls_streams_uploads_and_answers(nursery: trio.Nursery, protocol: str) -> None:
    pytest.importorskip("pysignalr", reason="pysignalr is missing; install the extra dev")
    assert await results_of(nursery, "pysignalr_client.py", protocol) == {
        **SAME,
        "large": 200_000,
        "failed stream": [0, 1],
        "asked": 40,
        "asked in vain": TEXT % ("InvokeCaller", "the client failed"),
        "errors": 3,
    }


PARTS = {
    "calls": ("transport", "echo", "add", "error", "unknown", "large"),
    "sends": ("user", "heard"),
    "uploads": ("sum",),
    "streams": ("stream",),
}


@pytest.mark.parametrize(
    ("transport", "encoding", "parts"),
    [
        ("WebSockets", "Text", tuple(PARTS)),
        ("ServerSentEvents", "Text", tuple(PARTS)),
        # In MessagePack it ends uploads with a completion of no kind, and does not understand how streams end.
        ("WebSockets", "Binary", ("calls", "sends")),
        # It takes one message of a poll, leaves the others until the next, and shows polls no credentials;
        # binary polls it does not read at all.
        ("LongPolling", "Text", ("calls",)),
    ],
)
async def test_signalrcore_calls_streams_and_uploads(
    nursery: trio.Nursery, transport: str, encoding: str, parts: tuple[str, ...]
) -> None:
    pytest.importorskip("signalrcore", reason="signalrcore is missing; install the extra dev")
    found = await results_of(nursery, "signalrcore_client.py", transport, encoding, *parts)
    wanted = {**SAME, "transport": transport, "large": 50_000}
    assert found == {name: wanted[name] for part in parts for name in PARTS[part]}
