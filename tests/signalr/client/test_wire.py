"""What the client puts on the wire, and what it makes of servers that do strange things."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from engine import HubConnection
from engine.errors import ConnectionClosed, HandshakeRejected, HubError, RemoteProtocolError
from engine.signalr.client.connection import HubConnectionState
from engine.wire.signalr.negotiate import TransportKind
from tests.signalr.client.client_peer import OFFER, URL, RawPeer, Script, offer, open_hub, scripted, silent


def answering(status: int, body: str = "", **fields: str) -> Script:
    async def script(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(status, body, **fields)

    return script


async def test_the_bytes_are_those_of_the_official_client():
    seen: list[Any] = []

    async def serve(peer: RawPeer) -> None:
        seen.append(await peer.offer(token="a+b"))

    async def websocket(peer: RawPeer) -> None:
        seen.append(await peer.accept_websocket())
        seen.append(await peer.handshake())
        seen.append(await peer.frame())
        await peer.send('{"type":3,"invocationId":"0","result":[]}\x1e')
        seen.append(await peer.frame())
        seen.append(await peer.frame())
        seen.append(await peer.frame())
        await peer.send(b"\x03\xe8", opcode=8)
        seen.append(await peer.frame())

    async with (
        scripted(serve, websocket) as dial,
        HubConnection(f"{URL}?a=b", dial=dial, headers={"X-Mine": "1"}, access_token="S") as hub,
    ):
        assert hub.connection_id == "I"
        assert await hub.invoke("Echo", 1, "x") == []
        await hub.send("Tell", None)
    negotiation, upgrade, handshake, invoke, send, close, goodbye = seen
    assert negotiation["target"] == "/hub/negotiate?a=b&negotiateVersion=1"
    assert negotiation["host"] == "hub.test"
    assert negotiation["authorization"] == "Bearer S"
    assert negotiation["x-mine"] == "1"
    assert negotiation["x-requested-with"] == "XMLHttpRequest"
    assert negotiation["content-length"] == "0"
    assert upgrade["target"] == "/hub?a=b&id=a%2Bb"
    assert upgrade["authorization"] == "Bearer S"
    assert handshake == {"protocol": "json", "version": 1}
    assert invoke == (1, b'{"type":1,"invocationId":"0","target":"Echo","arguments":[1,"x"]}\x1e')
    assert send == (1, b'{"type":1,"target":"Tell","arguments":[null]}\x1e')
    assert close == (1, b'{"type":7}\x1e')
    assert goodbye == (8, b"\x03\xe8")


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ('{"error":"no hub today"}', HubError, "no hub today"),
        ('{"ProtocolVersion":"1.5"}', RemoteProtocolError, "ASP.NET SignalR Server"),
        ("<html>", RemoteProtocolError, "check the path"),
        ('{"negotiateVersion":"x"}', RemoteProtocolError, "check the path"),
        ('{"connectionId":"I","useStatefulReconnect":true}', RemoteProtocolError, "Stateful Reconnect"),
        ('{"connectionId":"I","availableTransports":[]}', ConnectionClosed, "None of the transports"),
        (
            '{"connectionId":"I","availableTransports":[{"transport":"Pigeons","transferFormats":["Text"]}]}',
            ConnectionClosed,
            "Skipping transport 'Pigeons'",
        ),
        (
            '{"connectionId":"I","availableTransports":[{"transport":"WebSockets","transferFormats":["Binary"]}]}',
            ConnectionClosed,
            "does not support Text",
        ),
    ],
)
async def test_a_negotiation_that_fails_says_why(body, error, text):
    async with scripted(answering(200, body)) as dial:
        hub = HubConnection(URL, dial=dial)
        with pytest.raises(error, match=text):
            await hub.__aenter__()
        assert hub.state is HubConnectionState.DISCONNECTED


async def test_a_refused_negotiation_shows_its_status_and_body():
    async with scripted(answering(404, "nothing here")) as dial:
        with pytest.raises(HandshakeRejected) as caught:
            await HubConnection(URL, dial=dial).__aenter__()
    assert (caught.value.status, caught.value.body) == (404, b"nothing here")


async def test_nobody_there_is_a_closed_connection():
    async with scripted() as dial:
        with pytest.raises(ConnectionClosed, match="refused"):
            await HubConnection(URL, dial=dial).__aenter__()


async def test_a_server_that_never_answers_is_given_up(autojump_clock):
    async with scripted(silent) as dial:
        with pytest.raises(ConnectionClosed, match="within 100 s"):
            await HubConnection(URL, dial=dial).__aenter__()


async def test_redirections_are_followed_with_their_token(autojump_clock):
    seen: list[dict[str, str]] = []

    async def first(peer: RawPeer) -> None:
        _, target, fields, _ = await peer.request()
        seen.append(fields | {"target": target})
        await peer.answer(200, json.dumps({"url": "http://other.test/h?x=1", "accessToken": "theirs"}))

    async def second(peer: RawPeer) -> None:
        seen.append(await peer.offer())

    async def third(peer: RawPeer) -> None:
        seen.append(await peer.accept_websocket())
        await peer.handshake()
        await trio.sleep_forever()

    async with scripted(first, second, third) as dial, HubConnection(URL, dial=dial, access_token=lambda: "mine"):
        pass
    assert [each["authorization"] for each in seen] == ["Bearer mine", "Bearer theirs", "Bearer theirs"]
    assert [each["host"] for each in seen] == ["hub.test", "other.test", "other.test"]
    assert [each["target"] for each in seen[1:]] == ["/h/negotiate?x=1&negotiateVersion=1", "/h?x=1&id=T"]


async def test_a_hundred_redirections_are_too_many():
    asked = 0

    async def serve(peer: RawPeer) -> None:
        nonlocal asked
        while True:
            await peer.request()
            asked += 1
            await peer.answer(200, json.dumps({"url": URL}))

    async with scripted(serve) as dial:
        with pytest.raises(RemoteProtocolError, match="redirection limit exceeded"):
            await HubConnection(URL, dial=dial).__aenter__()
    assert asked == 100


async def test_http_redirections_keep_the_token_at_home():
    seen: list[dict[str, str]] = []

    async def first(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(307, location="http://other.test/hub/negotiate")

    async def second(peer: RawPeer) -> None:
        _, _, fields, _ = await peer.request()
        seen.append(fields)
        await peer.answer(200, '{"error":"enough"}')

    async with scripted(first, second) as dial:
        with pytest.raises(HubError, match="enough"):
            await HubConnection(URL, dial=dial, access_token="S", headers={"X-Key": "K"}).__aenter__()
    assert "authorization" not in seen[0]
    assert "x-key" not in seen[0]


async def test_a_token_is_made_anew_after_a_401(autojump_clock):
    tokens = iter(["old", "new"])
    seen: list[str] = []

    async def make() -> str:
        await trio.lowlevel.checkpoint()
        return next(tokens)

    async def serve(peer: RawPeer) -> None:
        _, _, fields, _ = await peer.request()
        seen.append(fields["authorization"])
        await peer.answer(401, set_cookie="lb=7; Path=/")
        fields = await peer.offer()
        seen.extend((fields["authorization"], fields["cookie"]))

    async with scripted(serve, open_hub) as dial, HubConnection(URL, dial=dial, access_token=make):
        pass
    assert seen == ["Bearer old", "Bearer new", "lb=7"]


async def test_a_second_401_is_final():
    async def serve(peer: RawPeer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.answer(401, "who are you?")

    async with scripted(serve) as dial:
        with pytest.raises(HandshakeRejected, match="401"):
            await HubConnection(URL, dial=dial, access_token=lambda: "S").__aenter__()


async def test_each_transport_that_fails_gives_way_to_the_next():
    asked: list[str] = []

    async def serve(peer: RawPeer) -> None:
        """Everything but WebSockets and events, over any connection."""
        while True:
            method, target, fields, body = await peer.request()
            what = (
                "websocket" if "upgrade" in fields else "events" if "event-stream" in fields.get("accept", "") else ""
            )
            asked.append(f"{method} {what or target.partition('&_=')[0]}{body.decode().strip(chr(30))}")
            if "/negotiate" in target:
                offers = [{"transport": each, "transferFormats": ["Text", "Binary"]} for each in OFFER]
                token = str(sum("negotiate" in each for each in asked))
                answer = {"negotiateVersion": 1, "connectionId": "I", "connectionToken": token}
                await peer.answer(200, json.dumps(answer | {"availableTransports": offers}))
            elif what:
                await peer.answer(503 if what == "websocket" else 200, "no events")
            elif method == "GET" and sum("GET /hub?id=3" in each for each in asked) == 2:
                await peer.answer(200, "{}\x1e")
            elif method == "GET" and sum("GET /hub?id=3" in each for each in asked) > 2:
                await trio.sleep_forever()
            else:
                await peer.answer(200)

    async with scripted(*[serve] * 8) as dial, HubConnection(URL, dial=dial) as hub:
        assert hub.transport is TransportKind.LONG_POLLING
        await trio.testing.wait_all_tasks_blocked()
    negotiation = "POST /hub/negotiate?negotiateVersion=1"
    assert asked == [
        negotiation,
        "GET websocket",
        negotiation,
        "GET events",
        negotiation,
        "GET /hub?id=3",
        'POST /hub?id=3{"protocol":"json","version":1}',
        "GET /hub?id=3",
        "GET /hub?id=3",
        'POST /hub?id=3{"type":7}',
        "DELETE /hub?id=3",
    ]


async def test_when_no_transport_works_the_error_tells_of_each():
    async def serve(peer: RawPeer) -> None:
        while True:
            _, target, _, _ = await peer.request()
            offers = [{"transport": each, "transferFormats": ["Text", "Binary"]} for each in OFFER]
            answer = {"negotiateVersion": 1, "connectionToken": "T", "availableTransports": offers}
            await peer.answer(200 if "/negotiate" in target else 503, json.dumps(answer))

    async with scripted(*[serve] * 8) as dial:
        with pytest.raises(ConnectionClosed) as caught:
            await HubConnection(URL, dial=dial).__aenter__()
    text = str(caught.value)
    assert "Unable to connect to the server with any of the available transports" in text
    assert all(f"{name} failed: the server answered the handshake with 503" in text for name in OFFER)


async def test_skipping_the_negotiation_opens_a_websocket_at_once():
    async def serve(peer: RawPeer) -> None:
        fields = await peer.accept_websocket()
        assert fields["target"] == "/hub"
        await peer.handshake()
        await peer.frame()

    async with (
        scripted(serve) as dial,
        HubConnection(URL, dial=dial, skip_negotiation=True, transports=["WebSockets"]) as hub,
    ):
        assert hub.connection_id is None


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            '{"error":"The protocol \'json\' is not supported."}\x1e',
            HubError,
            "Server returned handshake error: The pro",
        ),
        ('{"type":1,"target":"x","arguments":[]}\x1e', RemoteProtocolError, "Expected a handshake response"),
        ("nonsense\x1e", RemoteProtocolError, "is this a hub"),
        ("x" * 20000, RemoteProtocolError, "has no end"),
    ],
)
async def test_a_handshake_that_fails_says_why(answer, error, text):
    async def serve(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await peer.messages()
        await peer.send(answer)

    async with scripted(offer, serve) as dial:
        with pytest.raises(error, match=text):
            await HubConnection(URL, dial=dial).__aenter__()


async def test_a_handshake_without_an_answer_is_given_up(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await peer.accept_websocket()
        await trio.sleep_forever()

    began = trio.current_time()
    async with scripted(offer, serve) as dial:
        with pytest.raises(ConnectionClosed, match="did not answer the handshake within 7 s"):
            await HubConnection(URL, dial=dial, handshake_timeout=7).__aenter__()
    assert trio.current_time() - began == pytest.approx(7)


async def test_pings_are_sent_when_nothing_else_is_and_silence_ends_the_connection(autojump_clock):
    pings: list[float] = []

    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.messages()  # the invocation
        began = trio.current_time()
        while (await peer.frame())[0] == 1:
            pings.append(trio.current_time() - began)

    closed: list[Exception | None] = []
    async with scripted(offer, serve) as dial:
        async with HubConnection(URL, dial=dial, keep_alive_interval=4, server_timeout=10) as hub:
            hub.on_closed(closed.append)
            with pytest.raises(ConnectionClosed, match="Server timeout elapsed without receiving a message"):
                await hub.invoke("Never")
            await hub.wait_state(HubConnectionState.DISCONNECTED)
            assert "Server timeout" in str(hub.close_error)
        assert "Server timeout" in str(closed[0])
    assert pings == pytest.approx([4, 8])


@pytest.mark.parametrize(
    ("goodbye", "text"),
    [
        ('{"type":7,"error":"Connection closed with an error."}\x1e', "Server returned an error on close: Connection"),
        ('{"type":7}\x1e', None),
        ("nonsense\x1e", "malformed hub message"),
        ('{"type":6}', None),
    ],
)
async def test_what_the_server_says_last_is_why_it_closed(goodbye, text):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()
        await peer.send(goodbye)
        await peer.send(b"\x03\xe8", opcode=8)

    closed: list[Exception | None] = []
    async with scripted(offer, serve) as dial:
        async with HubConnection(URL, dial=dial) as hub:
            hub.on_closed(closed.append)
            with pytest.raises((ConnectionClosed, RemoteProtocolError), match=text or "underlying connection"):
                await hub.invoke("Never")
        assert (None if text is None else text in str(closed[0])) == (None if text is None else True)
        assert len(closed) == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b"\x81\x80abcd"],  # masked
        [b"\xc1\x00"],  # a reserved bit
        [b"\x80\x00"],  # a continuation of nothing
        [b"\x83\x00"],  # an opcode that is none
        [b"\x09\x00"],  # a ping in fragments
        [b"\x81\x01\xff"],  # no UTF-8
    ],
)
async def test_frames_that_no_server_may_send_end_the_connection(frames):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        for frame in frames:
            await peer.stream.send_all(frame)
        await trio.sleep_forever()

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial) as hub:
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert isinstance(hub.close_error, ConnectionClosed)
        assert hub.close_error.code in (1002, 1007)


async def test_frame_boundaries_mean_nothing_and_pings_are_answered():
    pongs: list[tuple[int, bytes]] = []

    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()
        await peer.send(b"hi", opcode=9)
        pongs.append(await peer.frame())
        message = b'{"type":3,"invocationId":"0","result":1}\x1e{"type":6}\x1e'
        for index in range(len(message)):
            first = (1 if index == 0 else 0) | (0x80 if index == len(message) - 1 else 0)
            await peer.stream.send_all(bytes((first, 1, message[index])))
        await peer.frame()

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial) as hub:
        assert await hub.invoke("X") == 1
    assert pongs == [(10, b"hi")]


async def test_a_message_beyond_the_limit_names_the_argument_to_raise(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.send("x" * 90)
        await peer.send("x" * 90)
        await trio.sleep_forever()

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial, max_message_size=100) as hub:
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert "raise max_message_size of the HubConnection" in str(hub.close_error)


async def test_a_message_that_was_leaving_when_the_connection_ended_is_an_error():
    async def serve(peer: RawPeer) -> None:
        """The POST of a message is never answered; the poll beside it brings a Close."""
        polls = 0
        while True:
            method, target, _, body = await peer.request()
            if "/negotiate" in target:
                offers = [{"transport": "LongPolling", "transferFormats": ["Text"]}]
                answer = {"negotiateVersion": 1, "connectionToken": "T", "availableTransports": offers}
                await peer.answer(200, json.dumps(answer))
            elif method == "GET":
                polls += 1
                if polls > 2:
                    await posted.wait()
                await peer.answer(200, ["", "{}\x1e", '{"type":7}\x1e'][polls - 1])
            elif b"Never" in body:
                posted.set()
                await trio.sleep_forever()
            else:
                await peer.answer(200)

    posted = trio.Event()
    async with scripted(*[serve] * 8) as dial, HubConnection(URL, dial=dial) as hub:
        with trio.fail_after(3):
            with pytest.raises(ConnectionClosed, match="underlying connection"):
                await hub.send("Never")


async def test_a_close_is_found_behind_other_messages(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()  # our Close
        await peer.stream.send_all(b'\x81\x0b{"type":6}\x1e\x81\x0b{"type":7}\x1e\x88\x02\x03\xe8')
        await trio.sleep_forever()

    began = trio.current_time()
    async with scripted(offer, serve) as dial:
        hub = HubConnection(URL, dial=dial)
        await hub.__aenter__()
        await hub.__aexit__(None, None, None)
        assert trio.current_time() - began < 0.5
