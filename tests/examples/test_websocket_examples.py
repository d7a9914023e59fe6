"""The WebSocket examples do what they say, with `websockets` as their client."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.examples.raw_websocket import RawWebSocket
from tests.interop.server_process import ServerProcess

Start = Callable[..., ServerProcess]


def test_the_echo_streams_a_message_before_it_is_complete(start_engine: Start) -> None:
    server = start_engine("examples.websocket_echo:app")
    with connect(f"{server.websocket_url}/stream", proxy=None, max_size=None) as client:
        for message in ("short", "x" * 3_000_000, b"y" * 3_000_000):
            client.send(message)
            assert client.recv(timeout=20) == message
    with RawWebSocket(server.port, "/stream") as raw:
        raw.send(0x01, b"begin")
        assert raw.receive() in ((0x01, b"begin"), (0x81, b"begin"))


def members(client: ClientConnection) -> str:
    return str(client.recv(timeout=20))


def test_a_chat_room_hears_its_members_only(start_engine: Start) -> None:
    server = start_engine("examples.websocket_chat:app")
    rooms = f"{server.websocket_url}/rooms"
    with connect(f"{rooms}/cats", proxy=None) as one, connect(f"{rooms}/dogs", proxy=None) as dog:
        assert members(one) == "1 in cats"
        assert members(dog) == "1 in dogs"
        with connect(f"{rooms}/cats", proxy=None) as two:
            assert members(one) == members(two) == "2 in cats"
            two.send("meow" * 200)
            assert members(one) == members(two) == "meow" * 200
        assert members(one) == "1 in cats"
        dog.send("woof")
        assert members(dog) == "woof"


def test_a_private_socket_asks_who_is_there(start_engine: Start) -> None:
    server = start_engine("examples.websocket_login:app")
    url = f"{server.websocket_url}/private"
    headers = {"authorization": "Bearer ada:lovelace"}
    with connect(url, proxy=None, additional_headers=headers, origin=server.url) as client:
        assert client.response is not None
        assert client.response.headers["x-user"] == "ada"
        assert client.recv(timeout=20) == "hello ada"
        client.send("hi")
        assert client.recv(timeout=20) == "ada: hi"
    for wrong, status in (
        ({"additional_headers": {"authorization": "Bearer ada:x"}}, 401),
        ({}, 401),
        ({"additional_headers": headers, "origin": "https://evil.example"}, 403),
        ({"additional_headers": {"authorization": "Bearer x:"}}, 401),
    ):
        with pytest.raises(InvalidStatus) as refused, connect(url, proxy=None, **wrong):
            pass
        assert refused.value.response.status_code == status


def test_frames_with_an_opcode_of_their_own_are_summed(start_engine: Start) -> None:
    server = start_engine("examples.websocket_frames:app")
    with RawWebSocket(server.port, "/sums") as raw:
        raw.send(0x83, struct.pack("!II", 40, 2))
        assert raw.receive() == (0x84, struct.pack("!I", 42))
        raw.send(0x83, struct.pack("!II", 2**32 - 1, 2))
        assert raw.receive() == (0xC4, struct.pack("!I", 1))
        raw.send(0x81, b"text")
        assert raw.receive() == (0x88, b"\x03\xebsend sums")


def test_a_feed_as_callbacks_sends_what_was_asked_for(start_engine: Start) -> None:
    server = start_engine("examples.websocket_callbacks:app")
    with (
        connect(f"{server.websocket_url}/ticks", proxy=None) as client,
        connect(f"{server.websocket_url}/ticks", proxy=None) as two,
    ):
        client.send("nothing")
        assert client.recv(timeout=20) == "error say one of AAAA, BBBB, or stop"
        client.send("BBBB")
        two.send("AAAA")
        for _ in range(3):
            assert str(client.recv(timeout=20)).startswith("BBBB ")
            assert str(two.recv(timeout=20)).startswith("AAAA ")
        client.send("stop")
        two.close()
        pong = client.ping()
        assert pong.wait(20)
