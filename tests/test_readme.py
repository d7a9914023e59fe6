"""What the README shows works: its commands exist, its code runs and answers real clients."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from websockets.asyncio.client import connect

from tests.interop.server_process import ROOT, ServerProcess

README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
HELLO = b"\x0a\x03Ada"  # HelloRequest(name="Ada")


@pytest.fixture(params=range(len(PYTHON_BLOCKS)), ids=lambda number: f"block{number + 1}")
def server(request: pytest.FixtureRequest, tmp_path: Path, start_engine: Callable[..., ServerProcess]) -> ServerProcess:
    (tmp_path / "quickstart.py").write_text(PYTHON_BLOCKS[request.param])
    return start_engine("quickstart:app", cwd=tmp_path)


def test_the_quickstart_is_fifteen_lines_and_an_example_of_its_own() -> None:
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    (quickstart,) = PYTHON_BLOCKS
    assert len(lines(quickstart)) == 15
    assert lines(quickstart) == lines((ROOT / "examples" / "quickstart.py").read_text())


def test_the_quickstart_echoes_over_websocket(server: ServerProcess) -> None:
    async def talk() -> None:
        async with asyncio.timeout(30), connect(f"{server.websocket_url}/echo", proxy=None) as client:
            await client.send("hello")
            assert await client.recv() == "hello"

    asyncio.run(talk())


def test_the_quickstart_answers_grpc(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        say_hello = channel.unary_unary("/greet.Greeter/SayHello")
        assert say_hello(HELLO, timeout=30) == b"\x0a\x09Hello Ada"


def test_the_quickstart_carries_a_chat(server: ServerProcess) -> None:
    async def talk() -> None:
        async with asyncio.timeout(30), connect(f"{server.websocket_url}/chathub", proxy=None) as client:
            await client.send('{"protocol":"json","version":1}\x1e')
            assert await client.recv() == "{}\x1e"
            await client.send('{"type":1,"target":"SendMessage","arguments":["Ada","hi"]}\x1e')
            assert "ReceiveMessage" in str(await client.recv())

    asyncio.run(talk())


def test_the_commands_name_scripts_that_exist() -> None:
    scripts = set(re.findall(r"\bbash (\.ci/\w+)", README))
    assert scripts >= {".ci/serve", ".ci/test"}
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_the_commands_name_modules_that_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert modules >= {"engine", "fuzz", "tests.benchmarks.compare", "tests.benchmarks.websocket"}
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_the_files_it_names_exist() -> None:
    for path in re.findall(r"`((?:engine|tests|fuzz|examples)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
