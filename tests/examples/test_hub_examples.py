"""The examples of hubs do what they say, over real sockets."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.examples.test_examples import END, HELLO, Start, get, messages
from tests.interop.server_process import ServerProcess


@contextmanager
def join(server: ServerProcess, path: str, user: str | None = None) -> Iterator[ClientConnection]:
    headers = {} if user is None else {"x-user": user}
    with connect(f"{server.websocket_url}{path}", proxy=None, additional_headers=headers) as client:
        send(client, protocol="json", version=1)
        assert client.recv(timeout=20) == "{}" + END
        yield client


def send(client: ClientConnection, **message: object) -> None:
    client.send(json.dumps(message) + END)


def call(client: ClientConnection, target: str, *arguments: object) -> dict[str, Any]:
    send(client, type=1, invocationId="1", target=target, arguments=arguments)
    return messages(client, 1)[0]


def test_the_typed_hub_refuses_what_does_not_fit(start_engine: Start) -> None:
    server = start_engine("examples.typed_hub:app")
    with join(server, "/orders") as client, join(server, "/orders", "boss") as boss:
        receipt = call(client, "Place", {"item": "tea", "amount": 2})["result"]
        assert (receipt["number"], receipt["order"]) == (1, {"item": "tea", "amount": 2, "wanted": None})
        assert messages(boss, 1)[0]["arguments"] == [receipt]
        for wrong in ({"item": "tea", "amount": 0}, {"item": "tea"}, "tea"):
            assert call(client, "Place", wrong)["error"] == "Failed to invoke 'Place' due to an error on the server."
        assert call(client, "Place", {"item": "moon", "amount": 1})["error"].endswith("we are out of moons")
        assert call(client, "Clear")["error"] == "Failed to invoke 'Clear' because user is unauthorized"
        assert call(client, "Count")["result"] == 1
        assert call(boss, "Clear")["result"] is None
        assert call(client, "Count")["result"] == 0


def test_the_streams_go_both_ways(start_engine: Start) -> None:
    server = start_engine("examples.hub_streaming:app")
    with join(server, "/streams") as client:
        send(client, type=4, invocationId="1", target="Countdown", arguments=[2, 0])
        assert [each.get("item") for each in messages(client, 3)] == [2, 1, None]
        send(client, type=1, invocationId="2", target="Average", arguments=[], streamIds=["s"])
        for number in (1, 2.5, 4):
            send(client, type=2, invocationId="s", item=number)
        send(client, type=3, invocationId="s")
        assert messages(client, 1)[0]["result"] == 2.5
        send(client, type=4, invocationId="3", target="RunningTotal", arguments=[], streamIds=["t"])
        for number, total in ((1, 1), (2, 3)):
            send(client, type=2, invocationId="t", item=number)
            assert messages(client, 1)[0]["item"] == total
        send(client, type=3, invocationId="t")
        assert messages(client, 1)[0] == {"type": 3, "invocationId": "3"}


def test_presence_tells_who_comes_and_goes(start_engine: Start) -> None:
    server = start_engine("examples.presence:app")
    with join(server, "/rooms", "ada") as ada:
        assert call(ada, "Enter", "tea")["result"] == ["ada"]
        send(ada, type=4, invocationId="9", target="Watch", arguments=["tea"])
        assert call(ada, "Nope")["error"]  # the stream watches by now
        with join(server, "/rooms", "bob") as bob:
            assert call(bob, "Enter", "tea")["result"] == ["ada", "bob"]
            assert messages(ada, 1)[0]["item"] == ["joined", "bob"]
            assert json.loads(get(f"{server.url}/rooms/tea/users")) == ["ada", "bob"]
        assert messages(ada, 1)[0]["item"] == ["left", "bob"]


def test_the_hub_from_aspnetcore_serves_its_clients_as_before(start_engine: Start) -> None:
    server = start_engine("examples.migrating_from_aspnetcore:app")
    message = {"senderName": "Ada", "text": "hello"}
    with join(server, "/chathub?access_token=ada") as client, ThreadPoolExecutor() as threads:
        send(client, type=1, target="SendMessage", arguments=[message])
        assert messages(client, 1)[0] == {"type": 1, "target": "ReceiveMessage", "arguments": [message]}
        refused = call(client, "SendMessage", {**message, "text": ""})["error"]
        assert refused.endswith("HubException: say something")
        assert call(client, "Whoami")["result"] == "ADA"
        send(client, type=4, invocationId="2", target="Counter", arguments=[2, 0])
        assert [each.get("item") for each in messages(client, 3)] == [0, 1, None]
        send(client, type=1, invocationId="3", target="Upload", arguments=[], streamIds=["s"])
        send(client, type=2, invocationId="s", item="line")
        send(client, type=3, invocationId="s")
        assert messages(client, 1)[0]["result"] == 1
        send(client, type=1, invocationId="4", target="Confirm", arguments=["sure?"])
        asked = messages(client, 1)[0]
        assert (asked["target"], asked["arguments"]) == ("Confirm", ["sure?"])
        send(client, type=3, invocationId=asked["invocationId"], result=True)
        assert messages(client, 1)[0]["result"] is True
        with join(server, "/chathub") as stranger:
            assert call(stranger, "Whoami")["error"] == "Failed to invoke 'Whoami' because user is unauthorized"
        assert messages(client, 1)[0]["target"] == "Left"
        request = urllib.request.Request(f"{server.url}/announce", data=b"news", method="POST")
        announced = threads.submit(urllib.request.urlopen, request, timeout=20)
        assert messages(client, 1)[0]["arguments"] == [{"senderName": "server", "text": "news"}]
        announced.result(20).close()


def test_a_grpc_call_and_a_request_reach_hub_clients(start_engine: Start) -> None:
    server = start_engine("examples.grpc_to_hub:app")
    with join(server, "/news") as client, ThreadPoolExecutor() as threads:
        own_id = call(client, "MyId")["result"]
        with grpc.insecure_channel(server.target) as channel:
            assert channel.unary_unary("/greet.Greeter/SayHello")(HELLO, timeout=20) == b"\x0a\x09Hello Ada"
        assert messages(client, 1)[0]["arguments"] == ["Ada"]
        asking = threads.submit(ask, server, own_id)
        asked = messages(client, 1)[0]
        assert asked["target"] == "HowAreYou"
        send(client, type=3, invocationId=asked["invocationId"], result="fine")
        assert asking.result(20) == "fine"
        with pytest.raises(urllib.error.HTTPError, match="502"):
            ask(server, "nobody")


def ask(server: ServerProcess, connection_id: str) -> Any:
    request = urllib.request.Request(f"{server.url}/ask/{connection_id}", method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())
