"""Plays recorded conversations with ASP.NET Core 10 against a host and compares the answers."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec
import trio
import trio.testing

from engine.wire.signalr.msgpack import MsgpackHubProtocol
from tests.signalr.hub_peer import BINARY, TEXT, HubClient, HubHost

PING = '{"type":6}'
_SERVER_ID = re.compile(r"s\d+")
_NOT_OWED = ("date", "server", "transfer-encoding", "content-length", "connection")
# The recorder did not write down that it cut the connection and opened it again behind the handshake.
_SILENT_CUT = ("a Sequence too far ahead", "a call before Sequence")
# Played, and compared but for the named difference.
OTHER_DETAIL = {
    "handshake: malformed, with detailed errors": "the detail names Python's error, not .NET's",
    "json, detailed errors: a result that cannot be encoded": "the detail names Python's error, not .NET's",
    "messagepack, detailed errors: a result that cannot be encoded": "the detail names Python's error, not .NET's",
}
OTHER_WIDTH = {
    "messagepack: numbers": ".NET writes small integers in untyped lists in two bytes; clients cannot tell",
    "messagepack: a call back": "the same",
}
_DETAIL = re.compile(r" \w+(?:Exception|Error): [^\"]*")


def mount_of(name: str) -> str:
    if "on this mount" in name or "keep-alive" in name:
        return "/conformance-fast"
    if "authentication expires" in name:
        return "/conformance-auth"
    return "/conformance-detailed" if "detailed" in name else "/conformance"


class PlainRequest:
    """A request on a connection of its own, and what has come back."""

    def __init__(self, stream: trio.StapledStream, *, head_only: bool) -> None:
        self.stream = stream
        self._head_only = head_only
        self.data = b""
        self.ended = False
        self.taken = 0  # characters of an event stream
        self.news = trio.Event()

    async def read(self) -> None:
        while not self.ended:
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self.ended = not data
            self.data += data
            self.news.set()

    @property
    def is_complete(self) -> bool:
        head, separator, body = self.data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
        if not separator or self._head_only or lines[0].split()[1:2] in ([b"204"], [b"101"]):
            return bool(separator)
        return len(body) >= lengths[0] if lengths else body.endswith(b"0\r\n\r\n") or self.is_event_stream

    @property
    def is_event_stream(self) -> bool:
        head, separator, body = self.data.lower().partition(b"\r\n\r\n")
        return bool(separator) and b"text/event-stream" in head and bool(body)

    @property
    def text(self) -> str:
        return self.data.decode("latin-1")


class Replay:
    """One scenario against a host."""

    def __init__(self, host: HubHost, name: str, nursery: trio.Nursery) -> None:
        self.host = host
        self.name = name
        self.values: dict[str, str] = {}  # of the placeholders
        self.client: HubClient | None = None
        self.requests: list[PlainRequest] = []  # that were not answered in full
        self._nursery = nursery
        self._binary = b""
        self._records: list[Any] = []  # that have come and were not expected yet

    async def play(self, steps: list[list[Any]]) -> None:
        for index, (kind, *values) in enumerate(steps):
            match kind:
                case "http>":
                    await self._request(self._fill(values[0]))
                case "http<" if isinstance(values[0], dict):  # a binary body
                    wanted = bytes.fromhex(values[0]["hex"]).decode("latin-1")
                    self._compare_response((await self._answered()).text, wanted)
                case "http<" if values[0].startswith("HTTP/"):
                    self._compare_response((await self._answered()).text, values[0])
                case "http<":
                    await self._compare_events(values[0])
                case "ws>":
                    await self._send(*values)
                case "ws<":
                    await self._receive(values[0], values[1], previous=steps[index - 1])
                case "ws close":
                    await self._closed(values[0])
                case "nothing":
                    await trio.testing.wait_all_tasks_blocked()
                    assert self.client is None or await self.client.is_quiet()
                case "cut":
                    await (await self._websocket()).cut()
                    await trio.testing.wait_all_tasks_blocked()
                case "ws opened again, same id, no handshake":
                    self.client = None
                case _:
                    raise AssertionError(kind)

    # -- plain requests -------------------------------------------------------

    async def _request(self, text: str) -> None:
        await trio.testing.wait_all_tasks_blocked()
        if text.endswith(PING + "\x1e") and "what else is refused" in self.name:
            await self._cut_event_stream()
        stream = await self.host.open_stream()
        request = PlainRequest(stream, head_only=text.startswith("HEAD"))
        self._nursery.start_soon(request.read)
        self.requests.append(request)
        await stream.send_all(_request_bytes(text))

    async def _cut_event_stream(self) -> None:
        """The recorder did not write down that it did so before the last request."""
        (request,) = (each for each in self.requests if each.taken)
        await request.stream.aclose()
        await trio.sleep(1)

    async def _answered(self) -> PlainRequest:
        """The newest request that has its answer; waits for one."""
        while True:
            for request in reversed(self.requests):
                if request.is_complete and not request.taken:
                    if request.is_event_stream:
                        request.taken = 3
                    else:
                        self.requests.remove(request)
                    return request
            await self._news()

    async def _news(self) -> None:
        """Something more came for one of the requests."""
        assert any(not each.ended for each in self.requests), "nothing more can come"
        async with trio.open_nursery() as nursery:
            for request in self.requests:
                request.news = trio.Event()

                async def wait(event: trio.Event = request.news) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait)

    async def _compare_events(self, recorded: str) -> None:
        wanted = _without_chunks(recorded)
        (request,) = (each for each in self.requests if each.taken)
        while True:
            came = _without_chunks(request.text.partition("\r\n\r\n")[2])
            if len(came) >= request.taken + len(wanted) or request.ended:
                break
            await self._news()
        assert came[request.taken : request.taken + len(wanted)] == wanted
        request.taken += len(wanted)
        if recorded.endswith("0\r\n\r\n"):
            await trio.testing.wait_all_tasks_blocked()
            assert request.text.endswith("\r\n0\r\n\r\n")

    def _compare_response(self, response: str, expected: str) -> None:
        status, fields, body = _parse_response(response)
        wanted_status, wanted_fields, wanted_body = _parse_response(expected)
        assert status == wanted_status
        if "text/event-stream" in fields.get("content-type", ""):
            assert body.startswith(wanted_body)
        else:
            assert body == self._learn(wanted_body, body)
        for name, value in wanted_fields.items():
            if name == "sec-websocket-accept":
                assert fields[name]
            elif name not in _NOT_OWED:
                assert fields.get(name, "").lower() == value.lower(), name
        assert ("content-type" in fields) == ("content-type" in wanted_fields)

    # -- WebSockets -----------------------------------------------------------

    async def _websocket(self) -> HubClient:
        if self.client is None:
            await trio.testing.wait_all_tasks_blocked()
            query = {"welcome": "welcome=1", "an error on connect": "reject=1"}
            parts = [value for key, value in query.items() if key in self.name]
            if "connectionToken" in self.values:
                parts.append(f"id={self.values['connectionToken']}")
            if "authentication expires" in self.name:
                parts.append(f"access_token=user:a%3Bexp={int((time.time() + 1.5) * 1000)}")
            self.client = await self.host.websocket(f"{mount_of(self.name)}?{'&'.join(parts)}")
        return self.client

    async def _send(self, opcode: str, payload: str) -> None:
        client = await self._websocket()
        if client.close_code is not None:
            return  # recorded only to show that nothing answers any more
        if payload.startswith("40,000 bytes"):
            payload = "x" * 40_000
        elif payload.startswith("Echo of 40,000") and opcode == "text":
            payload = '{"type":1,"invocationId":"7","target":"Echo","arguments":["%s"]}\x1e' % ("x" * 40_000)
        elif payload.startswith("Echo of 40,000"):
            payload = MsgpackHubProtocol().invocation("Echo", ["x" * 40_000], "7").hex()
        if opcode == "binary":
            data = bytes.fromhex(payload)
            await client.send(self._binary_server_ids(data), opcode=BINARY)
        else:
            await client.send(self._server_ids(payload), opcode=TEXT)

    async def _receive(self, opcode: str, payload: str, *, previous: list[Any]) -> None:
        binary = opcode == "binary"
        expected = split_messages(bytes.fromhex(payload)) if binary else payload.split("\x1e")[:-1]
        for each in expected:
            await self._expect(each, opcode)
        if any(part in self.name for part in _SILENT_CUT) and payload == "{}\x1e":
            await (await self._websocket()).cut()
            self.client = None

    async def _expect(self, wanted: Any, opcode: str) -> None:
        record = await self._record(opcode)
        while _is_ping(record) and not _is_ping(wanted):  # how many there are depends on the time of day
            record = await self._record(opcode)
        if _is_ping(wanted) and not _is_ping(record):
            self._records.insert(0, record)
            return
        if isinstance(wanted, str):
            assert isinstance(record, str), record
            sent = json.loads(record)
            self._note_server_call(sent.get("invocationId"))
            wanted = self._server_ids(self._learn(wanted, record))
            if self.name in OTHER_DETAIL:
                record, wanted = _without_detail(record), _without_detail(wanted)
            assert _canonical(record) == _canonical(wanted)
            return
        sent, expected = decode_message(record), decode_message(wanted)
        if len(sent) > 2 and sent[0] == 1:
            self._note_server_call(sent[2])
        ours = self.values.get("server call")
        if ours and len(expected) > 2 and _is_server_id(expected[2]):
            expected[2] = ours
            wanted = msgspec.msgpack.encode(expected)
        if "welcome" in self.name and expected[0] == 1:
            expected[4] = sent[4]
            assert len(sent[4][0]) == 22
            wanted = msgspec.msgpack.encode(expected)
        if self.name in OTHER_DETAIL and expected[0] == 7:
            sent[1], expected[1] = _without_detail(sent[1]), _without_detail(expected[1])
            assert sent == expected
        elif self.name in OTHER_WIDTH:
            assert sent == expected
        else:
            assert record == wanted

    async def _record(self, opcode: str) -> Any:
        if self._records:
            return self._records.pop(0)
        client = await self._websocket()
        frame = await client.frame()
        while frame is not None and frame[0] not in (TEXT, BINARY):
            assert frame[0] != 8, "the connection closed"
            frame = await client.frame()
        assert frame is not None, "the connection closed"
        assert frame[0] == (BINARY if opcode == "binary" else TEXT)
        if opcode == "binary":
            self._records += split_messages(frame[1])
        else:
            self._records += frame[1].decode().split("\x1e")[:-1]
        return self._records.pop(0)

    async def _closed(self, code: int) -> None:
        client = await self._websocket()
        while client.close_code is None:
            assert not self._records or all(map(_is_ping, self._records)), self._records
            frame = await client.frame()
            assert frame is not None
            assert frame[0] == 8, frame
        assert client.close_code == code

    # -- placeholders ---------------------------------------------------------

    def _note_server_call(self, invocation_id: Any) -> None:
        if _is_server_id(invocation_id) and "client result" in self.name:
            self.values["server call"] = invocation_id

    def _server_ids(self, text: str) -> str:
        """Ids of server calls are ours to choose."""
        ours = self.values.get("server call")
        return re.sub(r'"invocationId":"s\d+"', f'"invocationId":"{ours}"', text) if ours else text

    def _binary_server_ids(self, data: bytes) -> bytes:
        ours = self.values.get("server call")
        if not ours:
            return data
        (message,) = split_messages(data)
        items = decode_message(message)
        if not _is_server_id(items[2]):
            return data
        encoded = msgspec.msgpack.encode([items[0], items[1], ours, *items[3:]])
        return bytes((len(encoded),)) + encoded

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


def split_messages(data: bytes) -> list[bytes]:
    """MessagePack messages by their lengths; the handshake's answer is one as well."""
    messages = []
    if data.startswith(b"{"):
        answer, _, data = data.partition(b"\x1e")
        messages.append(answer)
    while data:
        size = shift = index = 0
        while True:
            size |= (data[index] & 0x7F) << shift
            index, shift = index + 1, shift + 7
            if data[index - 1] < 0x80:
                break
        messages.append(data[index : index + size])
        data = data[index + size :]
    return messages


