"""The HTTP/1 driver: requests, responses and bodies, over sockets and over memory streams."""

import math

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConnectionClosed, LimitExceeded, LocalProtocolError
from engine.transport.exchange import CancelReason
from tests.transport.http1_peer import connected

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TEXT = ((b"content-length", b"2"),)


@pytest.fixture(params=["memory", "socket"])
def over(request):
    return request.param


async def ok(exchange):
    exchange.write_head(200, TEXT)
    exchange.write(b"ok", end=True)
    await exchange.drain()


async def echo(exchange):
    """Reads all, then answers with it."""
    received = []
    while data := await exchange.receive():
        received.append(data)
    body = b"".join(received)
    exchange.write_head(200, ((b"content-length", b"%d" % len(body)),))
    exchange.write(body, end=True)
    await exchange.drain()


async def path(exchange):
    body = exchange.head.path.encode()
    exchange.write_head(200, ((b"content-length", b"%d" % len(body)),))
    exchange.write(body, end=True)
    await exchange.drain()


def post(body, *fields):
    head = b"".join(b"%b\r\n" % field for field in fields)
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), head, body)


async def test_a_connection_is_kept_alive_from_request_to_request(over):
    async with connected(ok, over=over) as client:
        for _ in range(3):
            reply = await client.ask(GET)
            assert (reply.status, reply.body) == (200, b"ok")
            assert "connection" not in reply.headers


async def test_the_head_says_all_about_the_request(over):
    heads = []

    async def look(exchange):
        heads.append(exchange.head)
        await ok(exchange)

    async with connected(look, over=over) as client:
        await client.ask(b"GET /a%20%C3%A9?q=%201 HTTP/1.1\r\nHost: h:1\r\nX: y\r\n\r\n")
    head = heads[0]
    assert (head.method, head.path, head.query, head.raw_path) == ("GET", "/a é", "q=%201", b"/a%20%C3%A9")
    assert (head.scheme, head.authority, head.http_version, head.protocol) == ("http", "h:1", "1.1", None)
    assert head.header(b"x") == b"y"


async def test_pipelined_requests_are_answered_in_order(over):
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)]
    async with connected(path, over=over) as client:
        await client.send(b"".join(requests))
        assert [(await client.reply()).body for _ in requests] == [b"/%d" % number for number in range(20)]


async def test_a_request_is_not_begun_before_the_one_before_it_is_answered():
    running = []
    gate = trio.Event()

    async def wait(exchange):
        running.append(exchange.head.path)
        await gate.wait()
        await path(exchange)

    async with connected(wait) as client:
        await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert running == ["/1"]
        gate.set()
        assert [(await client.reply()).body, (await client.reply()).body] == [b"/1", b"/2"]


async def test_what_is_pipelined_behind_a_slow_handler_is_not_read_without_bound():
    gate = trio.Event()

    async def wait(exchange):
        await gate.wait()
        await ok(exchange)

    config = Config().replace(http1__receive_buffer=1000, server__read_size=100)
    async with connected(wait, config) as client:
        await client.send(GET * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert client.driver.core.buffered <= 1100
        gate.set()
        for _ in range(1000):
            assert (await client.reply()).status == 200


async def test_head_gets_the_headers_and_no_body(over):
    async with connected(ok, over=over) as client:
        reply = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reply.headers["content-length"] == "2"
        assert (await client.ask(GET)).body == b"ok"


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
async def test_a_body_with_content_length_arrives(over, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with connected(echo, over=over) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, post(body))
        assert (await client.reply()).body == body


async def test_a_chunked_body_arrives_and_the_trailers_too(over):
    seen = []

    async def look(exchange):
        await echo(exchange)
        seen.append(exchange.trailers)

    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (b"hello", b" ", b"world" * 10_000))
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nT: v\r\n\r\n"
    async with connected(look, over=over) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, request)
        assert (await client.reply()).body == b"hello " + b"world" * 10_000
    assert seen == [[(b"t", b"v")]]


async def test_a_response_of_unknown_length_is_chunked_and_has_trailers(over):
    async def stream(exchange):
        await exchange.send_head(200)
        for piece in (b"one", b"two", b""):
            await exchange.send(piece)
        await exchange.send_trailers([(b"x", b"y")])

    async with connected(stream, over=over) as client:
        reply = await client.ask(GET)
        assert (reply.body, reply.trailers) == (b"onetwo", {"x": "y"})
        assert (await client.ask(GET)).status == 200


async def test_http_1_0_gets_a_body_that_ends_with_the_connection(over):
    async def stream(exchange):
        await exchange.send_head(200)
        await exchange.send(b"one")
        await exchange.send(b"two", end=True)

    async with connected(stream, over=over) as client:
        reply = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert (reply.body, reply.headers["connection"]) == (b"onetwo", "close")
        assert "transfer-encoding" not in reply.headers


