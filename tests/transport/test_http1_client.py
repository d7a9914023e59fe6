"""The small HTTP client: which connections it keeps, and what it repeats."""

from __future__ import annotations

import pytest
import trio

from engine.errors import ConfigError, ConnectionClosed, RemoteProtocolError
from engine.transport.http1_client import Http1Client, Origin, split_url
from tests.signalr.client.client_peer import RawPeer, scripted

URL = "http://host.test/path?q=1"


async def answer_once(peer: RawPeer) -> None:
    await peer.request()
    await peer.answer(200, "one")


async def answer_twice(peer: RawPeer) -> None:
    await answer_once(peer)
    await peer.request()
    await peer.answer(200, "two")


def test_a_url_is_an_origin_and_a_target():
    assert split_url(URL) == (Origin("http", "host.test", 80), "/path?q=1")
    assert split_url("wss://[::1]:444") == (Origin("https", "::1", 444), "/")
    assert split_url("https://[::1]/")[0].authority == "[::1]"
    assert split_url("http://h:8000/")[0].authority == "h:8000"
    assert split_url("http://b\u00fccher.test/")[0].host == "xn--bcher-kva.test"
    assert split_url("http://h/a b/\u00fc%20?q=\u20ac&r=[1]")[1] == "/a%20b/%C3%BC%20?q=%E2%82%AC&r=[1]"
    for wrong in ("host/path", "ftp://host/", "http://", "http://user:secret@host/", "http://host:port/"):
        with pytest.raises(ConfigError, match="http://host:port/path"):
            split_url(wrong)


async def test_a_connection_is_used_again():
    async with scripted(answer_twice) as dial:
        client = Http1Client(dial=dial)
        assert (await client.request("GET", URL)).body == b"one"
        assert (await client.request("POST", URL, body=b"x")).body == b"two"
        await client.drop_idle()


async def test_an_old_connection_is_not(autojump_clock):
    async with scripted(answer_twice, answer_once) as dial:
        client = Http1Client(dial=dial)
        await client.request("GET", URL)
        await trio.sleep(5)
        assert (await client.request("GET", URL)).body == b"one"
        await client.drop_idle()


async def test_only_a_request_that_may_be_repeated_is_sent_again_over_a_new_connection():
    async with scripted(answer_once, answer_once, answer_once) as dial:
        client = Http1Client(dial=dial)
        await client.request("GET", URL)  # its connection is closed behind it
        assert (await client.request("GET", URL)).body == b"one"
        with pytest.raises((ConnectionClosed, RemoteProtocolError)):
            await client.request("POST", URL, body=b"x")
        assert (await client.request("POST", URL, body=b"x")).body == b"one"
        await client.drop_idle()


async def test_a_cancelled_request_does_not_leave_its_answer_to_the_next(autojump_clock):
    async def slow(peer: RawPeer) -> None:
        await peer.request()
        await trio.sleep(10)
        await peer.answer(200, "late")

    async with scripted(slow, answer_once) as dial:
        client = Http1Client(dial=dial)
        with trio.move_on_after(1) as scope:
            await client.request("GET", URL)
        assert scope.cancelled_caught
        assert (await client.request("GET", URL)).body == b"one"
        await client.drop_idle()


async def test_a_body_that_was_not_read_costs_the_connection():
    async with scripted(answer_once, answer_once) as dial:
        client = Http1Client(dial=dial)
        async with client.stream("GET", URL) as response:
            assert response.status == 200
        assert (await client.request("GET", URL)).body == b"one"
        await client.drop_idle()


async def test_an_answer_beyond_the_limit_is_refused():
    async def large(peer: RawPeer) -> None:
        await peer.request()
        await peer.answer(200, b"x" * 1000)

    async with scripted(large) as dial, Http1Client(dial=dial).stream("GET", URL) as response:
        with pytest.raises(RemoteProtocolError, match="larger than 999 bytes"):
            await response.read(999)
