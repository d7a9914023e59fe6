"""`hub describe`, `hub call` and `hub listen`, and the schema behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal

import pytest
from click.testing import CliRunner

from engine import Hub
from engine.cli.commands import cli
from engine.signalr.hub import hub_method
from engine.signalr.schema import describe
from engine.signalr.typescript import typescript
from tests.interop.server_process import ROOT


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    """A thing."""

    name: str
    colour: Colour
    when: datetime
    data: bytes = b""
    parent: Item | None = None


class Typed(Hub):
    """All kinds of types."""

    async def put(self, item: Item, tags: list[str | None], retry_count: int = 3) -> dict[str, float]:
        """Store it.

        Not shown.
        """
        await self.clients.all.send("Stored", item, retry_count, "by", f"{tags}", len(tags))
        await self.clients.group("x").send("Stored", "something else")
        return {}

    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def total(self, numbers: AsyncIterator[int], kind: Literal["sum", "product"]) -> int:
        await self.clients.caller.invoke("Ask", kind)
        await self.clients.others.send("Many", *[1, 2])
        return 0

    @hub_method(name="delete")
    def remove(self, function: Any, odd: Unknown) -> tuple[int, str] | None: ...  # noqa: F821

    remove.__annotations__.pop("odd")


class Declared(Hub):
    class Client:
        def receive_message(self, user: str, *, _never: int = 0) -> None:
            """Somebody said something."""

        del receive_message

        def ask(self, question: str) -> bool:
            """Wants an answer."""
            return True


def test_methods_streams_and_types_are_described():
    schema = describe([("/typed", Typed)])
    (hub,) = schema["hubs"]
    assert (hub["path"], hub["name"], hub["doc"]) == ("/typed", "Typed", "All kinds of types.")
    methods = {each["name"]: each for each in hub["methods"]}
    assert list(methods) == ["Numbers", "Put", "Total", "delete"]
    put = methods["Put"]
    assert put["doc"] == "Store it."
    assert [(each["name"], each["required"]) for each in put["parameters"]] == [
        ("item", True),
        ("tags", True),
        ("retry_count", False),
    ]
    assert put["parameters"][0]["schema"] == {"$ref": "#/types/Item"}
    assert put["returns"] == {"type": "object", "additionalProperties": {"type": "number"}}
    assert (methods["Numbers"]["stream"], methods["Numbers"]["returns"]) == (True, {"type": "integer"})
    upload, kind = methods["Total"]["parameters"]
    assert (upload["stream"], upload["schema"]) == (True, {"type": "integer"})
    assert kind["schema"] == {"enum": ["product", "sum"]}
    assert schema["types"]["Item"]["required"] == ["name", "colour", "when"]
    assert json.loads(json.dumps(schema)) == schema


def test_client_calls_are_found_in_the_source():
    (hub,) = describe([("/typed", Typed)])["hubs"]
    ask, many, stored = hub["client"]
    assert (ask["name"], ask["returns"], ask["parameters"][0]["schema"]) == ("Ask", {}, {"enum": ["product", "sum"]})
    assert (many["name"], many["parameters"], many["rest"]) == ("Many", [], True)
    # Called in two ways: what they have in common is one argument of any type.
    assert (stored["name"], stored["rest"], len(stored["parameters"])) == ("Stored", True, 1)
    assert stored["parameters"][0]["schema"] == {}


def test_client_calls_that_are_declared_are_taken_as_they_are():
    (hub,) = describe([("/declared", Declared)])["hubs"]
    (ask,) = hub["client"]
    assert (ask["name"], ask["doc"], ask["returns"]) == ("Ask", "Wants an answer.", {"type": "boolean"})


def test_the_declarations_are_typed():
    text = typescript(describe([("/typed", Typed), ("/declared", Declared), ("/again", Declared)]))
    for line in (
        'import type * as signalr from "@microsoft/signalr";',
        'export type Colour = "blue" | "red";',
        "export interface Item { name: string; colour: Colour; when: string; data?: string; parent?: Item | null; }",
        '  invoke(methodName: "Put", item: Item, tags: (string | null)[], retryCount?: number): '
        "Promise<{ [key: string]: number }>;",
        '  stream(methodName: "Numbers", count: number): signalr.IStreamResult<number>;',
        '  invoke(methodName: "Total", numbers: HubUpload<number>, kind: "product" | "sum"): Promise<number>;',
        '  invoke(methodName: "delete", function_: unknown, odd: unknown): Promise<[number, string] | null>;',
        '  on(methodName: "Many", newMethod: (...more: any[]) => void): void;',
        '  on(methodName: "Ask", newMethod: (question: string) => boolean | Promise<boolean>): void;',
        "export interface Typed {",
    ):
        assert line in text.split("\n"), f"{line}\n is not in\n{text}"
    assert text.count("export interface Declared {") == 1
    assert text.count("{") == text.count("}")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["hub", *arguments], standalone_mode=False)
    code = result.return_value if isinstance(result.return_value, int) else 0
    if result.exception is not None:
        raise result.exception
    return code, result.stdout, result.stderr


def test_describe_prints_the_demo():
    code, output, _ = run("describe")
    assert code == 0
    (hub,) = json.loads(output)["hubs"]
    assert hub["client"][0]["name"] == "ReceiveMessage"
    _, output, _ = run("describe", "--typescript")
    assert 'invoke(methodName: "SendMessage", user: string, message: string): Promise<void>;' in output


@pytest.mark.parametrize("options", [[], ["--protocol", "messagepack", "--transport", "LongPolling"]])
def test_call_prints_the_result(engine_server, options):
    url = f"{engine_server.url}/chathub"
    assert run("call", url, "Echo", '{"a":[1,null]}', *options) == (0, '{"a":[1,null]}\n', "")
    assert run("call", url, "echo", "plain text", *options) == (0, '"plain text"\n', "")


def test_call_says_what_went_wrong(engine_server):
    code, output, errors = run("call", f"{engine_server.url}/chathub", "Nobody")
    assert (code, output) == (1, "")
    assert "HubException: Method does not exist." in errors
    code, _, errors = run("call", f"{engine_server.url}/nowhere", "Echo", "1")
    assert code == 1
    assert "404" in errors
    code, _, errors = run("call", "http://127.0.0.1:1/hub", "Echo", "1")
    assert (code, "cannot connect to 127.0.0.1:1" in errors) == (1, True)


def test_listen_prints_calls(engine_server):
    url = f"{engine_server.url}/chathub"
    command = [
        sys.executable,
        "-m",
        "engine",
        "hub",
        "listen",
        url,
        "receivemessage",
        "--count",
        "1",
        "--timeout",
        "30",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listener:
        assert listener.stderr is not None
        assert listener.stderr.readline() == f"listening to receivemessage at {url}\n"
        assert run("call", url, "SendMessage", "Ada", "hello")[0] == 0
        output, errors = listener.communicate(timeout=30)
    assert (listener.returncode, output, errors) == (0, '["receivemessage","Ada","hello"]\n', "")