async def test_connection_close_is_honoured(over):
    async with connected(ok, over=over) as client:
        reply = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_early_hints_come_before_the_response():
    async def hint(exchange):
        exchange.write_informational(103, [(b"link", b"</a>")])
        await ok(exchange)

    async with connected(hint) as client:
        assert (await client.ask(GET)).status == 103
        assert (await client.reply()).status == 200
        # RFC 9110 15.2: not to HTTP/1.0
        assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 200


# -- 100 Continue -------------------------------------------------------------

EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


async def test_100_continue_is_sent_when_the_handler_receives(over):
    asked = trio.Event()

    async def wait(exchange):
        await asked.wait()
        await echo(exchange)

    async with connected(wait, over=over) as client:
        await client.send(EXPECT)
        with trio.move_on_after(0.01) as scope:
            await client.line()
        assert scope.cancelled_caught
        asked.set()
        assert (await client.reply()).status == 100
        assert (await client.ask(b"body")).body == b"body"
        assert (await client.ask(GET)).status == 200


async def test_100_continue_is_not_sent_to_a_peer_that_does_not_wait_for_it():
    async with connected(echo) as client:
        reply = await client.ask(EXPECT + b"body")
        assert (reply.status, reply.body) == (200, b"body")


async def test_a_final_answer_instead_of_100_continue_closes(over):
    async with connected(ok, over=over) as client:
        reply = await client.ask(EXPECT)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.rest() == b""


async def test_a_body_that_will_be_too_large_is_refused_before_it_is_sent():
    async with connected(refusing, Config().replace(http1__max_body_size=3)) as client:
        reply = await client.ask(EXPECT)
        assert (reply.status, reply.headers["connection"]) == (413, "close")


# -- limits and refusals ------------------------------------------------------


async def refusing(exchange):
    """As endpoints do it."""
    try:
        await echo(exchange)
    except LimitExceeded as error:
        exchange.write_head(413 if error.name == "http1.max_body_size" else 408, TEXT)
        exchange.write(b"no", end=True)
        await exchange.drain()


async def test_a_body_of_exactly_the_limit_passes():
    config = Config().replace(http1__max_body_size=10)
    async with connected(refusing, config) as client:
        assert (await client.ask(post(b"0123456789"))).body == b"0123456789"


async def test_a_chunked_body_beyond_the_limit_is_413_while_it_is_sent(over):
    config = Config().replace(http1__max_body_size=10)
    async with connected(refusing, config, over=over) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"8\r\n01234567\r\n8\r\n01234567\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")


