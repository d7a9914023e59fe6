"""`engine call`: what it prints, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.interop.server_process import ROOT, ServerProcess

pytest.importorskip("grpc_tools", reason="grpcio-tools is missing; install the extra codegen")


def engine_call(server: ServerProcess, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "engine", "call", server.target, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin, check=False, timeout=50)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


PROTO = ("--proto", "protos/greet.proto")


def test_a_unary_method_is_called_by_its_proto_file(engine_server: ServerProcess) -> None:
    assert engine_call(engine_server, "greet.Greeter/SayHello", '{"name": "Ada"}', *PROTO) == (
        0,
        '{"message": "Hello Ada"}\n',
        "",
    )


def test_streams_take_and_give_several_values(engine_server: ServerProcess) -> None:
    two = '{"name": "Ada"}\n{"name": "Bob"}'
    assert engine_call(engine_server, "greet.Greeter.Chat", "-", *PROTO, stdin=two)[:2] == (
        0,
        '{"message": "Hello Ada"}\n{"message": "Hello Bob"}\n',
    )
    assert engine_call(engine_server, "greet.Greeter/CollectNames", two, *PROTO)[1] == (
        '{"message": "Hello Ada and Bob"}\n'
    )
    one = '{"name": "Ada", "count": 2}'
    assert engine_call(engine_server, "greet.Greeter/StreamHellos", one, *PROTO)[1].count("Hello Ada") == 2


def test_a_conversation_goes_on_line_by_line(engine_server: ServerProcess) -> None:
    command = [sys.executable, "-m", "engine", "call", engine_server.target, "greet.Greeter/Chat", "-", *PROTO]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in ("Ada", "Bob"):
            process.stdin.write(f'{{"name":\n "{name}"}}\n')
            process.stdin.flush()
            assert process.stdout.readline() == f'{{"message": "Hello {name}"}}\n'
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_what_a_proto_file_has_is_listed_and_described(engine_server: ServerProcess) -> None:
    assert engine_call(engine_server, "list", *PROTO)[1] == "greet.Greeter\n"
    assert "greet.Greeter/SayHello\n" in engine_call(engine_server, "list", "greet.Greeter", *PROTO)[1]
    described = engine_call(engine_server, "describe", *PROTO)[1]
    assert "  rpc Chat(stream greet.HelloRequest) returns (stream greet.HelloReply);\n" in described
    assert engine_call(engine_server, "describe", "greet.HelloRequest", *PROTO)[1] == (
        "message greet.HelloRequest {\n  string name = 1;\n}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("greet.Greeter/Nope", *PROTO), 2, "there is no such name; services are greet.Greeter"),
        (("greet.Greeter/SayHello", "{", *PROTO), 2, "give JSON for greet.HelloRequest"),
        (("greet.Greeter/SayHello", '{"nope": 1}', *PROTO), 2, "nope"),
        (("greet.Greeter/SayHello", "{}{}", *PROTO), 2, "takes one request, not 2"),
        (("greet.Greeter/SayHello", "{}", "-H", "x", *PROTO), 2, "write KEY:VALUE"),
        (("greet.Greeter/SayHello", "{}", "-H", "x-bin: zz", *PROTO), 2, "in hex"),
        (("greet.Greeter", "{}", *PROTO), 2, "name a method"),
        (("list", "nope", *PROTO), 2, "there is no such service"),
        (("greet.Greeter/SayHello", "{}", "--tls", *PROTO), 64 + 14, "TLS handshake with 127.0.0.1: "),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    engine_server: ServerProcess, arguments: tuple[str, ...], code: int, text: str
) -> None:
    returned, out, err = engine_call(engine_server, *arguments)
    assert (returned, out) == (code, "")
    assert text in err


def test_a_server_with_reflection_needs_no_files(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.conformance:app")
    listed = engine_call(server, "list")[1].split()
    assert {"grpc.testing.TestService", "conformance.v1.Probe", "greet.Greeter"} <= set(listed)
    assert engine_call(server, "greet.Greeter/SayHello", '{"name": "Ada"}')[1] == '{"message": "Hello Ada"}\n'
    data = '{"response_parameters": [{"size": 1}, {"size": 2}]}'
    replies = engine_call(server, "grpc.testing.TestService/StreamingOutputCall", data)[1]
    assert replies == '{"payload": {"body": "AA=="}}\n{"payload": {"body": "AAA="}}\n'
    header = ("-H", "x-grpc-test-echo-initial: here", "-H", "x-grpc-test-echo-trailing-bin: abab")
    verbose = engine_call(server, "grpc.testing.TestService/UnaryCall", "{}", "-v", *header)[2]
    assert "initial x-grpc-test-echo-initial: here\n" in verbose
    assert "trailing x-grpc-test-echo-trailing-bin: abab\n" in verbose
    failing = '{"response_status": {"code": 9, "message": "no"}}'
    code, _, err = engine_call(server, "grpc.testing.TestService/UnaryCall", failing)
    assert code == 64 + 9
    assert err.startswith("engine: error: FAILED_PRECONDITION: no\n  attempt 1 at ")
    code, _, err = engine_call(server, "grpc.testing.TestService/FullDuplexCall", failing)
    assert code == 64 + 9
    assert err.startswith("engine: error: FAILED_PRECONDITION: no\n  attempt 1 at ")
    assert engine_call(server, "grpc.testing.TestService/FullDuplexCall", "{} {")[0] == 2


def test_messages_are_described_as_they_are_written(tmp_path: Path, engine_server: ServerProcess) -> None:
    (tmp_path / "odd.proto").write_text(
        'syntax = "proto3"; package odd; message Odd { optional int32 a = 1; oneof kind { string b = 2; Odd c = 3; }'
        " map<string, Inner> d = 4; repeated bytes e = 5; message Inner { bool f = 1; } enum G { H = 0; } G i = 6; }"
    )
    described = engine_call(engine_server, "describe", "odd.Odd", "--proto", str(tmp_path / "odd.proto"))[1]
    assert described.split("\n") == [
        "message odd.Odd {",
        "  optional int32 a = 1;",
        "  oneof kind {",
        "    string b = 2;",
        "    odd.Odd c = 3;",
        "  }",
        "  map<string, odd.Odd.Inner> d = 4;",
        "  repeated bytes e = 5;",
        "  odd.Odd.G i = 6;",
        "  message Inner {",
        "    bool f = 1;",
        "  }",
        "  enum G {",
        "    H = 0;",
        "  }",
        "}",
        "",
    ]


def test_ctrl_c_cancels_the_call_and_says_nothing(engine_server: ServerProcess) -> None:
    command = [sys.executable, "-m", "engine", "call", engine_server.target, "greet.Greeter/Chat", "-", *PROTO]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"name": "Ada"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == '{"message": "Hello Ada"}\n'
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130  # while standard input is still open
        assert process.stderr is not None
        assert process.stderr.read().strip() == ""


@pytest.fixture(scope="module")
def mutual_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path, Path]]:
    """A server that asks for certificates, the authority of both sides, and a client's certificate with its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "client"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    server = ServerProcess(
        *("--tls-cert", str(folder / "localhost.pem")),
        *("--set", f"tls.client_ca_file={folder / 'ca.pem'}", "--set", "tls.require_client_certificate=true"),
        tls=True,
    )
    yield server, folder / "ca.pem", folder / "client.pem"
    server.stop()


def test_a_server_that_asks_for_a_certificate_is_called_with_one(mutual_tls: tuple[ServerProcess, Path, Path]) -> None:
    server, authority, certificate = mutual_tls
    request = ("greet.Greeter/SayHello", '{"name": "Ada"}', *PROTO)
    ours = ("--tls-cert", str(certificate))
    reply = (0, '{"message": "Hello Ada"}\n', "")
    assert engine_call(server, *request, "--tls-ca", str(authority), "--authority", "localhost", *ours) == reply
    assert engine_call(server, *request, "--tls-no-verify", *ours) == reply
    code, _, errors = engine_call(
        server, *request, "--tls-ca", str(authority), *ours
    )  # for localhost, not for 127.0.0.1
    assert (code, "certificate is not trusted" in errors) == (64 + 14, True)
    code, _, errors = engine_call(server, *request, "--tls-no-verify")
    assert (code, "CERTIFICATE_REQUIRED" in errors) == (64 + 14, True)
