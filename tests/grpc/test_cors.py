"""Which pages may call, and what they may read."""

from __future__ import annotations

import pytest

from engine.config import Config
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.demo.greeter import Greeter
from engine.errors import ConfigError
from engine.grpc import CallContext, GrpcEndpoint
from tests.grpc.calls import SAY, saying
from tests.grpc.fake_exchange import FakeExchange

PAGE = b"https://page.example"
ALLOWED = Config().replace(grpc__cors_origins=(PAGE.decode(),))
ANY = Config().replace(grpc__cors_origins=("*",))
NONE = Config()

ORIGIN, METHODS, NAMES = (
    f"access-control-{name}".encode() for name in ("allow-origin", "allow-methods", "allow-headers")
)
EXPOSED = b"access-control-expose-headers"


async def preflight(config: Config, origin: bytes = PAGE, path: str = SAY, *, asks: bytes = b"POST") -> FakeExchange:
    base = (
        (b"origin", origin),
        (b"access-control-request-method", asks),
        (b"access-control-request-headers", b"content-type,x-grpc-web,x-mine"),
    )
    exchange = FakeExchange(path, base=base, method="OPTIONS", http_version="1.1", config=config)
    exchange.end_request()
    return await exchange.run(GrpcEndpoint([Greeter()]))


async def call(
    config: Config,
    content_type: bytes,
    origin: bytes | None = PAGE,
    *,
    endpoint: GrpcEndpoint | None = None,
    path: str = SAY,
) -> FakeExchange:
    base = ((b"content-type", content_type), *(() if origin is None else ((b"origin", origin),)))
    exchange = FakeExchange(path, base=base, http_version="1.1", config=config)
    exchange.send_bytes(b"{}")
    exchange.end_request()
    return await exchange.run(endpoint or GrpcEndpoint([Greeter()]))


@pytest.mark.parametrize(("config", "allowed"), [(ALLOWED, PAGE), (ANY, b"*")])
async def test_a_preflight_allows_the_origin_and_what_it_asks_for(config: Config, allowed: bytes) -> None:
    exchange = await preflight(config)
    assert (exchange.status, exchange.response_ended) == (204, True)
    assert exchange.headers[ORIGIN] == allowed
    assert exchange.headers[METHODS] == b"POST"
    assert exchange.headers[NAMES] == b"content-type,x-grpc-web,x-mine"
    assert exchange.headers[b"access-control-max-age"] == b"7200"
    assert b"origin" in exchange.headers[b"vary"]
    assert b"access-control-allow-credentials" not in exchange.headers


async def test_a_preflight_of_an_unknown_method_is_allowed_so_that_the_page_reads_its_error() -> None:
    assert (await preflight(ANY, path="/greet.Greeter/Nope")).status == 204


async def test_a_preflight_from_elsewhere_is_403_and_405_where_nothing_is_allowed() -> None:
    exchange = await preflight(ALLOWED, b"https://elsewhere.example")
    assert exchange.status == 403
    assert ORIGIN not in exchange.headers
    assert b"grpc.cors_origins" in exchange.body
    assert (await preflight(NONE)).status == 405


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/grpc-web",
        b"application/grpc-web-text",
        b"application/json",
        b"text/plain",
        b"application/connect+json",
    ],
)
@pytest.mark.parametrize("path", [SAY, "/greet.Greeter/Nope", "/greet.Greeter/StreamHellos"])
async def test_every_answer_can_be_read_by_an_allowed_page_and_by_no_other(content_type: bytes, path: str) -> None:
    exchange = await call(ALLOWED, content_type, path=path)
    assert exchange.headers[ORIGIN] == PAGE
    assert exchange.headers[b"vary"] == b"origin"
    assert {b"grpc-status", b"grpc-message", b"grpc-status-details-bin"} <= set(exchange.headers[EXPOSED].split(b", "))
    for origin in (b"https://elsewhere.example", b"null", None):
        exchange = await call(ALLOWED, content_type, origin, path=path)
        assert ORIGIN not in exchange.headers
        assert exchange.headers[b"vary"] == b"origin"
    assert (await call(ANY, content_type, path=path)).headers[ORIGIN] == b"*"
    exchange = await call(NONE, content_type, path=path)
    assert ORIGIN not in exchange.headers
    assert b"vary" not in exchange.headers


async def test_the_metadata_of_a_response_is_exposed_and_what_the_config_names() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        await context.send_initial_metadata({"x-initial": "1", "cache-control": "no-store"})
        context.set_trailing_metadata({"x-t": "1"})
        return HelloReply()

    config = ANY.replace(grpc__cors_exposed_headers=("X-Config",))
    exchange = await call(config, b"application/json", endpoint=saying(handler))
    exposed = exchange.headers[EXPOSED].split(b", ")
    assert {b"x-initial", b"trailer-x-t", b"x-config"} <= set(exposed)
    assert b"cache-control" not in exposed


async def test_an_unexpected_error_can_be_read_too() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        raise ValueError

    exchange = await call(ANY, b"application/json", endpoint=saying(handler))
    assert (exchange.status, exchange.headers[ORIGIN]) == (500, b"*")


def test_one_origin_that_is_no_tuple_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"\('https://page.example',\)"):
        Config().replace(grpc__cors_origins="https://page.example")
