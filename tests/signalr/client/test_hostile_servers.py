"""Servers, proxies and users' functions that misbehave: the errors are typed, and the user's block goes on."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
import trio.testing

from engine import HubConnection
from engine.errors import ConnectionClosed, HandshakeRejected, HubError, LocalProtocolError, RemoteProtocolError
from engine.signalr.client.carriers import OPEN_TIMEOUT
from engine.signalr.client.connection import HubConnectionState
from engine.signalr.client.retry import RetryContext, after_delays
from engine.wire.signalr.negotiate import TransportKind
from tests.signalr.client.client_peer import OFFER, URL, RawPeer, Script, offer, open_hub, scripted, silent


async def offer_all(peer: RawPeer) -> None:
    await peer.offer(*OFFER)


async def vanish(peer: RawPeer) -> None:
    """Takes the request, and hangs up in the middle of the answer."""
    await peer.request()
    await peer.stream.send_all(b"HTTP/1.1 10")


def refusing(status: int) -> Script:
    async def script(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(status, "no")

    return script


async def events(peer: RawPeer) -> None:
    """The server's half of an event stream, until the client leaves."""
    _, _, fields, _ = await peer.request()
    assert fields["accept"] == "text/event-stream"
    await peer.stream.send_all(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n:\r\n\r\n")
    await peer.stream.send_all(b"data: {}\x1e\r\n\r\n")
    await silent(peer)


async def posts(peer: RawPeer) -> None:
    while True:
        await peer.request()
        await peer.answer(200)


@pytest.mark.parametrize(
    "no_websockets",
    [refusing(403), refusing(401), refusing(200), vanish, silent],
    ids=["forbidden", "unauthorised", "ok", "cut", "silent"],
)
async def test_whatever_a_proxy_does_to_websockets_events_come_next(no_websockets, autojump_clock):
    began = trio.current_time()
    async with (
        scripted(offer_all, no_websockets, offer_all, events, posts) as dial,
        HubConnection(URL, dial=dial) as hub,
    ):
        assert hub.transport is TransportKind.SERVER_SENT_EVENTS
        assert trio.current_time() - began <= OPEN_TIMEOUT


async def test_who_may_not_in_over_any_transport_is_told_so():
    async def serve(peer: RawPeer) -> None:
        while True:
            _, target, _, _ = await peer.request()
            offers = [{"transport": each, "transferFormats": ["Text"]} for each in OFFER]
            answer = {"negotiateVersion": 1, "connectionToken": "T", "availableTransports": offers}
            await peer.answer(200 if "/negotiate" in target else 403, json.dumps(answer))

    async with scripted(*[serve] * 8) as dial:
        with pytest.raises(HandshakeRejected) as caught:
            await HubConnection(URL, dial=dial).__aenter__()
    assert caught.value.status == 403


@pytest.mark.parametrize("target", ["ftp://other.test/", "https://", "http://host:port/", "http://a b/", "//[/"])
async def test_a_redirection_to_nowhere_is_the_servers_mistake(target):
    async def elsewhere(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(200, json.dumps({"url": target}))

    async def moved(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(307, location=target)

    for script in (elsewhere, moved):
        async with scripted(script) as dial:
            with pytest.raises(RemoteProtocolError, match="redirects to"):
                await HubConnection(URL, dial=dial).__aenter__()


@pytest.mark.parametrize("token", ["a b", "\u04e5", "a\r\nX: 1"])
async def test_a_redirection_with_a_token_that_cannot_be_sent_is_the_servers_mistake(token):
    async def elsewhere(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(200, json.dumps({"url": URL, "accessToken": token}))

    async with scripted(elsewhere) as dial:
        with pytest.raises(RemoteProtocolError, match="no header field can hold"):
            await HubConnection(URL, dial=dial).__aenter__()


@pytest.mark.parametrize("options", [{"access_token": "\u04e5"}, {"headers": {"X-Mine": "\u04e5"}}])
async def test_a_field_that_cannot_be_sent_is_the_users_mistake(options):
    async with scripted(silent) as dial:
        with pytest.raises(LocalProtocolError, match="Latin-1"):
            await HubConnection(URL, dial=dial, **options).__aenter__()


async def test_a_poll_that_leads_nowhere_ends_the_connection_and_not_the_block():
    async def serve(peer: RawPeer) -> None:
        polls = 0
        while True:
            method, target, _, _ = await peer.request()
            if "/negotiate" in target:
                offers = [{"transport": "LongPolling", "transferFormats": ["Text"]}]
                answer = {"negotiateVersion": 1, "connectionToken": "T", "availableTransports": offers}
                await peer.answer(200, json.dumps(answer))
            elif method == "GET":
                polls += 1
                if polls < 3:
                    await peer.answer(200, ["", "{}\x1e"][polls - 1])
                else:
                    await peer.answer(302, location="ftp://other.test/")
            else:
                await peer.answer(200)

    async with scripted(*[serve] * 8) as dial, HubConnection(URL, dial=dial) as hub:
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert isinstance(hub.close_error, ConnectionClosed)
        assert "redirects to" in hub.close_error.reason


async def test_many_hub_messages_in_one_websocket_message_are_not_one_large_message(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()
        await peer.send('{"type":6}\x1e' * 1000 + '{"type":3,"invocationId":"0","result":1}\x1e')
        await silent(peer)

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial, max_message_size=100) as hub:
        assert await hub.invoke("X") == 1


async def test_a_message_without_an_end_is_given_up_at_the_limit(autojump_clock):
    sent = 0

    async def serve(peer: RawPeer) -> None:
        nonlocal sent
        await open_hub(peer)
        await peer.stream.send_all(b"\x81\x7f" + (2**40).to_bytes(8))  # a frame of 1 TiB
        while True:
            await peer.stream.send_all(b"x" * 10_000)
            sent += 10_000

    async with (
        scripted(offer, serve, lockstep=True) as dial,
        HubConnection(URL, dial=dial, max_message_size=50_000) as hub,
    ):
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert "raise max_message_size of the HubConnection" in str(hub.close_error)
        assert sent <= 70_000


async def test_answers_to_nothing_are_ignored(autojump_clock):
    noise = (
        {"type": 3, "invocationId": "7", "result": 1},
        {"type": 2, "invocationId": "7", "item": 1},
        {"type": 2, "invocationId": "0", "item": "no stream was asked for"},
        {"type": 5, "invocationId": "0"},
        {"type": 8, "sequenceId": 5},
        {"type": 9, "sequenceId": 5},
        {"type": 10, "what": "ever"},
        {"type": 99},
        {"type": 3, "invocationId": "0", "result": "first"},
        {"type": 3, "invocationId": "0", "result": "second"},
        {"type": 3, "invocationId": "0", "error": "third"},
    )

    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()
        await peer.send("".join(json.dumps(each) + "\x1e" for each in noise))
        assert (await peer.messages())[0]["invocationId"] == "1"
        await peer.send('{"type":3,"invocationId":"1","result":"after"}\x1e')
        await silent(peer)

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial) as hub:
        assert await hub.invoke("X") == "first"
        assert await hub.invoke("Y") == "after"


async def leaves(peer: RawPeer) -> None:
    await open_hub(peer)
    await peer.frame()


async def test_a_policy_that_fails_gives_up(autojump_clock, caplog):
    caplog.set_level(logging.CRITICAL, "engine")

    def policy(context: RetryContext) -> float | None:
        raise KeyError("mine")

    async with scripted(offer, leaves) as dial, HubConnection(URL, dial=dial, reconnect_policy=policy) as hub:
        await hub.send("Bye")
        await hub.wait_state(HubConnectionState.DISCONNECTED)


async def test_a_token_that_cannot_be_made_is_an_attempt_that_failed(autojump_clock):
    asked = 0

    def make() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError("the token server is down")
        return f"token {asked}"

    reasons: list[Exception | None] = []

    def policy(context: RetryContext) -> float | None:
        reasons.append(context.reason)
        return after_delays([0, 1])(context)

    options: dict[str, Any] = {"access_token": make, "reconnect_policy": policy}
    async with scripted(offer, leaves, offer, leaves) as dial, HubConnection(URL, dial=dial, **options) as hub:
        await hub.send("Bye")
        await hub.wait_state(HubConnectionState.RECONNECTING)
        await hub.wait_state(HubConnectionState.CONNECTED)
    assert asked == 3
    assert "access_token failed: OSError: the token server is down" in str(reasons[1])


async def test_the_first_failure_to_make_a_token_has_the_users_error_as_its_cause():
    def make() -> str:
        raise KeyError("mine")

    with pytest.raises(ConnectionClosed, match="access_token failed") as caught:
        await HubConnection(URL, access_token=make).__aenter__()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_new_socket_of_the_same_connection_has_a_new_token(autojump_clock):
    seen: list[str] = []
    tokens = iter("abc")

    async def begin(peer: RawPeer) -> None:
        seen.append((await peer.offer(useStatefulReconnect=True))["authorization"])

    async def cut(peer: RawPeer) -> None:
        seen.append((await peer.accept_websocket())["authorization"])
        await peer.handshake()

    async def resumed(peer: RawPeer) -> None:
        seen.append((await peer.accept_websocket())["authorization"])
        await peer.frame()
        held.set()
        await silent(peer)

    held = trio.Event()
    options: dict[str, Any] = {"access_token": lambda: next(tokens), "stateful_reconnect": True}
    async with scripted(begin, cut, resumed) as dial, HubConnection(URL, dial=dial, **options):
        await held.wait()
    assert seen == ["Bearer a", "Bearer a", "Bearer b"]


async def test_cookies_are_few_and_secure_ones_stay_off_plain_connections():
    seen: list[str] = []

    async def serve(peer: RawPeer) -> None:
        while True:
            _, _, fields, _ = await peer.request()
            seen.append(fields.get("cookie", ""))
            number = len(seen)
            lines = "".join(f"Set-Cookie: c{number}x{each}=1\r\n" for each in range(40))
            lines += f"Set-Cookie: lb={number}\r\nSet-Cookie: s=1; Secure\r\n"
            body = json.dumps({"url": URL} if number < 5 else {"error": "enough"})
            head = f"HTTP/1.1 200 X\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
            await peer.stream.send_all((head + body).encode())

    async with scripted(serve) as dial:
        with pytest.raises(HubError, match="enough"):
            await HubConnection(URL, dial=dial).__aenter__()
    assert all(len(each.split("; ")) <= 50 for each in seen)
    assert [each.split("; ")[-1] for each in seen[1:]] == ["lb=1", "lb=2", "lb=3", "lb=4"]


async def test_after_a_redirection_every_transport_is_tried_there_with_its_token(autojump_clock):
    seen: list[tuple[str, str]] = []

    def noting(script: Script) -> Script:
        async def noted(peer: RawPeer) -> None:
            request = peer.request

            async def note() -> tuple[str, str, dict[str, str], bytes]:
                method, target, fields, body = await request()
                seen.append((fields["host"], fields.get("authorization", "")))
                return method, target, fields, body

            peer.request = note  # type: ignore[method-assign]
            await script(peer)

        return noted

    async def elsewhere(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(200, json.dumps({"url": "http://other.test/hub", "accessToken": "theirs"}))

    scripts = [elsewhere, offer_all, refusing(503), offer_all, events, posts]
    async with (
        scripted(*map(noting, scripts)) as dial,
        HubConnection(URL, dial=dial, access_token=lambda: "mine") as hub,
    ):
        assert hub.transport is TransportKind.SERVER_SENT_EVENTS
    assert seen[0] == ("hub.test", "Bearer mine")
    assert set(seen[1:]) == {("other.test", "Bearer theirs")}


async def test_what_a_first_poll_brings_is_not_lost(autojump_clock):
    """ASP.NET Core answers it empty; another server might not."""

    async def serve(peer: RawPeer) -> None:
        polls = 0
        while True:
            method, target, _, _ = await peer.request()
            if "/negotiate" in target:
                offers = [{"transport": "LongPolling", "transferFormats": ["Text"]}]
                answer = {"negotiateVersion": 1, "connectionToken": "T", "availableTransports": offers}
                await peer.answer(200, json.dumps(answer))
            elif method == "GET":
                polls += 1
                await peer.answer(200, "{}\x1e") if polls == 1 else await trio.sleep_forever()
            else:
                await peer.answer(200)

    async with scripted(*[serve] * 8) as dial, HubConnection(URL, dial=dial) as hub:
        assert hub.transport is TransportKind.LONG_POLLING
