"""Templates, what can share a path, and what is refused when the table is built."""

from __future__ import annotations

import dataclasses

import pytest

from engine.errors import ConfigError
from engine.routing import RouteInfo, Router
from engine.transport.exchange import RequestHead


class FakeEndpoint:
    """Stands for an endpoint; remembers what it was made of."""

    def __init__(self, kind: str, handlers=None) -> None:
        self.kind = kind
        self.handlers = handlers

    async def serve(self, exchange, params) -> None:
        raise AssertionError("the router serves nothing")

    def fail(self, exchange, error) -> None:
        raise AssertionError("the router serves nothing")


NOT_FOUND = FakeEndpoint("none")


def head(path: str, method: str = "GET", protocol: str | None = None, content_type: bytes = b"") -> RequestHead:
    headers = [(b"content-type", content_type)] if content_type else []
    return RequestHead(method, path, "", "http", "localhost", headers, "1.1", protocol)


@pytest.fixture
def router() -> Router:
    return Router(lambda handlers: FakeEndpoint("http", handlers), NOT_FOUND)


def add(router: Router, path: str, *methods: str) -> str:
    name = f"{'_'.join(methods) or 'GET'}:{path}"
    router.add_http(path, methods or ("GET",), name, name)
    return name


def handlers_at(router: Router, path: str):
    endpoint, params = router.resolve(head(path))
    return (None if endpoint is NOT_FOUND else endpoint.handlers, dict(params))


def test_a_static_path_matches_itself_only(router):
    name = add(router, "/healthz")
    assert handlers_at(router, "/healthz") == ({"GET": name}, {})
    for other in ("/healthz/", "/health", "/", "/healthz/x", "", "*", "//healthz"):
        assert handlers_at(router, other) == (None, {})


def test_a_parameter_is_one_segment_that_is_not_empty(router):
    name = add(router, "/bytes/{count}")
    assert handlers_at(router, "/bytes/17") == ({"GET": name}, {"count": "17"})
    for other in ("/bytes/", "/bytes", "/bytes/1/2", "/bytes//"):
        assert handlers_at(router, other) == (None, {})


def test_several_parameters_are_matched_in_order(router):
    add(router, "/a/{x}/b/{y}")
    assert handlers_at(router, "/a/1/b/2")[1] == {"x": "1", "y": "2"}


def test_a_rest_parameter_takes_slashes_and_may_be_empty(router):
    add(router, "/files/{rest:path}")
    assert handlers_at(router, "/files/a/b.txt")[1] == {"rest": "a/b.txt"}
    assert handlers_at(router, "/files/")[1] == {"rest": ""}
    assert handlers_at(router, "/files")[0] is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_most_literal_template_wins_whatever_the_order(router, order):
    templates = ["/u/me", "/u/{name}", "/{all:path}"]
    for index in order:
        add(router, templates[index])
    assert handlers_at(router, "/u/me") == ({"GET": "GET:/u/me"}, {})
    assert handlers_at(router, "/u/you") == ({"GET": "GET:/u/{name}"}, {"name": "you"})
    assert handlers_at(router, "/u/you/more") == ({"GET": "GET:/{all:path}"}, {"all": "u/you/more"})


def test_a_literal_that_leads_nowhere_is_given_up_for_a_parameter(router):
    add(router, "/a/b/c")
    add(router, "/a/b/{x}/d")
    add(router, "/{x}/b/e/f")
    assert handlers_at(router, "/a/b/c/d")[1] == {"x": "c"}
    assert handlers_at(router, "/a/b/e/f")[1] == {"x": "a"}


def test_methods_of_one_path_are_gathered_in_one_endpoint(router):
    get, post = add(router, "/x", "GET"), add(router, "/x", "POST", "PUT")
    assert handlers_at(router, "/x")[0] == {"GET": get, "POST": post, "PUT": post}


def test_a_handshake_goes_to_the_websocket_and_a_post_to_http(router):
    websocket = FakeEndpoint("websocket")
    router.add_websocket("/echo", websocket, "echo")
    add(router, "/echo", "POST")
    assert router.resolve(head("/echo", protocol="websocket"))[0] is websocket
    assert router.resolve(head("/echo", "CONNECT", protocol="websocket"))[0] is websocket
    assert router.resolve(head("/echo", "POST"))[0].kind == "http"
    assert router.resolve(head("/echo", "DELETE"))[0].kind == "http"  # 405, with Allow
    assert router.resolve(head("/echo", "GET"))[0] is websocket  # 426


def test_a_get_route_beside_a_websocket_keeps_its_gets(router):
    websocket = FakeEndpoint("websocket")
    add(router, "/page")
    router.add_websocket("/page", websocket, "live")
    assert router.resolve(head("/page"))[0].kind == "http"
    assert router.resolve(head("/page", "HEAD"))[0].kind == "http"
    assert router.resolve(head("/page", protocol="websocket"))[0] is websocket


def test_a_handshake_for_a_path_without_a_websocket_is_a_plain_request(router):
    add(router, "/page")
    assert router.resolve(head("/page", protocol="websocket"))[0].kind == "http"
    assert router.resolve(head("/nowhere", protocol="websocket"))[0] is NOT_FOUND


def test_a_websocket_can_have_parameters(router):
    websocket = FakeEndpoint("websocket")
    router.add_websocket("/rooms/{room}", websocket, "room")
    assert router.resolve(head("/rooms/7", protocol="websocket")) == (websocket, {"room": "7"})


