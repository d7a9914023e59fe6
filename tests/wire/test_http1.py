"""The HTTP/1.1 core: requests in, responses out."""

import time

import pytest

from engine.config import Http1Config
from engine.errors import LimitExceeded, LocalProtocolError, answer_for
from engine.wire.http1 import BodyReceived, ConnectionFailed, Http1Core, RequestEnded, RequestReceived

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def core_with(data=b"", **settings):
    core = Http1Core(Http1Config(**settings))
    if data:
        core.receive_data(data)
    return core


def events(core):
    found = []
    while (event := core.next_event()) is not None:
        found.append(event)
    return found


def body(found):
    return b"".join(event.data for event in found if isinstance(event, BodyReceived))


def failure(core):
    *_, last = events(core)
    assert isinstance(last, ConnectionFailed)
    return last.error


def test_a_get_is_one_request_without_a_body():
    request, end = events(core_with(b"GET /a%20b/?x=1&y HTTP/1.1\r\nHost: h:80\r\nAccept:  text/html \r\n\r\n"))
    assert isinstance(request, RequestReceived)
    assert (request.method, request.path, request.query) == (b"GET", b"/a%20b/", b"x=1&y")
    assert (request.authority, request.http_version) == (b"h:80", "1.1")
    assert request.fields == [(b"host", b"h:80"), (b"accept", b"text/html")]
    assert request.content_length == 0
    assert end == RequestEnded([])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_head_in_pieces_is_the_same_head(size):
    data = b"\r\nPOST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
    core = core_with()
    found = []
    for index in range(0, len(data), size):
        core.receive_data(data[index : index + size])
        found += events(core)
    assert found[0] == events(core_with(data))[0]
    assert body(found) == b"body"
    assert isinstance(found[-1], RequestEnded)


@pytest.mark.parametrize(
    ("target", "path", "query", "authority"),
    [
        (b"/", b"/", b"", b"h"),
        (b"//x", b"//x", b"", b"h"),
        (b"/a?b?c", b"/a", b"b?c", b"h"),
        (b"http://other:81/p?q", b"/p", b"q", b"other:81"),
        (b"HTTPS://other", b"/", b"", b"other"),
        (b"http://other?q", b"/", b"q", b"other"),
        (b"http://[::1]:80/p", b"/p", b"", b"[::1]:80"),
    ],
)
def test_a_target_in_origin_or_absolute_form_is_taken_apart(target, path, query, authority):
    request = events(core_with(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target))[0]
    assert (request.path, request.query, request.authority) == (path, query, authority)


