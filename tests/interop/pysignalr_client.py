"""What pysignalr makes of a hub. Prints what each case came to.

Usage: python pysignalr_client.py URL json|messagepack
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pysignalr.client import SignalRClient
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol

LIMIT = 10.0  # seconds for one answer


async def exercise(client: SignalRClient) -> dict[str, Any]:
    found: dict[str, Any] = {}
    errors: asyncio.Queue[str] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def keep_error(message: Any) -> None:
        await errors.put(message.error)

    async def hear(arguments: list[Any]) -> None:
        await heard.put(arguments)

    async def answer(arguments: list[Any]) -> Any:
        if arguments == ["fail"]:
            raise ValueError("the client failed")
        return arguments[0] * 10

    async def call(method: str, *arguments: Any) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def keep(message: Any) -> None:
            done.set_result(message.error or message.result)

        await client.send(method, list(arguments), keep)
        return await asyncio.wait_for(done, LIMIT)

    async def collect(method: str, *arguments: Any) -> list[Any]:
        items: list[Any] = []
        done = asyncio.Event()

        async def end(_message: Any) -> None:
            done.set()

        async def take(item: Any) -> None:
            items.append(item)

        await client.stream(method, list(arguments), take, end, end)
        await asyncio.wait_for(done.wait(), LIMIT)
        return items

    client.on_error(keep_error)
    client.on("Heard", hear)
    client.on("Ask", answer)
    found["echo"] = await call("Echo", {"text": "é€😀", "list": [1, None, True, -1.5]})
    found["add"] = await call("Add", 40, 2)
    found["error"] = await call("ThrowHubError", "mine")
    found["unknown"] = await call("Nope")
    found["large"] = len(await call("ReturnLarge", 200_000))
    found["stream"] = await collect("StreamCounter", 4, 1)
    found["failed stream"] = await collect("StreamThrow", 2, "mine")
    found["asked"] = await call("InvokeCaller", "Ask", 4)
    found["asked in vain"] = await call("InvokeCaller", "Ask", "fail")
    await client.send("JoinGroup", ["of pysignalr"])
    await call("SendToGroup", "of pysignalr", "Heard", "grouped")
    await call("SendMany", "Heard", 20)
    found["heard"] = [(await asyncio.wait_for(heard.get(), LIMIT))[0] for _ in range(21)]
    async with client.client_stream("TellSum") as stream:
        for number in (1, 2, 3):
            await stream.send(number)
    found["sum"] = (await asyncio.wait_for(heard.get(), LIMIT))[0]
    found["user"] = await call("GetUserId")
    found["errors"] = errors.qsize()
    return found


async def main(url: str, protocol: str) -> None:
    opened = asyncio.Event()
    client = SignalRClient(
        url,
        JSONProtocol() if protocol == "json" else MessagepackProtocol(),
        headers={"Authorization": "Bearer user:ada"},  # its token factory is asked only after it has connected
    )

    async def open_() -> None:
        opened.set()

    client.on_open(open_)
    running = asyncio.create_task(client.run())
    await asyncio.wait_for(opened.wait(), LIMIT)
    print(json.dumps(await exercise(client)))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


asyncio.run(main(*sys.argv[1:]))