def test_a_hub_takes_its_path_and_negotiate(router):
    hub = FakeEndpoint("hub")
    router.add_hub("/chathub", hub, "Chat")
    assert router.resolve(head("/chathub", protocol="websocket"))[0] is hub
    assert router.resolve(head("/chathub", "DELETE"))[0] is hub
    assert router.resolve(head("/chathub/negotiate", "POST"))[0] is hub


def test_grpc_takes_its_methods_and_every_unknown_one(router):
    grpc = FakeEndpoint("grpc")
    router.add_grpc(grpc, [("/greet.Greeter/SayHello", "Greeter.SayHello", "unary")])
    add(router, "/{all:path}")
    kind = b"application/grpc+proto"
    assert router.resolve(head("/greet.Greeter/SayHello", "POST", content_type=kind))[0] is grpc
    assert router.resolve(head("/greet.Greeter/SayHello", "POST"))[0] is grpc  # 415 is gRPC's to say
    assert router.resolve(head("/greet.Greeter/Nope", "POST", content_type=kind))[0] is grpc
    assert router.resolve(head("/greet.Greeter/Nope", "POST", content_type=b"text/plain"))[0].kind == "http"


def test_unknown_methods_of_grpc_web_and_connect_are_grpcs_too_and_their_preflights(router):
    grpc = FakeEndpoint("grpc")
    router.add_grpc(grpc, [("/greet.Greeter/SayHello", "Greeter.SayHello", "unary")])
    for kind in (b"application/grpc-web-text", b"application/connect+json"):
        assert router.resolve(head("/greet.Greeter/Nope", "POST", content_type=kind))[0] is grpc
    assert router.resolve(head("/greet.Greeter/Nope", "POST", content_type=b"application/json"))[0] is NOT_FOUND

    def asked(method: str, *headers: tuple[bytes, bytes]) -> object:
        plain = head("/greet.Greeter/Nope", method)
        return router.resolve(dataclasses.replace(plain, headers=headers, _index={}))[0]

    assert asked("POST", (b"connect-protocol-version", b"1"), (b"content-type", b"application/json")) is grpc
    assert asked("OPTIONS", (b"access-control-request-headers", b"content-type,X-Grpc-Web")) is grpc
    assert asked("OPTIONS", (b"access-control-request-headers", b"connect-protocol-version")) is grpc
    assert asked("OPTIONS", (b"access-control-request-headers", b"content-type")) is NOT_FOUND


def test_without_services_a_grpc_call_is_not_found(router):
    assert router.resolve(head("/a.A/M", "POST", content_type=b"application/grpc"))[0] is NOT_FOUND


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (lambda r: add(r, "/x"), lambda r: r.add_http("/x", ("GET",), "h", "other"), ["GET:/x", "other"]),
        (
            lambda r: r.add_websocket("/x", FakeEndpoint("websocket"), "one"),
            lambda r: r.add_websocket("/x", FakeEndpoint("websocket"), "two"),
            ["one", "two"],
        ),
        (
            lambda r: r.add_websocket("/x", FakeEndpoint("websocket"), "one"),
            lambda r: r.add_hub("/x", FakeEndpoint("hub"), "Chat"),
            ["one", "Chat"],
        ),
        (
            lambda r: r.add_hub("/x", FakeEndpoint("hub"), "Chat"),
            lambda r: r.add_http("/x/negotiate", ("POST",), "h", "other"),
            ["Chat", "other"],
        ),
        (
            lambda r: add(r, "/a.A/M", "POST"),
            lambda r: r.add_grpc(FakeEndpoint("grpc"), [("/a.A/M", "A.M", "")]),
            ["POST:/a.A/M", "A.M"],
        ),
        (
            lambda r: r.add_grpc(FakeEndpoint("grpc"), [("/a.A/M", "A.M", "")]),
            lambda r: r.add_grpc(FakeEndpoint("grpc"), [("/a.A/M", "Again.M", "")]),
            ["A.M", "Again.M"],
        ),
        (
            lambda r: add(r, "/a/{x}"),
            lambda r: r.add_http("/a/{y}", ("POST",), "h", "other"),
            ["GET:/a/{x}", "other"],
        ),
    ],
)
def test_a_collision_names_both(router, first, second, named):
    first(router)
    with pytest.raises(ConfigError) as caught:
        second(router)
    for name in named:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "",
        "x",
        "{x}",
        "/{}",
        "/{x",
        "/x}",
        "/a{x}",
        "/{x}.txt",
        "/{x:int}",
        "/{x:path}/y",
        "/{x}/{x}",
        "/{1x}",
        "/{x y}",
    ],
)
def test_what_is_no_template_is_refused(router, template):
    with pytest.raises(ConfigError):
        add(router, template)


def test_the_listing_keeps_the_order_in_which_routes_were_added(router):
    router.add_hub("/hub", FakeEndpoint("hub"), "Chat")
    add(router, "/", "GET", "POST")
    router.add_websocket("/ws", FakeEndpoint("websocket"), "echo", "a b")
    router.add_grpc(FakeEndpoint("grpc"), [("/a.A/M", "A.M", "unary")])
    assert router.routes() == [
        RouteInfo("hub", "/hub", (), "Chat"),
        RouteInfo("http", "/", ("GET", "POST"), "GET_POST:/"),
        RouteInfo("websocket", "/ws", (), "echo", "a b"),
        RouteInfo("grpc", "/a.A/M", (), "A.M", "unary"),
    ]
