"""curl as a client of greet.Greeter over Connect: the commands of the documentation, over both HTTP versions."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.interop.peers import curl
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

VERSIONS = pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
JSON = ("-H", "content-type: application/json")


@VERSIONS
@pytest.mark.parametrize("options", [JSON, ()], ids=["json", "plain -d"])
def test_a_greeting_is_one_command(engine_server: ServerProcess, version: str, options: tuple[str, ...]) -> None:
    out = curl(version, *options, "-d", '{"name": "x"}', f"{engine_server.url}/greet.Greeter/SayHello")
    assert json.loads(out) == {"message": "Hello x"}


@VERSIONS
def test_a_mistake_is_json_with_its_status(engine_server: ServerProcess, version: str) -> None:
    url = f"{engine_server.url}/greet.Greeter/SayHello"
    out = curl(version, *JSON, "-d", '{"name": 1}', "-w", "\n%{http_code} %{content_type}", url)
    body, _, status = out.rpartition(b"\n")
    assert status == b"400 application/json"
    assert json.loads(body)["code"] == "invalid_argument"


@VERSIONS
def test_a_compressed_body_is_inflated(engine_server: ServerProcess, version: str) -> None:
    body = gzip.compress(b'{"name": "%s"}' % (b"x" * 10_000))
    url = f"{engine_server.url}/greet.Greeter/SayHello"
    out = curl(version, *JSON, "-H", "content-encoding: gzip", "--data-binary", "@-", url, stdin=body)
    assert json.loads(out) == {"message": "Hello " + "x" * 10_000}


@VERSIONS
def test_a_get_and_a_strange_type_are_told_what_to_do(engine_server: ServerProcess, version: str) -> None:
    url = f"{engine_server.url}/greet.Greeter/SayHello"
    head = curl(version, "-i", url).decode().lower()
    assert head.split()[1] == "405"
    assert "allow: post" in head
    assert "this method needs post, not get" in head.split("\r\n\r\n")[1]  # what curl shows without -i
    head = curl(version, "-i", "-H", "content-type: text/xml", "-d", "<x/>", url).decode().lower()
    assert head.split()[1] == "415"
    assert "application/json" in head.split("accept-post: ")[1].splitlines()[0]
