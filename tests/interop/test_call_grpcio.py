"""`engine call` against a stock grpcio server, which has reflection v1alpha alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("grpc_reflection", reason="grpcio-reflection is missing; install the extra dev")
pytest.importorskip("grpc_health", reason="grpcio-health-checking is missing; install the extra dev")

from tests.interop.server_process import ROOT

pytestmark = pytest.mark.interop


def serve(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.interop.grpcio_reflection_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    yield from serve()


@pytest.fixture(scope="module")
def bare() -> Iterator[str]:
    yield from serve("bare")


def call(target: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "engine", "call", target, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin, check=False, timeout=50)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_services_methods_messages_and_enums_are_listed_and_described(target: str) -> None:
    assert call(target, "list")[1].split() == (
        ["greet.Greeter", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
    )
    assert call(target, "list", "greet.Greeter")[1].splitlines()[0] == "greet.Greeter/SayHello"
    assert call(target, "describe", "greet.Greeter/Chat")[1] == (
        "rpc Chat(stream greet.HelloRequest) returns (stream greet.HelloReply);\n"
    )
    assert call(target, "describe", "grpc.health.v1.HealthCheckResponse")[1] == (
        "message grpc.health.v1.HealthCheckResponse {\n"
        "  grpc.health.v1.HealthCheckResponse.ServingStatus status = 1;\n"
        "  enum ServingStatus {\n"
        "    UNKNOWN = 0;\n    SERVING = 1;\n    NOT_SERVING = 2;\n    SERVICE_UNKNOWN = 3;\n"
        "  }\n}\n"
    )
    assert (
        "  oneof message_request {\n    string file_by_filename = 3;\n"
        in (call(target, "describe", "grpc.reflection.v1alpha.ServerReflectionRequest")[1])
    )
    assert call(target, "describe", "grpc.health.v1.HealthCheckResponse.ServingStatus")[1].startswith("enum ")


def test_all_four_kinds_are_called(target: str) -> None:
    two = '{"name": "Ada"}\n{"name": "Bob"}'
    code, out, err = call(target, "greet.Greeter/SayHello", '{"name": "Ada"}', "-v", "-H", "x-a: b")
    assert (code, out, err) == (0, '{"message": "Hello Ada"}\n', "trailing x-got: b\n")
    assert call(target, "greet.Greeter/StreamHellos", '{"name": "Ada", "count": 2}')[1].count("Hello Ada") == 2
    assert call(target, "greet.Greeter/CollectNames", "-", stdin=two)[1] == '{"message": "Ada Bob"}\n'
    assert call(target, "greet.Greeter.Chat", two)[1] == '{"message": "Ada"}\n{"message": "Bob"}\n'
    assert call(target, "grpc.health.v1.Health/Check")[1] == '{"status": "SERVING"}\n'


def test_a_failure_is_told_with_its_cause_and_the_status_in_the_exit_code(target: str) -> None:
    code, out, err = call(target, "greet.Greeter/SayHello", '{"name": "nobody"}')
    assert (code, out) == (64 + 5, "")
    assert err.splitlines() == [
        "engine: error: NOT_FOUND: there is nobody",
        f"  attempt 1 at {target}: status NOT_FOUND in the head",
    ]
    assert call(target, "greet.Greeter/Nope")[0] == 2


def test_a_server_without_reflection_is_called_by_its_proto_files(bare: str) -> None:
    code, _, err = call(bare, "greet.Greeter/SayHello", "{}")
    assert code == 64 + 12
    assert "the server has no reflection service; name the .proto files" in err
    proto = ("--proto", "greet.proto", "-I", "protos")
    assert call(bare, "greet.Greeter/SayHello", '{"name": "Ada"}', *proto)[:2] == (0, '{"message": "Hello Ada"}\n')
