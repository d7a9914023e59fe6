"""Each example is short, listed by `routes`, and does what it says when it runs."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from websockets.sync.client import ClientConnection, connect

from engine.cli.commands import cli
from tests.interop.server_process import ROOT, ServerProcess

EXAMPLES = sorted((ROOT / "examples").glob("*.py")) + sorted((ROOT / "examples").glob("*/__init__.py"))
TARGETS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") + ":app"
    for path in EXAMPLES
    if (path.parent != ROOT / "examples" or path.name != "__init__.py") and "App(" in path.read_text()
]
HELLO = b"\x0a\x03Ada"  # HelloRequest(name="Ada")
END = "\x1e"  # ends a message of a hub

Start = Callable[..., ServerProcess]


def lines_of_code(path: Path) -> int:
    return sum(1 for line in path.read_text().splitlines() if line.strip())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_is_at_most_eighty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80


def test_the_quickstart_is_at_most_fifteen_lines_of_code() -> None:
    assert lines_of_code(ROOT / "examples" / "quickstart.py") <= 15


@pytest.mark.parametrize("target", TARGETS)
def test_an_example_is_listed(target: str) -> None:
    if "jwt" in target:
        pytest.importorskip("jwt", reason="install the package pyjwt, the extra jwt")
    result = CliRunner().invoke(cli, ["routes", target])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) > 1


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


@contextmanager
def join_hub(server: ServerProcess) -> Iterator[ClientConnection]:
    with connect(f"{server.websocket_url}/chathub", proxy=None) as client:
        client.send(json.dumps({"protocol": "json", "version": 1}) + END)
        assert client.recv(timeout=20) == "{}" + END
        yield client


def call(client: ClientConnection, target: str, *arguments: object) -> None:
    client.send(json.dumps({"type": 1, "invocationId": "1", "target": target, "arguments": arguments}) + END)


def messages(client: ClientConnection, count: int) -> list[dict[str, object]]:
    """The next messages that are no pings."""
    found: list[dict[str, object]] = []
    while len(found) < count:
        for text in str(client.recv(timeout=20)).split(END)[:-1]:
            message = json.loads(text)
            if message["type"] != 6:
                found.append(message)
    return found


def test_the_quickstart_serves_all_three(start_engine: Start) -> None:
    server = start_engine("examples.quickstart:app")
    with connect(f"{server.websocket_url}/echo", proxy=None) as client:
        client.send("hello")
        assert client.recv(timeout=20) == "hello"
    with grpc.insecure_channel(server.target) as channel:
        assert channel.unary_unary("/greet.Greeter/SayHello")(HELLO, timeout=20) == b"\x0a\x09Hello Ada"
    with join_hub(server) as client:
        call(client, "SendMessage", "Ada", "hi")
        received, completed = messages(client, 2)
        assert (received["target"], received["arguments"]) == ("ReceiveMessage", ["Ada", "hi"])
        assert completed["type"] == 3


def test_the_chat_reaches_groups_only_where_it_should(start_engine: Start) -> None:
    server = start_engine("examples.chat:app")
    with join_hub(server) as inside, join_hub(server) as outside:
        call(inside, "JoinGroup", "cats")
        joined, _ = messages(inside, 2)
        assert joined["arguments"] == ["room", "somebody joined cats"]
        call(outside, "SendToGroup", "cats", "Ada", "meow")
        assert messages(inside, 1)[0]["arguments"] == ["Ada", "meow"]
        assert messages(outside, 1)[0]["type"] == 3
        call(outside, "SendMessage", "Ada", "all")
        assert messages(inside, 1)[0]["arguments"] == ["Ada", "all"]
    assert json.loads(get(f"{server.url}/statistics")) == {"messages": 2}
