"""What signalrcore makes of a hub: threads and callbacks. Prints what each case came to.

Usage: python signalrcore_client.py URL TRANSPORT Text|Binary [calls sends uploads streams]
"""

from __future__ import annotations

import json
import logging
import queue
import sys
from typing import Any

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.subject import Subject
from signalrcore.types import HttpTransportType, HubProtocolEncoding

LIMIT = 10.0  # seconds for one answer


def exercise(hub: Any, parts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    heard: queue.Queue[Any] = queue.Queue()
    errors: queue.Queue[str] = queue.Queue()

    def call(method: str, *arguments: Any) -> Any:
        done: queue.Queue[Any] = queue.Queue()
        hub.invoke(method, list(arguments), done.put)
        return done.get(timeout=LIMIT).result

    def fail(method: str, *arguments: Any) -> str:
        hub.invoke(method, list(arguments))
        return errors.get(timeout=LIMIT)

    def collect(method: str, *arguments: Any) -> list[Any]:
        items: list[Any] = []
        done: queue.Queue[Any] = queue.Queue()
        hub.stream(method, list(arguments)).subscribe({"next": items.append, "complete": done.put, "error": done.put})
        done.get(timeout=LIMIT)
        return items

    hub.on("Heard", lambda arguments: heard.put(arguments[0]))
    hub.on_error(lambda message: errors.put(message.error))
    if "calls" in parts:
        found["transport"] = call("GetTransport")
        found["echo"] = call("Echo", {"text": "\u00e9\u20ac\U0001f600", "list": [1, None, True, -1.5]})
        found["add"] = call("Add", 40, 2)
        found["error"] = fail("ThrowHubError", "mine")
        found["unknown"] = fail("Nope")
        found["large"] = len(call("ReturnLarge", 50_000))
    if "sends" in parts:
        found["user"] = call("GetUserId")
        call("JoinGroup", "of signalrcore")
        call("SendToGroup", "of signalrcore", "Heard", "grouped")
        call("SendMany", "Heard", 20)
        found["heard"] = [heard.get(timeout=LIMIT) for _ in range(21)]
    if "uploads" in parts:
        numbers = Subject()
        hub.send("TellSum", numbers)
        for number in (1, 2, 3):
            numbers.next(number)
        numbers.complete()
        found["sum"] = heard.get(timeout=LIMIT)
    if "streams" in parts:
        found["stream"] = collect("StreamCounter", 4, 1)
    return found


def main(url: str, transport: str, encoding: str, *parts: str) -> None:
    opened: queue.Queue[None] = queue.Queue()
    hub = (
        HubConnectionBuilder()
        .with_url(url, options={"transport": HttpTransportType(transport), "access_token_factory": lambda: "user:ada"})
        .with_hub_protocol(HubProtocolEncoding(encoding))
        .configure_logging(logging.CRITICAL)
        .build()
    )
    hub.on_open(lambda: opened.put(None))
    hub.start()
    opened.get(timeout=LIMIT)
    found = exercise(hub, list(parts))
    hub.stop()
    print(json.dumps(found))


main(*sys.argv[1:])
