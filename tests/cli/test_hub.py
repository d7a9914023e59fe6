"""`hub describe`, `hub call` and `hub listen`, and the schema behind them."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal

import pytest
from click.testing import CliRunner

from engine import Hub
from engine.cli import run as main
from engine.cli.commands import cli
from engine.signalr.hub import hub_method
from engine.signalr.schema import describe
from engine.signalr.typescript import typescript
from tests.interop.server_process import ROOT, ServerProcess


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """`hub call` quietens a logger for the rest of its process, which here is that of all tests."""
    logger = logging.getLogger("engine.signalr.client.handlers")
    before = logger.level
    yield
    logger.setLevel(before)


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


class SideBySide(Hub):
    async def join(self, a: AsyncIterator[int], b: AsyncIterator[int]) -> int:
        """Both."""
        return 0

    async def apart(self, a: AsyncIterator[int], text: str, b: AsyncIterator[int]) -> int: ...


def test_the_declarations_warn_of_what_the_official_client_cannot_do():
    lines = typescript(describe([("/side", SideBySide)])).split("\n")
    assert "  /** Both. (@microsoft/signalr up to 10 cannot send two streams side by side.) */" in lines
    assert sum("side by side" in line for line in lines) == 1


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


@pytest.fixture(scope="module")
def conformance() -> Iterator[str]:
    server = ServerProcess("examples.conformance:app")
    yield f"{server.url}/conformance"
    server.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "output", "error"),
    [
        (["Add", "-1", "-2"], 0, "-3\n", ""),
        (["Echo", "-1.5", "--timeout", "9"], 0, "-1.5\n", ""),
        (["Echo", "--", "--x"], 0, '"--x"\n', ""),
        (["EchoThree", "null", '"1"', "{]"], 0, '[null,"1","{]"]\n', ""),
        (["DoNothing"], 0, "null\n", ""),
        (["StreamCounter", "3", "0"], 0, "0\n1\n2\n", ""),
        (["StreamCounter", "3", "0", "--stream"], 0, "0\n1\n2\n", ""),
        (["StreamThrow", "1", "boo"], 1, "0\n", "while streaming results. HubException: boo"),
        (["Add", "1", "x"], 1, "", "Failed to invoke 'Add' due to an error on the server."),
        (["Nobody"], 1, "", "HubException: Method does not exist."),
        (["AdminOnly"], 1, "", "Failed to invoke 'AdminOnly' because user is unauthorized"),
        (["AdminOnly", "--token", "user:ada;role=admin"], 0, '"secret"\n', ""),
        (["GetUserId", "-H", "Authorization: Bearer user:bob"], 0, '"bob"\n', ""),
        (["GetTransport", "--transport", "LongPolling", "--protocol", "messagepack"], 0, '"LongPolling"\n', ""),
        (["Abort"], 1, "", "the underlying connection being closed"),
        (["Delay", "60000", "--timeout", "0.3"], 1, "", "no answer within 0.3 s"),
        (["Echo", "-x"], 2, "", "No such option '-x'"),
        (["Echo", "1", "-H", "broken"], 2, "", "write --header NAME:VALUE"),
        (["Echo", "1", "--transport", "Pigeon"], 2, "", "is not one of 'WebSockets'"),
        (["Echo", "1", "--timeout", "-1"], 2, "", "Invalid value for '--timeout'"),
        (["Echo", "1", "--tls-ca", "/nowhere.pem"], 2, "", "client_tls.ca_file"),
        (
            ["Echo", "1", "--transport", "ServerSentEvents", "--protocol", "messagepack"],
            1,
            "",
            "does not support Binary",
        ),
    ],
)
def test_each_outcome_has_its_exit_code(conformance, capsys, arguments, code, output, error):
    assert main(["hub", "call", conformance, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == output
    assert error in captured.err
    assert captured.err.count("\n") == (1 if error else 0)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["call", "notaurl", "Echo"], 2, "write http://host:port/path"),
        (["call", "http://127.0.0.1:1/hub", "Echo"], 1, "cannot connect to 127.0.0.1:1: Connection refused"),
        (["call", "http://x/hub", "Echo", "--unix", "/nowhere.sock"], 1, "cannot connect to /nowhere.sock"),
        (["call"], 2, "Missing argument 'URL'"),
        (["listen", "http://127.0.0.1:1/hub"], 2, "Missing argument 'NAME...'"),
        (["listen", "http://127.0.0.1:1/hub", "X"], 1, "Connection refused"),
        (["describe", "nowhere:app"], 3, "there is no module nowhere"),
        (["describe", "examples.conformance:nobody"], 3, "has no 'nobody'"),
    ],
)
def test_each_mistake_has_its_exit_code(capsys, arguments, code, error):
    assert main(["hub", *arguments]) == code
    assert error in capsys.readouterr().err


def test_who_is_not_let_in_is_told_what_to_check(conformance, capsys):
    assert main(["hub", "call", f"{conformance}-auth", "Echo", "1"]) == 1
    assert "answered the negotiation with 401; check access_token" in capsys.readouterr().err
    assert main(["hub", "call", f"{conformance}-auth", "Echo", "1", "--token", "user:ada"]) == 0


def test_a_server_with_a_certificate_of_its_own_can_be_called(engine_tls_server, capsys):
    url = f"{engine_tls_server.tls_url}/chathub"
    assert main(["hub", "call", url, "Echo", "1"]) == 1
    assert "the certificate is not trusted" in capsys.readouterr().err
    assert main(["hub", "call", url, "Echo", "1", "--tls-no-verify"]) == 0


def wait_for_counter(url: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(200):
        assert main(["hub", "call", url, "GetCounter", name]) == 0
        if capsys.readouterr().out == "1\n":
            return
    raise AssertionError(f"{name} was never counted")


@pytest.mark.parametrize("arguments", [["call", "StreamForever", "ctrl-c", "1"], ["listen", "X"]])
def test_ctrl_c_cancels_and_says_nothing(conformance, arguments, capsys):
    command, *rest = arguments
    line = [sys.executable, "-m", "engine", "hub", command, conformance, *rest]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if command == "listen":
            assert process.stderr.readline().startswith("listening to")
        else:
            assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "")
    if command == "call":
        wait_for_counter(conformance, "cancelled:ctrl-c", capsys)


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
