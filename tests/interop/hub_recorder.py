"""A hub server by hand that writes down what clients send, so that two clients can be compared.

Each scenario has a path of its own, `/SCENARIO/hub`, and its own log. Entries are what a server can tell
apart: the order of requests, targets, bodies, and those fields that mean something to a hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from contextlib import suppress
from typing import Any

import msgspec
import trio

from tests.signalr.client.client_peer import RawPeer

_FIELDS = ("authorization", "content-type", "x-mine", "x-requested-with", "cookie")
_ALL = ("WebSockets", "ServerSentEvents", "LongPolling")


class Connection:
    """One connection token: what waits for its transport, and who drops it when."""

    def __init__(self, scenario: str, log: list[Any]) -> None:
        self.scenario = scenario
        self.log = log
        self.queue: list[str] = []
        self.news = trio.Event()
        self.sockets = 0
        self.polls = 0
        self.over = False

    def put(self, text: str) -> None:
        self.queue.append(text)
        self.news.set()

    async def take(self) -> str:
        while not self.queue and not self.over:
            self.news = trio.Event()
            await self.news.wait()
        taken, self.queue = "".join(self.queue), []
        return taken

    def receive(self, body: bytes) -> None:
        """Log hub messages, and answer them."""
        if self.scenario == "messagepack" and not body.endswith(b"\x1e"):
            self.log.append(["message", *_unpack(body)])
            return
        for text in body.decode().split("\x1e")[:-1]:
            message = json.loads(text)
            self.log.append(["message", message])
            for answer in self.answers(message):
                self.put(json.dumps(answer) + "\x1e")

    def answers(self, message: dict[str, Any]) -> list[Any]:
        kind, id_ = message.get("type"), message.get("invocationId")
        if kind is None:
            return [{}]
        if kind == 7:
            self.over = True
            self.news.set()
            return []
        if kind == 1 and message["target"] == "CloseMe":
            return [{"type": 7, "error": "go", "allowReconnect": True}]
        if kind == 1 and message["target"] == "Ask":
            return [{"type": 1, "invocationId": "s1", "target": "question", "arguments": [20]}]
        if kind == 1 and id_ is not None and not message.get("streamIds"):
            return [{"type": 3, "invocationId": id_, "result": message["arguments"]}]
        if kind == 4 and message["target"] == "Three":
            return [*({"type": 2, "invocationId": id_, "item": n} for n in range(3)), {"type": 3, "invocationId": id_}]
        if kind == 4:
            return [{"type": 2, "invocationId": id_, "item": 0}]
        if kind == 3 and id_ == "0" and not message.get("error"):  # the end of an upload, whose call has the next id
            return [{"type": 3, "invocationId": "1", "result": "all"}]
        return []


def _unpack(body: bytes) -> list[Any]:
    found = []
    while body:
        length, position = 0, 0
        while True:
            byte = body[position]
            length |= (byte & 0x7F) << 7 * position
            position += 1
            if not byte & 0x80:
                break
        found.append(msgspec.msgpack.decode(body[position : position + length]))
        body = body[position + length :]
    return found


class Recorder:
    """See the module; `logs` by scenario."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Any]] = defaultdict(list)
        self._connections: dict[str, Connection] = {}

    async def run(self, task_status: trio.TaskStatus[str]) -> None:
        """Serve on a port of loopback, whose URL is what it has started with."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, listeners)
            task_status.started(self.url)

    async def _serve(self, stream: trio.SocketStream) -> None:
        peer = RawPeer(stream)  # type: ignore[arg-type]  # both have send_all and receive_some
        async with stream:
            with suppress(EOFError, trio.BrokenResourceError):
                while True:
                    await self._request(peer)

    async def _request(self, peer: RawPeer) -> None:
        method, target, fields, body = await peer.request()
        scenario = target.split("/")[1]
        log = self.logs[scenario]
        websocket = fields.get("upgrade", "").lower() == "websocket"
        kept = {name: fields[name] for name in _FIELDS if fields.get(name)}
        shown = re.sub(r"&_=\d{13}\b", "&_=NOW", target)
        log.append(["websocket" if websocket else method, shown, kept])
        if "/negotiate" in target:
            await self._negotiate(peer, scenario, log, target)
            return
        match = re.search(r"[?&]id=([\w.]+)", target)
        connection = self._connections[match[1]] if match else Connection(scenario, log)
        if websocket:
            await self._websocket(peer, connection, fields)
        elif "text/event-stream" in fields.get("accept", ""):
            await self._events(peer, connection)
        elif method == "POST":
            await self._post(peer, connection, body)
        elif method == "DELETE":
            connection.over = True
            connection.news.set()
            await peer.answer(202)
        else:
            await self._poll(peer, connection)

    async def _negotiate(self, peer: RawPeer, scenario: str, log: list[Any], target: str) -> None:
        if scenario == "redirect" and "/elsewhere" not in target:
            await peer.answer(200, json.dumps({"url": f"{self.url}/redirect/elsewhere?x=1", "accessToken": "theirs"}))
            return
        token = f"{scenario}.{len(self._connections)}"
        self._connections[token] = Connection(scenario, log)
        log[-1].append("asks for stateful reconnect" if "useStatefulReconnect=true" in target else "")
        answer = {
            "negotiateVersion": 1,
            "connectionId": "public",
            "connectionToken": token,
            "availableTransports": [{"transport": each, "transferFormats": ["Text", "Binary"]} for each in _ALL],
        }
        if scenario == "stateful":
            answer["useStatefulReconnect"] = True
        await peer.answer(200, json.dumps(answer), set_cookie="lb=7; Path=/")

    async def _post(self, peer: RawPeer, connection: Connection, body: bytes) -> None:
        await peer.answer(200)
        connection.receive(body)

    async def _poll(self, peer: RawPeer, connection: Connection) -> None:
        connection.polls += 1
        if connection.polls == 1:
            await peer.answer(200)
            return
        text = await connection.take()
        await peer.answer(200 if text else 204, text)

    async def _events(self, peer: RawPeer, connection: Connection) -> None:
        await peer.stream.send_all(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n:\r\n\r\n")
        while text := await connection.take():
            await peer.stream.send_all(f"data: {text}\r\n\r\n".encode())
        raise EOFError

    async def _websocket(self, peer: RawPeer, connection: Connection, fields: dict[str, str]) -> None:
        if connection.scenario == "fallback":
            await peer.answer(503)
            raise EOFError
        accept = base64.b64encode(_sha1(fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
        await peer.stream.send_all(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
        )
        connection.sockets += 1
        if connection.sockets > 1:
            await peer.send('{"type":9,"sequenceId":1}\x1e')
        drops = {"reconnect": 5, "stateful": 3}.get(connection.scenario, 10**6) if connection.sockets == 1 else 10**6
        if connection.scenario == "reconnect" and len(self._of("reconnect")) > 1:
            drops = 10**6
        frames = 0
        while frames < drops:
            opcode, payload = await peer.frame()
            frames += 1
            if opcode == 8:
                connection.log.append(["close frame"])
                raise EOFError
            connection.log.append(["frame", opcode])
            connection.receive(payload)
            if connection.queue:
                text = await connection.take()
                await peer.send(text)
        raise EOFError  # dropped

    def _of(self, scenario: str) -> list[Connection]:
        return [each for each in self._connections.values() if each.scenario == scenario]


def _sha1(text: str) -> bytes:
    return hashlib.sha1(text.encode()).digest()