async def test_an_endpoint_may_lift_the_limit():
    async def lifted(exchange):
        exchange.max_body = math.inf
        await echo(exchange)

    async with connected(lifted, Config().replace(http1__max_body_size=10)) as client:
        assert len((await client.ask(post(b"x" * 1000))).body) == 1000


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: a\n\n"),
        (414, b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 40_000 + b"\r\n\r\n"),
        (501, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
        (505, b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
async def test_a_refused_request_gets_its_status_and_the_connection_closes(over, status, request_bytes):
    async def never(exchange):
        raise AssertionError("a refused request reached the handler")

    async with connected(never, over=over) as client:
        await client.send(request_bytes + GET)
        reply = await client.reply()
        assert reply.status == status
        assert reply.headers["connection"] == "close"
        assert reply.headers["server"] == "engine"
        assert reply.headers["date"].endswith(" GMT")
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.body.endswith(b"\n")
        assert await client.rest() == b""


async def test_a_request_behind_good_ones_is_refused_after_their_answers():
    async with connected(path) as client:
        await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\n" + GET)
        assert [(await client.reply()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""


async def test_a_bad_chunk_ends_the_handler_that_waits_for_it():
    reasons = []

    async def wait(exchange):
        try:
            await echo(exchange)
        finally:
            reasons.append(exchange.cancel_reason)

    async with connected(wait) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.ask(b"nonsense\r\n")).status == 400
        await client.over.wait()
    assert reasons == [CancelReason.CONNECTION_LOST]


async def test_a_bad_chunk_behind_a_begun_response_cuts_it_short():
    async def early(exchange):
        await exchange.send_head(200)
        await exchange.send(b"begin")
        await echo(exchange)

    async with connected(early) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await client.line() == b"HTTP/1.1 200 OK"
        await client.send(b"nonsense\r\n")
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_refusal_arrives_although_the_client_is_still_sending():
    """Over a real socket: closing over unread input would reset the connection and destroy the answer."""
    async with connected(ok, over="socket") as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + b"x" * 2_000_000)
        assert (await client.reply()).status == 400
        assert await client.rest() == b""


# -- bodies that nobody reads -------------------------------------------------


async def test_a_small_body_that_nobody_read_is_discarded(over):
    async with connected(ok, over=over) as client:
        assert (await client.ask(post(b"x" * 1000))).status == 200
        assert (await client.ask(GET)).status == 200


async def test_a_body_that_comes_late_and_that_nobody_read_is_discarded(over):
    async with connected(ok, over=over) as client:
        assert (await client.ask(post(b"x" * 1000)[:-500])).status == 200
        assert (await client.ask(b"x" * 500 + GET)).status == 200


async def test_a_large_body_that_nobody_read_closes_the_connection(over):
    async with connected(ok, over=over) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, post(b"x" * 500_000))
        assert (await client.reply()).status == 200
        assert await client.rest() == b""


async def test_a_chunked_body_without_end_that_nobody_read_closes_the_connection(over):
    async with connected(ok, over=over) as client, trio.open_nursery() as nursery:
        request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        nursery.start_soon(client.send, request + b"1000\r\n%b\r\n" % (b"x" * 4096) * 50)
        assert (await client.reply()).status == 200
        assert await client.rest() == b""


async def test_reading_stops_while_the_handler_does_not_take_the_body():
    gate = trio.Event()
    sizes = []

    async def slow(exchange):
        await gate.wait()
        sizes.append(exchange.unread)
        await echo(exchange)

    config = Config().replace(http1__receive_buffer=1000, server__read_size=100)
    async with connected(slow, config) as client:
        await client.send(post(b"x" * 20_000))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert len((await client.reply()).body) == 20_000
    assert sizes[0] <= 1100


# -- handlers that do wrong ---------------------------------------------------


async def test_a_handler_without_a_response_is_a_500():
    async def nothing(exchange):
        pass

    async with connected(nothing) as client:
        reply = await client.ask(GET)
        assert (reply.status, reply.headers["connection"]) == (500, "close")


async def test_a_response_that_is_cut_short_is_never_taken_for_whole(over):
    async def short(exchange):
        await exchange.send_head(200, [(b"content-length", b"10")])
        await exchange.send(b"four")

    async with connected(short, over=over) as client:
        await client.send(GET)
        assert len((await client.rest()).partition(b"\r\n\r\n")[2]) < 10
        await client.over.wait()


async def test_a_reset_ends_the_connection_without_an_answer():
    async def give_up(exchange):
        exchange.reset()
        exchange.reset()
        with pytest.raises(ConnectionClosed):
            await exchange.drain()

    async with connected(give_up) as client:
        await client.send(GET)
        assert await client.rest() == b""
        await client.over.wait()


async def test_a_forged_field_leaves_room_for_a_500():
    async def split(exchange):
        with pytest.raises(LocalProtocolError):
            exchange.write_head(200, [(b"x", b"a\r\nset-cookie: b")])
        exchange.write_head(500, TEXT)
        exchange.write(b"no", end=True)
        await exchange.drain()

    async with connected(split) as client:
        assert (await client.ask(GET)).status == 500


async def test_a_second_head_is_a_mistake():
    async def twice(exchange):
        await ok(exchange)
        with pytest.raises(LocalProtocolError):
            exchange.write_head(200)

    async with connected(twice) as client:
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(GET)).status == 200


# -- sinks --------------------------------------------------------------------


async def test_a_sink_gets_what_came_before_and_what_comes_after_and_the_end(over):
    got = []
    done = trio.Event()

    def sink(data):
        got.append(data)
        if not data:
            done.set()

    async def attach(exchange):
        exchange.attach(sink)
        await done.wait()
        await ok(exchange)

    async with connected(attach, over=over) as client:
        await client.send(post(b"0123456789")[:-5])
        await client.send(b"56789")
        assert (await client.reply()).status == 200
    assert b"".join(got) == b"0123456789"
    assert got[-1] == b""


async def test_a_sink_that_pauses_gets_nothing_until_it_resumes():
    got = []
    paused = trio.Event()
    go_on = trio.Event()

    async def attach(exchange):
        def sink(data):
            got.append(data)
            exchange.pause_receiving()
            paused.set()

        exchange.attach(sink)
        await go_on.wait()
        while b"" not in got:
            exchange.resume_receiving()
            await trio.testing.wait_all_tasks_blocked()
        await ok(exchange)

    async with connected(attach, Config().replace(server__read_size=60)) as client:
        await client.send(post(b"x" * 1000))
        await paused.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(got) <= 3  # what was on its way
        go_on.set()
        assert (await client.reply()).status == 200
    assert sum(map(len, got)) == 1000


async def test_a_sink_refuses_more_than_the_limit():
    async def attach(exchange):
        exchange.attach(lambda data: None)
        await trio.sleep_forever()

    async with connected(attach, Config().replace(http1__max_body_size=10)) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"8\r\n01234567\r\n8\r\n01234567\r\n")
        assert (await client.reply()).status == 413
