"""curl as the client: HTTP/1.1, HTTP/2 with prior knowledge, HTTP/2 and HTTP/1.1 by ALPN, WebSocket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.interop.peers import curl, require, run
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

VERSIONS = {"1.1": "--http1.1", "2": "--http2-prior-knowledge"}


@pytest.fixture(params=VERSIONS, ids=lambda version: f"http{version}")
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_get_is_answered_in_the_asked_version(engine_server: ServerProcess, version: str) -> None:
    out = curl(VERSIONS[version], "-w", "\n%{http_code} %{http_version}", f"{engine_server.url}/healthz")
    body, _, status = out.rpartition(b"\n")
    assert body
    assert status.decode() == f"200 {version}"


def test_head_answers_the_fields_of_get_and_no_body(engine_server: ServerProcess, version: str) -> None:
    def fields(*options: str) -> dict[str, str]:
        head = curl(VERSIONS[version], *options, f"{engine_server.url}/").split(b"\r\n\r\n")[0].decode()
        return dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])

    head, get = fields("--head"), fields("--include")
    for changing in ("date", "connection", "transfer-encoding"):
        head.pop(changing, None)
        get.pop(changing, None)
    assert head == get
    assert "content-type" in head


# curl 7.88 fails on the second transfer of a prior-knowledge connection ("Error in the HTTP2 framing
# layer"), with nghttpd too: reuse is tested over TLS for HTTP/2.
@pytest.fixture(params=["http1.1", "http2-tls"])
def reusable(
    request: pytest.FixtureRequest, engine_server: ServerProcess, engine_tls_server: ServerProcess
) -> tuple[str, ...]:
    """curl's options and the base URL, last, of a connection that carries several requests."""
    if request.param == "http1.1":
        return ("--http1.1", engine_server.url)
    return ("--http2", "--insecure", engine_tls_server.tls_url)


def test_one_connection_carries_request_after_request(reusable: tuple[str, ...]) -> None:
    *options, base = reusable
    sizes = (0, 1, 1000, 100_000)
    transfers = [word for size in sizes for word in ("-o", "/dev/null", f"{base}/bytes/{size}")]
    out = curl(*options, "-w", "%{num_connects} %{size_download}\n", *transfers).decode()
    connects, received = zip(*(map(int, line.split()) for line in out.splitlines()), strict=True)
    assert connects == (1, 0, 0, 0)
    assert received == sizes


def test_an_unknown_path_is_404_and_the_connection_lives(reusable: tuple[str, ...]) -> None:
    *options, base = reusable
    transfers = ("-o", "/dev/null", f"{base}/nowhere", "-o", "/dev/null", f"{base}/healthz")
    out = curl(*options, "-w", "%{http_code} %{num_connects}\n", *transfers)
    assert out.splitlines() == [b"404 1", b"200 0"]


def test_a_method_that_no_route_has_is_405_with_allow(engine_server: ServerProcess, version: str) -> None:
    head = curl(VERSIONS[version], "-X", "DELETE", "-i", f"{engine_server.url}/healthz").lower()
    assert head.split()[1] == b"405"
    assert b"\r\nallow: " in head


def test_a_big_download_arrives_whole_and_slowly_too(engine_server: ServerProcess, version: str) -> None:
    size = 10_000_000
    fast = curl(VERSIONS[version], f"{engine_server.url}/bytes/{size}")
    assert len(fast) == size
    slow = curl(VERSIONS[version], "--limit-rate", "4M", f"{engine_server.url}/bytes/{size}")
    assert hashlib.sha256(slow).digest() == hashlib.sha256(fast).digest()


def test_a_websocket_path_without_an_upgrade_is_426(engine_server: ServerProcess, version: str) -> None:
    out = curl(VERSIONS[version], "-o", "/dev/null", "-w", "%{http_code}", f"{engine_server.url}/echo")
    assert out == b"426"


def test_alpn_chooses_the_version_over_tls(engine_tls_server: ServerProcess) -> None:
    for option, expected in (("--http2", b"200 2"), ("--http1.1", b"200 1.1")):
        out = curl(
            "--insecure", option, "-o", "/dev/null", "-w", "%{http_code} %{http_version}",
            f"{engine_tls_server.tls_url}/healthz",
        )  # fmt: skip
        assert out == expected


def test_a_big_download_arrives_whole_over_tls(engine_tls_server: ServerProcess) -> None:
    for option in ("--http2", "--http1.1"):
        assert len(curl("--insecure", option, f"{engine_tls_server.tls_url}/bytes/5000000")) == 5_000_000


def test_a_websocket_handshake_is_answered(engine_server: ServerProcess) -> None:
    version = run(require("curl", "curl"), "--version").stdout.decode()
    protocols = next(line for line in version.splitlines() if line.startswith("Protocols:")).split()
    if "ws" not in protocols:
        pytest.skip("this build of curl speaks no WebSocket (Protocols: has no ws)")
    out = curl("--no-buffer", "--max-time", "2", "-i", "-N", f"{engine_server.websocket_url}/echo")
    assert out.split()[1] == b"101"


@pytest.fixture(scope="module")
def conformance_server() -> Iterator[ServerProcess]:
    """The app that carries everything at once."""
    server = ServerProcess("examples.conformance:app")
    yield server
    server.stop()


@pytest.mark.parametrize("path", ["/", "/echo"])
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_posted_body_comes_back(conformance_server: ServerProcess, version: str, path: str, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    url = f"{conformance_server.url}{path}"
    assert curl(VERSIONS[version], "--data-binary", "@-", url, stdin=body) == body


def test_a_chunked_body_comes_back(conformance_server: ServerProcess) -> None:
    body = bytes(300_000)
    url = f"{conformance_server.url}/echo"
    assert curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@-", url, stdin=body) == body


def test_a_body_after_100_continue_comes_back(conformance_server: ServerProcess) -> None:
    body = bytes(100_000)
    url = f"{conformance_server.url}/echo"
    assert curl("--http1.1", "-H", "Expect: 100-continue", "--data-binary", "@-", url, stdin=body) == body
