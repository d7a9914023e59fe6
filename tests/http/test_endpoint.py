"""Plain HTTP over the real driver: methods, errors, responses, requests."""

import pytest
import trio

from engine.config import Config
from engine.errors import ConfigError, HTTPError, LocalProtocolError
from engine.http.endpoint import HttpEndpoint
from engine.http.response import Response, StreamingResponse, refuse
from tests.transport.http1_peer import connected


def serving(handlers, params=None):
    endpoint = HttpEndpoint(handlers)

    async def handle(exchange):
        try:
            await endpoint.serve(exchange, params or {})
        except Exception as error:
            endpoint.fail(exchange, error)

    return handle


def request(method="GET", target="/", body=b"", *fields):
    length = [b"Content-Length: %d" % len(body)] if body else []
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: a:1", *length, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def ask(handler, data, config=None, params=None):
    handlers = handler if isinstance(handler, dict) else {"GET": handler, "POST": handler}
    async with connected(serving(handlers, params), config) as client:
        return await client.ask(data)


async def hello(request):
    return Response("hello")


async def test_a_response_has_date_server_length_and_type():
    reply = await ask(hello, request())
    assert (reply.status, reply.body) == (200, b"hello")
    assert reply.headers["server"] == "engine"
    assert reply.headers["date"].endswith(" GMT")
    assert reply.headers["content-length"] == "5"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("length", ["4", "6", "05", "five"])
async def test_a_content_length_that_is_not_the_body_s_is_an_error_of_the_handler(length):
    async def wrong(request):
        return Response("hello", headers={"Content-Length": length})

    with pytest.raises(LocalProtocolError, match=r"the body has 5 bytes: leave it off"):
        await wrong(None)
    assert (await ask(wrong, request())).status == 500
    assert Response("hello", headers={"content-length": "5"}).body == b"hello"
    assert Response(headers={"content-length": "5"}).body == b""  # of what GET would answer


async def test_head_is_served_by_get_with_the_same_headers():
    get, head = await ask(hello, request()), await ask(hello, request("HEAD"))
    assert head.body == b""
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


async def test_a_method_without_handler_is_405_and_allow_says_which_have_one():
    reply = await ask({"GET": hello}, request("DELETE"))
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_a_method_that_nobody_knows_is_501():
    assert (await ask(hello, request("BREW"))).status == 501


async def test_a_method_of_ones_own_can_have_a_handler():
    assert (await ask({"BREW": hello}, request("BREW"))).status == 200


async def test_options_tells_the_methods():
    reply = await ask({"POST": hello}, request("OPTIONS"))
    assert (reply.status, reply.headers["allow"]) == (204, "OPTIONS, POST")


def test_an_endpoint_without_handlers_is_a_mistake():
    with pytest.raises(ConfigError):
        HttpEndpoint({})


async def test_an_http_error_is_its_status_its_text_and_its_headers():
    async def refusing(request):
        raise HTTPError(401, "who are you", [("www-authenticate", "Basic")])

    reply = await ask(refusing, request())
    assert (reply.status, reply.body, reply.headers["www-authenticate"]) == (401, b"who are you\n", "Basic")


async def test_a_body_beyond_the_limit_is_413():
    async def take(request):
        return Response(await request.body())

    reply = await ask(take, request("POST", "/", b"x" * 100), Config().replace(http1__max_body_size=10))
    assert reply.status == 413
    assert b"http1.max_body_size" in reply.body


async def test_an_unexpected_error_is_500_and_tells_nothing_unless_asked_to():
    async def broken(request):
        raise ZeroDivisionError("secret")

    reply = await ask(broken, request())
    assert (reply.status, reply.body) == (500, b"Internal Server Error\n")
    assert b"secret" in (await ask(broken, request(), Config(detailed_errors=True))).body


async def test_an_error_leaves_the_connection_usable():
    async def broken(request):
        raise ZeroDivisionError

    async with connected(serving({"GET": broken, "POST": hello})) as client:
        assert (await client.ask(request())).status == 500
        assert (await client.ask(request("POST"))).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("x", "a\r\nset-cookie: b"), ("x", "a\nb"), ("x", "a\0b"), ("x\r\ny", "a"), ("x", "€"), ("", "a")],
)
async def test_a_forged_header_is_500_and_nothing_of_it_is_sent(name, value):
    async def forged(request):
        return Response("x", headers={name: value})

    reply = await ask(forged, request())
    assert reply.status == 500
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("name", ["connection", "transfer-encoding", "upgrade", "keep-alive"])
def test_framing_is_not_for_handlers(name):
    with pytest.raises(LocalProtocolError):
        Response("x", headers={name: "close"})