def test_options_may_ask_about_the_server():
    assert events(core_with(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"))[0].path == b"*"
    assert events(core_with(b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n"))[0].path == b"*"


@pytest.mark.parametrize("host", [b"", b"a", b"a:80", b"a:", b"127.0.0.1:8000", b"[::1]:80", b"a_b.c", b"%41"])
def test_a_host_as_the_rfc_allows_it_is_taken(host):
    assert events(core_with(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host))[0].authority == host


def test_http_1_0_needs_no_host_and_closes():
    core = core_with(b"GET / HTTP/1.0\r\n\r\n")
    assert events(core)[0].http_version == "1.0"
    assert b"connection: close" in core.send_response(200, [], end=True).lower()
    assert not core.keeps_alive


def test_a_valid_method_of_ones_own_passes():
    assert events(core_with(b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n"))[0].method == b"BREW"


def test_a_chunked_body_arrives_as_one_piece_a_read_however_it_was_cut():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    core = core_with(head + b"1\r\na\r\n" * 1000 + b'5;x=y;z="q\\""\r\nhello\r\n0\r\nMd5: 1\r\n\r\n')
    found = events(core)
    assert found[0].content_length is None
    assert found[1:] == [BodyReceived(b"a" * 1000 + b"hello"), RequestEnded([(b"md5", b"1")])]


def test_a_body_that_is_mostly_framing_is_refused():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    error = failure(core_with(head + (b"1;" + b"x" * 500 + b"\r\na\r\n") * 100))
    assert "framing" in str(error)


def test_what_comes_before_a_bad_chunk_is_still_delivered():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = events(core_with(head + b"5\r\nhello\r\nzz\r\n"))
    assert body(found) == b"hello"
    assert isinstance(found[-1], ConnectionFailed)


def test_pipelined_requests_come_one_after_the_other():
    core = core_with(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3")
    assert [type(event) for event in events(core)] == [RequestReceived, RequestEnded]
    assert core.buffered > 0
    core.send_response(200, [], end=True)
    core.next_request()
    assert events(core)[0].path == b"/2"
    core.send_response(200, [], end=True)
    core.next_request()
    assert events(core) == []
    assert core.in_head
    assert not core.idle


def test_nothing_behind_a_request_is_judged_before_its_answer():
    core = core_with(GET + b"\0\0\0")
    assert [type(event) for event in events(core)] == [RequestReceived, RequestEnded]
    core.send_response(200, [], end=True)
    core.next_request()
    assert isinstance(events(core)[-1], ConnectionFailed)


@pytest.mark.parametrize(
    ("settings", "data", "status", "name"),
    [
        ({"max_head_size": 100}, GET[:-2] + b"X: " + b"a" * 100, 431, "http1.max_head_size"),
        ({"max_head_size": 100}, GET[:-2] + b"X: " + b"a" * 100 + b"\r\n\r\n", 431, "http1.max_head_size"),
        ({"max_fields": 3}, b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n", 431, "http1.max_fields"),
        ({"max_fields": 3}, b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n", 431, "http1.max_fields"),
        ({"max_target_size": 50}, b"GET /" + b"a" * 50 + b" HTTP/1.1\r\n", 414, "http1.max_target_size"),
        ({"max_target_size": 50}, b"GET /" + b"a" * 200, 414, "http1.max_target_size"),
    ],
)
def test_a_limit_is_enforced_before_the_head_is_complete(settings, data, status, name):
    error = failure(core_with(data, **settings))
    assert isinstance(error, LimitExceeded)
    assert error.name == name
    assert answer_for(error).http_status == status


def test_a_head_of_exactly_the_limits_passes():
    target = b"/" + b"a" * 49
    head = b"GET %b HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n" % target
    for pieces in ([head], [head[:30], head[30:]]):
        core = core_with(max_head_size=len(head), max_target_size=50, max_fields=2)
        for piece in pieces:
            core.receive_data(piece)
        assert [type(event) for event in events(core)] == [RequestReceived, RequestEnded]


def test_reading_a_head_byte_by_byte_is_linear():
    def cost(size):
        data = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b" " * size
        core = core_with(max_head_size=10**6)
        started = time.perf_counter()
        for index in range(len(data)):
            core.receive_data(data[index : index + 1])
        return time.perf_counter() - started

    cost(1000)
    assert cost(40_000) < 40 * cost(4_000)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nX: " + b" " * 30_000,
        b"GET / HTTP/1.1\r\nX:" + b" " * 30_000 + b"\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 30_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 6_000 + b"\x01",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5" + b";a=b" * 200 + b'="',
    ],
)
def test_no_head_makes_the_reader_backtrack(data):
    started = time.perf_counter()
    events(core_with(data))
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_an_end_in_the_middle_of_a_request_is_a_failure(data):
    core = core_with(data)
    core.receive_eof()
    assert answer_for(failure(core)).http_status == 400


@pytest.mark.parametrize("data", [b"", b"\r\n", GET])
def test_an_end_between_requests_is_none(data):
    core = core_with(data)
    core.receive_eof()
    assert not any(isinstance(event, ConnectionFailed) for event in events(core))


def test_a_partial_head_behind_the_last_request_fails_when_its_turn_comes():
    core = core_with(GET + b"GET /")
    core.receive_eof()
    events(core)
    core.send_response(200, [], end=True)
    core.next_request()
    assert isinstance(events(core)[-1], ConnectionFailed)


def test_the_peer_that_waits_for_100_continue_is_known():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
    core = core_with(head)
    assert events(core)[0].expects_continue
    assert core.awaits_continue
    assert core.send_informational(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not core.awaits_continue
    core = core_with(head)
    core.receive_data(b"x")
    assert not core.awaits_continue


def test_an_expectation_in_http_1_0_is_ignored():
    core = core_with(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert not events(core)[0].expects_continue
    assert not core.awaits_continue


def test_a_response_without_a_length_is_chunked_and_may_have_trailers():
    core = core_with(GET)
    events(core)
    sent = core.send_response(200, [(b"x", b"y")]) + core.send_data(b"hello") + core.end_response([(b"t", b"v")])
    assert sent == (b"HTTP/1.1 200 OK\r\nx: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nt: v\r\n\r\n")
    assert core.keeps_alive


def test_a_response_to_http_1_0_ends_with_the_connection_and_drops_trailers():
    core = core_with(b"GET / HTTP/1.0\r\n\r\n")
    events(core)
    sent = core.send_response(200, []) + core.send_data(b"hello") + core.end_response([(b"t", b"v")])
    assert sent == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


def test_a_response_without_a_body_says_so():
    core = core_with(GET)
    events(core)
    assert core.send_response(404, [], end=True) == b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_content_has_no_length(status):
    core = core_with(GET)
    events(core)
    sent = core.send_response(status, [(b"content-length", b"5")])
    assert b"content-length" not in sent
    assert b"ransfer-" not in sent
    assert core.bodiless
    assert core.keeps_alive


def test_head_has_the_headers_of_get_and_no_body():
    core = core_with(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    events(core)
    assert core.send_response(200, [(b"content-length", b"5")]) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert core.keeps_alive


@pytest.mark.parametrize(
    "field",
    [(b"x", b"a\r\nset-cookie: b"), (b"x", b"a\nb"), (b"x", b"a\0b"), (b"x\r\ny", b"a"), (b"x y", b"a"), (b"", b"a")],
)
def test_a_field_that_would_split_the_response_is_refused_and_an_answer_is_still_possible(field):
    core = core_with(GET)
    events(core)
    with pytest.raises(LocalProtocolError):
        core.send_response(200, [field])
    assert core.send_response(500, [], end=True).startswith(b"HTTP/1.1 500 ")


def test_more_or_less_body_than_promised_is_our_mistake():
    core = core_with(GET)
    events(core)
    core.send_response(200, [(b"content-length", b"2")])
    with pytest.raises(LocalProtocolError):
        core.send_data(b"abc")
    assert not core.keeps_alive
    core = core_with(GET)
    events(core)
    core.send_response(200, [(b"content-length", b"2")])
    with pytest.raises(LocalProtocolError):
        core.end_response()


def test_a_second_response_is_our_mistake():
    core = core_with(GET)
    events(core)
    core.send_response(200, [], end=True)
    with pytest.raises(LocalProtocolError):
        core.send_response(200, [], end=True)
    with pytest.raises(LocalProtocolError):
        core_with(b"GET").next_request()


UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


def test_a_switch_hands_over_what_came_behind_the_head():
    core = core_with(UPGRADE + b"\x81\x00")
    assert events(core)[0].wants_websocket
    head, trailing = core.switch_protocol([(b"sec-websocket-accept", b"z")])
    assert head == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: z\r\n\r\n"
    )
    assert trailing == b"\x81\x00"


def test_an_upgrade_that_is_answered_plainly_keeps_the_connection():
    core = core_with(UPGRADE + GET)
    events(core)
    core.send_response(200, [], end=True)
    assert core.keeps_alive
    core.next_request()
    assert events(core)[0].path == b"/"


@pytest.mark.parametrize(
    "head",
    [
        GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tls/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_any_other_upgrade_is_ignored(head):
    core = core_with(head)
    request, end = events(core)
    assert not request.wants_websocket
    assert isinstance(end, RequestEnded)
    with pytest.raises(LocalProtocolError):
        core.switch_protocol([])
    assert core.send_response(200, [], end=True).startswith(b"HTTP/1.1 200 OK")


def test_a_refusal_closes_and_nothing_behind_it_is_read():
    core = core_with(b"BAD\r\n" + GET)
    assert isinstance(events(core)[-1], ConnectionFailed)
    assert core.refuse(400, [(b"server", b"engine")], "no\n") == (
        b"HTTP/1.1 400 Bad Request\r\nserver: engine\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 3\r\nconnection: close\r\n\r\nno\n"
    )
    core.receive_data(GET)
    assert events(core) == []
    assert not core.keeps_alive
