"""h2load as the client: ten thousand requests without an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.peers import require, run
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

REQUESTS = 10_000


def _load(*arguments: str) -> str:
    program = require("h2load", "nghttp2-client")
    return run(program, "-n", str(REQUESTS), *arguments, limit=55).stdout.decode()


def _assert_all_succeeded(report: str) -> None:
    match = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", report)
    assert match, report
    assert [int(number) for number in match.groups()] == [REQUESTS, REQUESTS, 0, 0, 0], report
    statuses = re.search(r"status codes: (\d+) 2xx", report)
    assert statuses, report
    assert int(statuses[1]) == REQUESTS, report


@pytest.mark.parametrize("options", [["-c4", "-m25"], ["-c50", "-m1"]], ids=["4x25", "50x1"])
def test_ten_thousand_requests_over_http2_have_no_error(engine_server: ServerProcess, options: list[str]) -> None:
    _assert_all_succeeded(_load(*options, f"{engine_server.url}/healthz"))


@pytest.mark.parametrize("options", [["-c16", "-m1"], ["-c4", "-m8"]], ids=["16x1", "4x8-pipelined"])
def test_ten_thousand_requests_over_http1_have_no_error(engine_server: ServerProcess, options: list[str]) -> None:
    _assert_all_succeeded(_load("--h1", *options, f"{engine_server.url}/healthz"))


def test_ten_thousand_calls_over_grpc_have_no_error(engine_server: ServerProcess, tmp_path: Path) -> None:
    body = tmp_path / "body"
    message = b"\x0a\x05world"  # HelloRequest(name="world")
    body.write_bytes(b"\x00" + len(message).to_bytes(4, "big") + message)
    report = _load(
        "-c4", "-m25", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"{engine_server.url}/greet.Greeter/SayHello",
    )  # fmt: skip
    _assert_all_succeeded(report)