@pytest.mark.parametrize("status", [100, 101, 199, 600, 0])
def test_a_status_that_ends_no_exchange_is_a_mistake(status):
    with pytest.raises(LocalProtocolError):
        Response(status=status)


async def test_repeated_headers_are_all_sent():
    async def cookies(request):
        return Response(headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")])

    async with connected(serving({"GET": cookies})) as client:
        await client.send(request())
        lines = []
        while line := await client.line():
            lines.append(line)
    assert [line for line in lines if line.startswith(b"set-cookie")] == [b"set-cookie: a=1", b"set-cookie: b=2"]


async def test_json_goes_both_ways_and_a_bad_one_is_400():
    async def double(request):
        return Response.json([2 * number for number in await request.json(list[int])])

    reply = await ask(double, request("POST", "/", b"[1, 2]"))
    assert (reply.body, reply.headers["content-type"]) == (b"[2,4]", "application/json")
    for bad in (b"[1,", b'["a"]', b"\xff", b"[" * 100_000):
        assert (await ask(double, request("POST", "/", bad))).status == 400


async def test_a_request_shows_its_head():
    seen = []

    async def look(request):
        seen.append(request)
        return Response()

    fields = (b"X-A: 1", b"x-a: 2", b"Cookie: c=d")
    await ask(look, request("GET", "/a%20b?q=1&q=%C3%A9&e=", b"", *fields), params={"name": "v"})
    (got,) = seen
    assert (got.method, got.path, got.host, got.url) == ("GET", "/a b", "a:1", "http://a:1/a%20b?q=1&q=%C3%A9&e=")
    assert (got.params, got.path_params) == ({"name": "v"}, {"name": "v"})
    assert (got.query["q"], got.query.getlist("q"), got.query["e"]) == ("é", ["1", "é"], "")
    assert (got.headers["X-a"], got.headers.getlist("x-A"), "cookie" in got.headers) == ("1, 2", ["1", "2"], True)


async def test_too_many_query_parameters_are_400():
    async def look(request):
        return Response(str(len(request.query)))

    assert (await ask(look, request("GET", "/?" + "a&" * 1500))).status == 400


async def test_a_body_can_be_streamed_once_and_kept_for_ever():
    async def twice(request):
        assert await request.body() == await request.body()
        return Response(b"".join([piece async for piece in request.stream()]))

    assert (await ask(twice, request("POST", "/", b"body"))).body == b"body"


async def test_a_stream_is_sent_piece_by_piece():
    async def pieces():
        yield b"one"
        yield b""
        yield "two"

    async def stream(request):
        return StreamingResponse(pieces(), content_type="text/plain")

    reply = await ask(stream, request())
    assert (reply.body, reply.headers["transfer-encoding"]) == (b"onetwo", "chunked")
    assert (await ask(stream, request("HEAD"))).status == 200


async def test_a_stream_waits_for_a_peer_that_does_not_read():
    produced = []

    async def endless():
        while True:
            produced.append(1)
            yield b"x" * 10_000

    async def stream(request):
        return StreamingResponse(endless())

    async with connected(serving({"GET": stream}), stalled=True) as client:
        await client.send(request())
        await trio.testing.wait_all_tasks_blocked()
        assert len(produced) < 20


async def test_a_stream_that_fails_is_cut_short_and_closed():
    closed = []

    async def failing():
        try:
            yield b"begin"
            raise ZeroDivisionError
        finally:
            closed.append(True)

    async def stream(request):
        return StreamingResponse(failing())

    async with connected(serving({"GET": stream})) as client:
        await client.send(request())
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
    assert closed == [True]


async def test_any_endpoint_can_refuse_in_plain_text():
    async def handle(exchange):
        refuse(exchange, 426, "upgrade to websocket", [("upgrade-insecure", "no")])
        refuse(exchange, 500, "never seen")

    async with connected(handle) as client:
        reply = await client.ask(request())
        assert (reply.status, reply.body) == (426, b"upgrade to websocket\n")
        assert (await client.ask(request())).status == 426
