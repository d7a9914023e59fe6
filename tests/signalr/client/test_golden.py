"""The client understands all that ASP.NET Core says in the recorded transcripts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from engine.errors import HubError
from engine.signalr.client.event_stream import EventStreamReader
from engine.signalr.client.negotiate import _decode as decode_negotiation
from engine.signalr.client.session import ClientSession, SessionFailed, State
from engine.wire.http1_client import DataReceived, Http1ClientCore, ResponseFailed, ResponseReceived
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import HubProtocol
from engine.wire.signalr.msgpack import MsgpackHubProtocol
from tests.interop.server_process import ROOT

SCENARIOS = json.loads((ROOT / "tests" / "golden" / "signalr.json").read_text())
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MsgpackHubProtocol()}


class Listener:
    """Reads one transcript as the client would."""

    def __init__(self) -> None:
        self.session: ClientSession | None = None
        self.events: list[Any] = []

    def sent(self, data: bytes) -> None:
        """By the recorded client: its handshake tells the protocol."""
        head = data.partition(b"\x1e")[0]
        try:
            request = json.loads(head)
            protocol = PROTOCOLS[request["protocol"].lower()]
        except (ValueError, KeyError, TypeError, AttributeError):
            protocol = PROTOCOLS["json"]
            request = {}
        if self.session is None:
            stateful = 100_000 if request.get("version") == 2 else None
            self.session = ClientSession(protocol, max_message_size=10**8, buffer_size=stateful)

    def received(self, data: bytes) -> None:
        if self.session is None:  # nobody sent a handshake, and the server tells
            self.sent(b"")
        assert self.session is not None
        self.session.receive_data(data)
        while (event := self.session.next_event()) is not None:
            self.events.append(event)

    def cut(self) -> None:
        if self.session is not None and self.session.stateful:
            self.session.cut()


def response(data: bytes, *, body: bool) -> tuple[int, dict[bytes, bytes], bytes]:
    """The status, the fields and what has come of the body."""
    core = Http1ClientCore()
    core.send_request(b"POST" if body else b"HEAD", b"/", [(b"host", b"x")])
    core.receive_data(data)
    head: ResponseReceived | None = None
    content = b""
    while (event := core.next_event()) is not None:
        assert not isinstance(event, ResponseFailed), event.error
        if isinstance(event, ResponseReceived):
            head = event
        elif isinstance(event, DataReceived):
            content += event.data
    assert head is not None
    return head.status, dict(head.headers), content


def payload(step: list[Any]) -> bytes:
    return bytes.fromhex(step[2]) if step[1] == "binary" else step[2].encode()


def answer_of(recorded: str | dict[str, str]) -> bytes:
    """An HTTP response, in hex where its body is no text."""
    return recorded.encode() if isinstance(recorded, str) else bytes.fromhex(recorded["hex"])


def listen(steps: list[list[Any]]) -> Listener:
    listener, target = Listener(), ""
    for step in steps:
        match step[0]:
            case "ws>" if listener.session is None:
                listener.sent(payload(step))
            case "ws<":
                listener.received(payload(step))
            case "cut":
                listener.cut()
            case "http>":
                target = step[1]
                if target.startswith("POST") and "\r\n\r\n" in target and "id=" in target.partition("\r\n")[0]:
                    listener.sent(target.partition("\r\n\r\n")[2].encode())
            case "http<" if (answer := answer_of(step[1])).startswith(b"HTTP/1.1 101 "):
                pass  # its WebSocket follows
            case "http<" if answer.startswith(b"HTTP/1.1 "):
                status, fields, body = response(answer, body=not target.startswith("HEAD"))
                kind = fields.get(b"content-type", b"")
                if "/negotiate" in target and status == 200 and body:
                    offer = decode_negotiation(body)
                    assert offer.error is not None or offer.connectionId is not None
                elif kind == b"application/octet-stream" and body and listener.session is not None:
                    listener.received(body)
                elif kind == b"text/event-stream":
                    reader = EventStreamReader(10**8)
                    reader.receive_data(body)
                    while (event := reader.next_event()) is not None:
                        if listener.session is not None:
                            listener.received(event)
    return listener


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each["name"])
def test_nothing_is_taken_for_a_mistake(scenario):
    listener = listen(scenario["steps"])
    for event in listener.events:
        if isinstance(event, SessionFailed):
            # The one thing that fails a session is a refusal of the handshake.
            assert isinstance(event.error, HubError), event.error
            assert str(event.error).startswith("Server returned handshake error: ")
            assert event is listener.events[-1]


def test_the_transcripts_hold_every_kind_of_message():
    kinds = Counter(type(event).__name__ for each in SCENARIOS for event in listen(each["steps"]).events)
    assert kinds["Completion"] > 100
    assert kinds["Close"] > 30
    assert kinds["StreamItem"] > 10
    assert kinds["Invocation"] > 10
    assert kinds["SessionFailed"] > 5
    assert {"Ping", "HandshakeDone"} <= set(kinds)
    resumed = [listen(each["steps"]).session for each in SCENARIOS if "cut" in {step[0] for step in each["steps"]}]
    assert State.OPEN in {each.state for each in resumed if each is not None and each.stateful}