def decode_message(message: bytes) -> Any:
    return [message.decode()] if message.startswith(b"{") else msgspec.msgpack.decode(message)


def _request_bytes(text: str) -> bytes:
    match = re.fullmatch(r"(\S+ \S+) \(Content-Length (\d+)\), body hex ([0-9a-f]+)", text)
    if match is None:
        return text.encode()
    line, length, body = match.groups()
    return f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode() + bytes.fromhex(body)


def _without_detail(text: str) -> str:
    return _DETAIL.sub(" DETAIL", text)


def _is_ping(record: Any) -> bool:
    return record in (PING, b"\x91\x06")


def _is_server_id(value: Any) -> bool:
    return isinstance(value, str) and _SERVER_ID.fullmatch(value) is not None


def _canonical(record: str) -> str:
    """The same text for the same JSON string, raw or escaped; everything else stays as it is."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda match: json.dumps(json.loads(match[0])), record)


def _parse_response(text: str) -> tuple[str, dict[str, str], str]:
    head, _, body = text.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if fields.get("transfer-encoding") == "chunked":
        body = _without_chunks(body)
    return status, fields, body


def _without_chunks(data: str) -> str:
    body = ""
    while data:
        size, _, rest = data.partition("\r\n")
        body += rest[: int(size, 16)]
        data = rest[int(size, 16) + 2 :]
    return body
