"""Replays recorded conversations of ASP.NET Core 10 over all three transports, byte for byte.

Several requests may wait for their answers at once, which is what sets these scenarios apart from
those of `test_golden`. Not compared is what the recording's notes say, and `date` and `server`.

Two steps were done and not recorded, which the answers show: in some scenarios of stateful reconnect
the client cut the connection and came back before the server's Sequence, and in one of Server-Sent
Events it ended the stream before a POST that got 404.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.signalr.auth import User, bearer_token
from engine.transport.exchange import RequestHead
from tests.signalr.contract_hub import ContractHub
from tests.signalr.http_peer import Answer, HttpPeer, Request
from tests.signalr.hub_peer import BINARY, CLOSE, TEXT, HubClient, HubHost, hosting

SCENARIOS: dict[str, list[list[Any]]] = {
    each["name"]: each["steps"]
    for each in json.loads((Path(__file__).parents[1] / "golden" / "signalr.json").read_text())
}
COVERED = (
    "negotiate", "GET ", "POST ", "DELETE ", "PUT ", "PATCH ", "OPTIONS ", "HEAD ", "the public id",
    "WebSocket upgrade",
    "long polling", "server-sent events", "Accept: ", "handshake: ", "stateful reconnect", "json: stateful",
    "messagepack: stateful", "authentication expires", "json: keep-alive", "json: Abort",
    "json: a close", "json: welcome on connect", "json: an error on connect",
)  # fmt: skip
# Where we differ on purpose, and why.
DIFFERENT = {
    "handshake: malformed, with detailed errors": "the detail names Python's error, not .NET's",
    "json, detailed errors: a close with an error": "not a scenario of these",
    "json: an error on connect, detailed": "the detail names Python's error, not .NET's",
}
NAMES = [name for name in SCENARIOS if name.startswith(COVERED) and name not in DIFFERENT]
FAST = {
    "keep_alive_interval": 1, "client_timeout": 2, "handshake_timeout": 2, "long_poll_timeout": 2,
    "disconnect_timeout": 3,
}  # fmt: skip
IGNORED = {"date", "server", "transfer-encoding", "content-length", "sec-websocket-accept"}


def user_of(head: RequestHead) -> User | None:
    """The recording's credentials: `user:NAME;exp=UNIX_MILLISECONDS`."""
    token = bearer_token(head) or ""
    if not token.startswith("user:"):
        return None
    name, *rest = token.removeprefix("user:").split(";")
    claims = dict(each.split("=", 1) for each in rest)
    return User(name, claims, float(claims["exp"]) / 1000 if "exp" in claims else None)


def mount_all(host: HubHost) -> None:
    host.mount(ContractHub, "/conformance")
    host.mount(ContractHub, "/conformance-fast", **FAST)
    host.mount(ContractHub, "/conformance-nows", transports=("ServerSentEvents", "LongPolling"))
    host.mount(
        ContractHub,
        "/conformance-auth",
        authenticator=user_of,
        require_user=True,
        close_on_authentication_expiration=True,
    )


