"""Replays recorded conversations of ASP.NET Core 10 and wants the same answers, byte for byte.

Scenarios are taken by the beginnings of their names, as far as their transports, protocols and
methods exist. Not compared, as the recording's notes say: `Date`, `Server`, the order of header
fields, chunks or Content-Length, how messages are cut into frames, ids of server calls, escapes or
raw characters in JSON strings, and which fields an answer has beyond those of the recording.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from engine.config import Config
from engine.wire.signalr import json as json_protocol
from tests.signalr.contract_hub import ContractHub
from tests.signalr.hub_peer import BINARY, CLOSE, TEXT, HubClient, HubHost, hosting

SCENARIOS = {
    each["name"]: each["steps"]
    for each in json.loads((Path(__file__).parents[1] / "golden" / "signalr.json").read_text())
}

COVERED = (
    "negotiate ", "an unknown path", "GET ", "POST ", "DELETE ", "PUT ", "PATCH ", "OPTIONS ", "HEAD ",
    "the public id is no token", "WebSocket upgrade", "handshake: ", "json: ", "json, detailed errors: ",
    "json malformed or odd: ",
)  # fmt: skip

LATER = {
    "authorisation": ("negotiate without credentials", "WebSocket upgrade without credentials", "not authorised"),
    "stateful reconnect": ("useStatefulReconnect=true", "UseStatefulReconnect=True", "stateful reconnect"),
    "uploads": ("an upload missing", "an upload stream", "an upload item", "streams both ways"),
    "MessagePack": ("handshake: messagepack",),
    "other transports": ("negotiate without WebSockets", "POST to a WebSocket connection"),
}

# Where we differ on purpose, and why.
DIFFERENT = {
    "handshake: malformed, with detailed errors": "the detail names Python's error, not .NET's",
    "json, detailed errors: a result that cannot be encoded": "the detail names Python's error, not .NET's",
    "an unknown path": "the app's own 404 has a body",
}

# Transports that negotiate cannot list yet.
_NOT_YET = (
    ',{"transport":"ServerSentEvents","transferFormats":["Text"]}'
    ',{"transport":"LongPolling","transferFormats":["Text","Binary"]}'
)


def _applies(name: str) -> bool:
    later = any(part in name for parts in LATER.values() for part in parts)
    return name.startswith(COVERED) and not later and name not in DIFFERENT


def _mount_all(host: HubHost) -> None:
    fast = {"keep_alive_interval": 1, "client_timeout": 2, "handshake_timeout": 2, "disconnect_timeout": 3}
    host.mount(ContractHub, "/conformance")
    host.mount(ContractHub, "/conformance-fast", **fast)
    host.mount(ContractHub, "/conformance-detailed", detailed_errors=True)
    host.mount(ContractHub, "/conformance-nows", transports=("ServerSentEvents", "LongPolling"))


def _mount_of(name: str) -> str:
    if "on this mount" in name or "keep-alive" in name:
        return "/conformance-fast"
    return "/conformance-detailed" if "detailed" in name else "/conformance"


def _target_of(name: str) -> str:
    query = {"welcome": "?welcome=1", "an error on connect": "?reject=1"}
    return _mount_of(name) + next((value for key, value in query.items() if key in name), "")


class Replay:
    """One scenario against a host."""

    def __init__(self, host: HubHost, name: str) -> None:
        self.host = host
        self.name = name
        self.values: dict[str, str] = {}  # of the placeholders
        self.client: HubClient | None = None
        self.response = ""

    async def play(self, steps: list[list[Any]]) -> None:
        index = 0
        while index < len(steps):
            kind = steps[index][0]
            if kind == "http>":
                self.response = await self.host.request(self._fill(steps[index][1]))
            elif kind == "http<":
                self._compare_response(steps[index][1])
            elif kind == "ws>":
                await self._send(*steps[index][1:])
            elif kind == "ws<":
                expected = ""
                while index < len(steps) and steps[index][0] == "ws<":
                    expected += steps[index][2]
                    assert steps[index][1] == "text"
                    index += 1
                await self._receive(expected)
                continue
            elif kind == "ws close":
                client = await self._websocket()
                assert await client.record() is None
                assert client.close_code == steps[index][1]
            elif kind in ("nothing", "closed"):
                assert kind == "nothing"
                assert await (await self._websocket()).is_quiet()
            else:
                raise AssertionError(kind)
            index += 1

    async def _websocket(self) -> HubClient:
        if self.client is None:
            self.client = await self.host.websocket(_target_of(self.name))
        return self.client

    async def _send(self, opcode: str, payload: str) -> None:
        client = await self._websocket()
        if payload.startswith("40,000 bytes"):
            payload = "x" * 40_000
        elif payload.startswith("Echo of 40,000"):
            payload = '{"type":1,"invocationId":"7","target":"Echo","arguments":["%s"]}\x1e' % ("x" * 40_000)
        if opcode == "binary":
            await client.send(bytes.fromhex(payload), opcode=BINARY)
        else:
            await client.send(self._server_ids(payload), opcode=TEXT)

    async def _receive(self, expected: str) -> None:
        client = await self._websocket()
        for wanted in expected.split("\x1e")[:-1]:
            record = await client.record()
            assert record is not None, f"the connection closed instead of {wanted}"
            sent = json.loads(record)
            if sent.get("invocationId", "").startswith("s"):
                self.values["server call"] = sent["invocationId"]
            wanted = self._server_ids(self._learn(wanted, record))
            assert _canonical(record) == _canonical(wanted)
        assert {opcode for opcode, _ in client.frames} <= {TEXT}

    def _server_ids(self, text: str) -> str:
        """Ids of server calls are ours to choose."""
        ours = self.values.get("server call")
        return re.sub(r'"invocationId":"s\d+"', f'"invocationId":"{ours}"', text) if ours else text

    def _fill(self, text: str) -> str:
        for key, value in self.values.items():
            text = text.replace(f"{{{key}}}", value)
        return text

    def _learn(self, expected: str, actual: str) -> str:
        """Placeholders in what is expected take their values from what came."""
        expected = self._fill(expected)
        pattern = re.sub(r"\\\{(connection\w+)\\\}", r"(?P<\1>[A-Za-z0-9_-]{22})", re.escape(expected))
        match = re.fullmatch(pattern, actual)
        if match is not None:
            self.values.update(match.groupdict())
        return self._fill(expected)

    def _compare_response(self, expected: str) -> None:
        status, fields, body = _parse_response(self.response)
        wanted_status, wanted_fields, wanted_body = _parse_response(expected)
        assert status == wanted_status
        assert body == self._learn(wanted_body.replace(_NOT_YET, ""), body)
        for name, value in wanted_fields.items():
            if name == "sec-websocket-accept":
                assert fields[name]
            elif name not in ("date", "server", "transfer-encoding", "content-length"):
                assert fields.get(name, "").lower() == value.lower(), name
        assert ("content-type" in fields) == ("content-type" in wanted_fields)


def _canonical(record: str) -> str:
    """The same text for the same JSON string, raw or escaped; everything else stays as it is."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda match: json.dumps(json.loads(match[0])), record)


def _parse_response(text: str) -> tuple[str, dict[str, str], str]:
    head, _, body = text.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if fields.get("transfer-encoding") == "chunked":
        chunks = body
        body = ""
        while chunks:
            size, _, rest = chunks.partition("\r\n")
            body += rest[: int(size, 16)]
            chunks = rest[int(size, 16) + 2 :]
    return status, fields, body


@pytest.mark.parametrize("name", [name for name in SCENARIOS if _applies(name)])
async def test_the_recorded_conversation_has_the_same_answers(name: str, autojump_clock: Any) -> None:
    async with hosting(config=Config()) as host:
        _mount_all(host)
        with trio.fail_after(60):
            await Replay(host, name).play(SCENARIOS[name])


def test_most_scenarios_of_what_exists_are_replayed() -> None:
    assert sum(_applies(name) for name in SCENARIOS) > 140
    assert CLOSE == 8
    assert json_protocol.JsonHubProtocol.name == "json"
