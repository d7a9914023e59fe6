"""The same hubs over real sockets: the demo's chat, and trio-websocket as an independent client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from engine.app import App
from engine.config import Config
from engine.demo.chat import ChatHub
from engine.server import Server

trio_websocket = pytest.importorskip("trio_websocket", reason="install the package trio-websocket")


@pytest.fixture
async def address(nursery: trio.Nursery) -> AsyncIterator[str]:
    app = App(Config().replace(server__port=0))
    app.hub("/chathub")(ChatHub)
    server: Server = await nursery.start(Server(app).run)
    yield server.addresses[0]
    server.stop()


class Chatter:
    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self._text = ""

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send_message(json.dumps(message) + "\x1e")

    async def message(self) -> Any:
        while "\x1e" not in self._text:
            self._text += await self.socket.get_message()
        record, self._text = self._text.split("\x1e", 1)
        return json.loads(record)

    async def call(self, target: str, *arguments: Any) -> None:
        await self.send({"type": 1, "invocationId": "1", "target": target, "arguments": list(arguments)})


async def join(nursery: trio.Nursery, address: str) -> Chatter:
    socket = await trio_websocket.connect_websocket_url(nursery, f"ws://{address}/chathub")
    chatter = Chatter(socket)
    await chatter.send({"protocol": "json", "version": 1})
    assert await chatter.message() == {}
    return chatter


DONE = {"type": 3, "invocationId": "1", "result": None}


async def test_two_people_chat_to_all_and_in_a_group(address: str, nursery: trio.Nursery) -> None:
    with trio.fail_after(20):
        ada, grace = await join(nursery, address), await join(nursery, address)
        await ada.call("SendMessage", "Ada", "hello · 你好")
        expected = {"type": 1, "target": "ReceiveMessage", "arguments": ["Ada", "hello · 你好"]}
        assert await grace.message() == expected
        assert await ada.message() == expected
        assert await ada.message() == DONE
        await grace.call("JoinGroup", "room")
        assert await grace.message() == DONE
        await ada.call("SendToGroup", "room", "Ada", "in the room")
        assert await ada.message() == DONE
        assert (await grace.message())["arguments"] == ["Ada", "in the room"]
        await grace.call("LeaveGroup", "room")
        assert await grace.message() == DONE
        await ada.call("SendToGroup", "room", "Ada", "to nobody")
        assert await ada.message() == DONE
        await grace.call("Echo", [1, {"a": None}])
        assert await grace.message() == {"type": 3, "invocationId": "1", "result": [1, {"a": None}]}
        for each in (ada, grace):
            await each.socket.aclose()
            assert each.socket.closed.code == 1000


async def test_a_message_of_the_full_size_comes_back(address: str, nursery: trio.Nursery) -> None:
    with trio.fail_after(20):
        client = await join(nursery, address)
        text = "x" * 32_000
        await client.call("Echo", text)
        assert (await client.message())["result"] == text
        await client.socket.aclose()
