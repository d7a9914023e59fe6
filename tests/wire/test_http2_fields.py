"""Which field lists are well-formed messages, rule by rule of RFC 9113 section 8."""

from __future__ import annotations

import pytest

from engine.errors import RemoteProtocolError
from engine.wire.http2_fields import request_fields, response_fields, trailer_fields

BASE = {b":method": b"GET", b":scheme": b"http", b":path": b"/", b":authority": b"a"}


def request(*regular, connect=False, **pseudo):
    changed = dict(BASE) | {b":" + name.encode(): value for name, value in pseudo.items()}
    fields = [(name, value) for name, value in changed.items() if value is not None]
    return request_fields((*fields, *regular), extended_connect=connect)


@pytest.mark.parametrize(
    ("regular", "pseudo"),
    [
        ([(b"X", b"y")], {}),
        ([(b"", b"y")], {}),
        ([(b"a b", b"y")], {}),
        ([(b"a:", b"y")], {}),
        ([(b"\xe9", b"y")], {}),
        ([(b"a", b"x\r\ny")], {}),
        ([(b"a", b"x\0")], {}),
        ([(b"a", b" x")], {}),
        ([(b"a", b"x\t")], {}),
        ([(b"connection", b"close")], {}),
        ([(b"keep-alive", b"1")], {}),
        ([(b"proxy-connection", b"x")], {}),
        ([(b"transfer-encoding", b"chunked")], {}),
        ([(b"upgrade", b"h2c")], {}),
        ([(b"te", b"gzip")], {}),
        ([(b"te", b"trailers, gzip")], {}),
        ([(b"content-length", b"-1")], {}),
        ([(b"content-length", b"1, 1")], {}),
        ([(b"content-length", b"+1")], {}),
        ([(b"content-length", b"9" * 5000)], {}),
        ([(b"content-length", b"1"), (b"content-length", b"2")], {}),
        ([(b"host", b"b")], {}),
        ([(b"host", b"a"), (b"host", b"a")], {}),
        ([(b":path", b"/")], {}),
        ([(b"a", b"b"), (b":protocol", b"x")], {}),
        ([], {"status": b"200"}),
        ([], {"unknown": b"x"}),
        ([], {"method": None}),
        ([], {"method": b""}),
        ([], {"method": b"G T"}),
        ([], {"scheme": None}),
        ([], {"scheme": b""}),
        ([], {"scheme": b"ht tp"}),
        ([], {"path": None}),
        ([], {"path": b""}),
        ([], {"path": b"*"}),
        ([], {"path": b"a"}),
        ([], {"path": b"/ a"}),
        ([], {"path": b"/\x7f"}),
        ([], {"authority": b"user@a"}),
        ([], {"authority": b"a b"}),
        ([], {"protocol": b"websocket"}),
        ([], {"method": b"CONNECT"}),
        ([], {"method": b"CONNECT", "scheme": None, "path": None, "authority": None}),
        ([], {"method": b"CONNECT", "protocol": b"websocket"}),
    ],
)
def test_a_malformed_request_is_refused(regular, pseudo):
    with pytest.raises(RemoteProtocolError):
        request(*regular, **pseudo)


GRPC = (b"content-type", b"application/grpc+proto")


def test_grpc_may_have_spaces_around_values_as_c_core_sends_them():
    assert request((b"x-a", b" v "), GRPC).headers == ((b"x-a", b" v "), GRPC)
    head = ((b":status", b"200"), GRPC, (b"x-a", b"v "))
    assert response_fields(head)[1] == head[1:]
    trailers = ((b"grpc-status", b"10"), (b"grpc-message", b" spaced "))
    assert trailer_fields(trailers) == trailers
    for value in (b" x\0", b"\nx", b"x\r"):
        with pytest.raises(RemoteProtocolError):
            request((b"x-a", value), GRPC)
    with pytest.raises(RemoteProtocolError):
        trailer_fields(((b"x-a", b" v"),))


def test_a_pseudo_field_may_not_occur_twice():
    with pytest.raises(RemoteProtocolError):
        request_fields(((b":method", b"GET"), *BASE.items()), extended_connect=False)


def test_a_request_is_taken_apart():
    head = request((b"te", b"trailers"), (b"content-length", b"3"), (b"content-length", b"3"), path=b"/x?y")
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"http", b"a", b"/x?y")
    assert head.content_length == 3
    assert head.protocol is None
    assert head.headers == ((b"te", b"trailers"), (b"content-length", b"3"), (b"content-length", b"3"))


def test_host_stands_in_for_authority_and_may_repeat_it():
    assert request((b"host", b"b:80"), authority=None).authority == b"b:80"
    assert request((b"host", b"A")).authority == b"a"
    assert request(authority=None).authority == b""


@pytest.mark.parametrize(
    "kind", [b"application/grpc", b"application/grpc+proto", b"Application/gRPC;x", b"application/grpc "]
)
def test_a_grpc_call_is_known_by_its_content_type(kind):
    assert request((b"content-type", kind), (b"x-a", b" b")).headers[1] == (b"x-a", b" b")
    assert request((b"host", b"b"), (b"content-type", kind)).authority == b"a"  # gRFC A41: dropped


@pytest.mark.parametrize("kind", [b"application/grpc-web", b"application/grpcfoo", b"text/plain"])
def test_only_grpc_is_judged_so(kind):
    with pytest.raises(RemoteProtocolError):
        request((b"content-type", kind), (b"x-a", b" b"))
    with pytest.raises(RemoteProtocolError):
        request((b"content-type", kind), (b"host", b"b"))
    with pytest.raises(RemoteProtocolError):
        trailer_fields(((b"x-a", b" b"),))


def test_not_even_a_grpc_call_has_two_hosts():
    with pytest.raises(RemoteProtocolError):
        request(GRPC, (b"host", b"b"), (b"host", b"b"))


def test_cookies_are_joined():
    assert request((b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d")).headers == (
        (b"x", b"y"),
        (b"cookie", b"a=b; c=d"),
    )


def test_connect_is_accepted_plain_and_extended():
    plain = request(method=b"CONNECT", scheme=None, path=None)
    assert (plain.path, plain.scheme) == (b"", b"")
    extended = request(method=b"CONNECT", protocol=b"websocket", connect=True)
    assert extended.protocol == b"websocket"
    with pytest.raises(RemoteProtocolError):
        request(method=b"CONNECT", protocol=b"websocket", path=None, connect=True)


def test_options_may_ask_for_the_server():
    assert request(method=b"OPTIONS", path=b"*").path == b"*"


def test_two_requests_without_regular_fields_share_no_field_list():
    assert request().headers == request().headers == ()
    assert request().headers is not request().headers


@pytest.mark.parametrize("fields", [(), ((b"a", b"b"),), ((b":status", b"20"),), ((b":status", b"200"),) * 2])
def test_a_malformed_response_is_refused(fields):
    with pytest.raises(RemoteProtocolError):
        response_fields(fields)


def test_a_response_is_taken_apart():
    assert response_fields(((b":status", b"204"), (b"content-length", b"0"))) == (204, ((b"content-length", b"0"),), 0)


def test_trailers_have_no_pseudo_fields():
    assert trailer_fields(((b"grpc-status", b"0"),)) == ((b"grpc-status", b"0"),)
    with pytest.raises(RemoteProtocolError):
        trailer_fields(((b":status", b"200"),))