class Replay:
    """One scenario against a host."""

    def __init__(self, host: HubHost, name: str) -> None:
        self.host = host
        self.http = HttpPeer(host)
        self.name = name
        self.values: dict[str, str] = {}
        self.waiting: list[Request] = []
        self.events: Request | None = None
        self.client: HubClient | None = None
        self._left = ""  # of an answer of the websocket that was not compared yet

    async def play(self, steps: list[list[Any]]) -> None:
        for index, (kind, *rest) in enumerate(steps):
            following = steps[index + 1 :]
            if kind == "http>":
                await self._send_request(rest[0], following)
            elif kind == "http<":
                await self._compare_next(rest[0])
            elif kind == "ws>":
                await self._send(rest[0], rest[1])
            elif kind == "ws<":
                await self._receive(rest[0], rest[1], following)
            elif kind == "ws close":
                client = await self._websocket()
                assert await client.frame() is not None or client.close_code
                assert client.close_code == rest[0]
            elif kind == "cut":
                await (await self._websocket()).cut()
                await trio.testing.wait_all_tasks_blocked()
            elif kind.startswith("ws opened again"):
                self.client = await self.host.websocket(self._target())
            else:
                assert kind == "nothing"

    def _fill(self, text: str) -> str:
        for key, value in self.values.items():
            text = text.replace(f"{{{key}}}", value)
        return text

    def _learn(self, expected: str, actual: str) -> str:
        expected = self._fill(expected)
        pattern = re.sub(r"\\\{(connection\w+)\\\}", r"(?P<\1>[A-Za-z0-9_-]{22})", re.escape(expected))
        match = re.fullmatch(pattern, actual)
        if match is not None:
            self.values.update(match.groupdict())
        return self._fill(expected)

    # -- HTTP -----------------------------------------------------------------

    async def _send_request(self, text: str, following: list[list[Any]]) -> None:
        posted = re.fullmatch(r"POST (\S+) \(Content-Length (\d+)\), body hex (\w+)", text)
        if posted is not None:
            target, size, body = posted.groups()
            text = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            raw = self._fill(text).encode() + bytes.fromhex(body)
        else:
            raw = self._fill(text).encode()
        ended = self.events is not None and following[:1] and "404 Not Found" in str(following[0])
        if ended and "what else is refused" in self.name:
            assert self.events is not None
            await self.events.cut()
            await trio.sleep(1)  # more than http1.half_close_grace
        self.waiting.append(await self.http.start_raw(raw))
        await trio.testing.wait_all_tasks_blocked()

    async def _compare_next(self, expected: Any) -> None:
        if isinstance(expected, dict):
            head, _, body = bytes.fromhex(expected["hex"]).partition(b"\r\n\r\n")
            await self._compare(head.decode(), body)
        elif not expected.startswith("HTTP/1.1"):
            await self._compare_events(expected)
        else:
            head, _, body = expected.partition("\r\n\r\n")
            await self._compare(head, _unchunked(head, body).encode())

    async def _compare(self, head: str, body: bytes) -> None:
        """The answer that came first, of those that are due."""
        status, *lines = head.split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        endless = fields.get("content-type") == "text/event-stream"
        request = await self._answered()
        answer: Answer = await (request.head() if endless else request.answer())
        if status.startswith("HTTP/1.1 101"):
            assert answer.status == 101
        assert answer.status == int(status.split()[1])
        for name, value in fields.items():
            if name not in IGNORED:
                assert answer.fields.get(name, "").lower() == value.lower(), name
        assert ("content-type" in answer.fields) == ("content-type" in fields)
        if endless:
            self.events = request
            await self._compare_events("3\r\n:\r\n\r\n")
        elif isinstance(body, bytes) and b"{connection" in body:
            assert answer.text == self._learn(body.decode(), answer.text)
        else:
            assert answer.body == body

    async def _answered(self) -> Request:
        """The last request that was answered; a poll that it woke was answered behind it."""
        await trio.testing.wait_all_tasks_blocked()
        for request in self.waiting[:0:-1]:
            if await request.is_answered():
                self.waiting.remove(request)
                return request
        return self.waiting.pop(0)

    async def _compare_events(self, expected: str) -> None:
        text = _unchunked("transfer-encoding: chunked", expected)
        assert self.events is not None
        got = ""
        while len(got) < len(text):
            event = await self.events.event()
            assert event is not None, f"the stream ended instead of {text[len(got) :]!r}"
            got += event
        assert got == text
        if expected.endswith("0\r\n\r\n"):
            assert await self.events.event() is None

    # -- WebSockets -----------------------------------------------------------

    def _target(self) -> str:
        path = "/conformance-fast" if "on this mount" in self.name or "keep-alive" in self.name else "/conformance"
        query = f"id={self.values['connectionToken']}" if "connectionToken" in self.values else ""
        if "expires" in self.name:
            return f"/conformance-auth?access_token=user:ada;exp={(time.time() + 1.5) * 1000:.0f}"
        query += "welcome=1" if "welcome" in self.name else "reject=1" if "an error on connect" in self.name else ""
        return f"{path}?{query}"

    async def _websocket(self) -> HubClient:
        if self.client is None:
            self.client = await self.host.websocket(self._target())
        return self.client

    async def _send(self, kind: str, payload: str) -> None:
        client = await self._websocket()
        if payload.startswith("40,000 bytes"):
            payload = "x" * 40_000
        data = bytes.fromhex(payload) if kind == "binary" else self._fill(payload).encode()
        await client.send(data, opcode=BINARY if kind == "binary" else TEXT)

    async def _receive(self, kind: str, payload: str, following: list[list[Any]]) -> None:
        expected = bytes.fromhex(payload) if kind == "binary" else payload.encode()
        client = await self._websocket()
        cut_before = "stateful" in self.name and expected == b'{"type":9,"sequenceId":1}\x1e'
        if cut_before:
            await client.cut()
            await trio.testing.wait_all_tasks_blocked()
            client = self.client = await self.host.websocket(self._target())
        got = b""
        while len(got) < len(expected):
            frame = await client.frame()
            assert frame is not None
            assert frame[0] != CLOSE, f"closed instead of {expected!r}"
            assert frame[0] == (BINARY if kind == "binary" else TEXT)
            got += frame[1]
            if b"{connection" in expected:
                self._learn(expected.decode(), got.decode())
                expected = self._fill(expected.decode()).encode()
        assert got == expected


def _unchunked(head: str, body: str) -> str:
    if "transfer-encoding: chunked" not in head.lower():
        return body
    whole = ""
    while body:
        size, _, rest = body.partition("\r\n")
        whole += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return whole


@pytest.mark.parametrize("name", NAMES)
async def test_the_recorded_conversation_has_the_same_answers(name: str, autojump_clock: Any) -> None:
    async with hosting() as host:
        mount_all(host)
        with trio.fail_after(60):
            await Replay(host, name).play(SCENARIOS[name])


def test_all_scenarios_of_the_transports_are_replayed() -> None:
    assert len(NAMES) > 85
