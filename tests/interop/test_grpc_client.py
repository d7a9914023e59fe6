"""Our client against stock servers: every official case that they implement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from engine import Channel
from examples.conformance import grpc_client
from examples.conformance.generated import interop_test_engine as services
from tests.interop.peers import NODE_FOLDER, grpc_go, require
from tests.interop.server_process import ROOT

pytestmark = pytest.mark.interop

LIMIT = 30.0
CASES = [
    *("empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream"),
    *("custom_metadata", "status_code_and_message", "special_status_message", "unimplemented_method"),
    *("unimplemented_service", "cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server"),
    *("rpc_soak", "server_compressed_unary", "server_compressed_streaming", "max_streams", "data_frame_padding"),
]


def start(*command: str) -> Iterator[str]:
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def sync() -> Iterator[str]:
    pytest.importorskip("grpc", reason="grpcio is missing; install it to run its server")
    yield from start(sys.executable, "-m", "tests.interop.grpcio_test_server", "sync")


@pytest.fixture(scope="module")
def aio() -> Iterator[str]:
    pytest.importorskip("grpc", reason="grpcio is missing; install it to run its server")
    yield from start(sys.executable, "-m", "tests.interop.grpcio_test_server", "aio")


@pytest.fixture(scope="module")
def js() -> Iterator[str]:
    program = require("node", "nodejs")
    if not (NODE_FOLDER / "node_modules").is_dir():
        pytest.skip("the Node.js packages are missing; run npm ci in tests/interop/node")
    (proto,) = (ROOT / "protos").rglob("interop_test.proto")
    yield from start(program, str(NODE_FOLDER / "grpc_test_server.mjs"), str(proto))


@pytest.fixture(scope="module")
def go() -> Iterator[str]:
    yield from start(grpc_go(), "server")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("server", ["sync", "aio", "js", "go"])
async def test_an_official_case_succeeds(request: pytest.FixtureRequest, server: str, case: str) -> None:
    target = request.getfixturevalue(server)
    with trio.fail_after(LIMIT):
        await grpc_client.run(case, target, 10.0)


async def test_requests_and_replies_compressed_by_zstd_are_understood(go: str) -> None:
    async with Channel(go, compression="zstd") as channel:
        stub = services.TestServiceStub(channel)
        with trio.fail_after(LIMIT):
            await grpc_client.large(stub)  # which grpc-go answers with the compression of the request
            await grpc_client.large(stub, compression="identity")


@pytest.mark.parametrize("server", ["sync", "aio", "js"])
async def test_a_probe_prints_one_line_of_json(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], server: str
) -> None:
    target = request.getfixturevalue(server)
    with trio.fail_after(LIMIT):
        await grpc_client.run("probe_stream", target, 10.0)
        await grpc_client.run("probe_unary", target, 10.0)
    stream, unary = capsys.readouterr().out.splitlines()
    assert stream == '{"code": "OK", "details": "", "sizes": [10, 10, 10]}'
    assert unary.startswith('{"code": "OK", "details": "", "size": 10, "initial": [')
