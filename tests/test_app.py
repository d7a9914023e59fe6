"""The app: registration mistakes at start-up, the exchange barrier, and what is logged of an exchange."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from io import StringIO

import pytest
import trio

from engine import App, Config, Hub, Request, Response, WebSocket
from engine.demo.greeter import Greeter
from engine.errors import ConfigError, ConnectionClosed, HTTPError
from engine.observe import log
from engine.transport.exchange import CancelReason, RequestHead
from tests.websocket.fake_exchange import FakeExchange


class PlainExchange(FakeExchange):
    """An exchange of plain HTTP without a body."""

    def __init__(self, path: str = "/", method: str = "GET", query: str = "", config: Config | None = None) -> None:
        super().__init__(config)
        self.body_sent = 0
        self.head = RequestHead(
            method, path, query, "http", "localhost", [], "1.1", None, path.encode("utf-8", "surrogatepass")
        )

    def write(self, data, *, end=False) -> None:
        super().write(data, end=end)
        self.body_sent += len(data)

    @property
    def bytes_sent(self) -> int:
        return self.body_sent


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def errors(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "engine.error")
    return caplog


@pytest.fixture
def accesses(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "engine.access")
    return caplog


# -- registration --------------------------------------------------------------


async def test_a_handler_is_called_with_the_parameters_of_its_path(app):
    @app.route("/greet/{name}")
    async def greet(request: Request) -> Response:
        return Response(f"hello {request.params['name']}")

    exchange = PlainExchange("/greet/ada")
    await app.handle(exchange)
    assert exchange.status == 200
    assert exchange.take_sent() == b"hello ada"
    assert exchange.response_ended


async def test_what_is_not_served_is_answered_404(app):
    exchange = PlainExchange("/nope")
    await app.handle(exchange)
    assert exchange.status == 404
    assert exchange.response_ended
    assert not exchange.was_reset


async def test_options_of_the_whole_server_is_answered_204(app):
    exchange = PlainExchange("*", "OPTIONS")
    await app.handle(exchange)
    assert exchange.status == 204


def test_methods_are_taken_in_any_case_and_checked(app):
    app.route("/x", methods=["get", "Post"])(Response)
    assert app.routes()[0].methods == ("GET", "POST")
    for wrong in ("GET", [], [""], ["G ET"], ["GET\r\n"]):
        with pytest.raises(ConfigError):
            app.route("/y", methods=wrong)


def test_a_collision_is_an_error_of_the_start_and_names_both(app):
    @app.route("/x")
    async def first(request: Request) -> Response:
        return Response()

    with pytest.raises(ConfigError, match=r"second.*collides with.*first"):

        @app.route("/x")
        async def second(request: Request) -> Response:
            return Response()


def test_a_service_that_is_added_twice_is_refused(app):
    app.add_service(Greeter())
    with pytest.raises(ConfigError, match=r"greet\.Greeter"):
        app.add_service(Greeter())


def test_a_hub_must_be_a_class_and_its_options_must_exist(app):
    with pytest.raises(ConfigError, match="derives from engine"):
        app.hub("/a")(lambda: None)
    with pytest.raises(ConfigError, match="no such option"):
        app.hub("/a", no_such_option=1)(Hub)


def test_the_listing_names_everything(app):
    app.add_service(Greeter())

    @app.hub("/hub")
    class Chat(Hub):
        pass

    @app.websocket("/ws", subprotocols=("a", "b"))
    async def talk(ws: WebSocket) -> None:
        pass

    listed = [(info.kind, info.path, info.detail) for info in app.routes()]
    assert ("grpc", "/greet.Greeter/SayHello", "unary") in listed
    assert ("grpc", "/greet.Greeter/Chat", "bidirectional") in listed
    assert listed[-2:] == [("hub", "/hub", ""), ("websocket", "/ws", "a b")]


async def test_each_start_makes_a_lifespan_of_its_own():
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        seen.append("up")
        app.state.things = 1
        yield
        seen.append("down")

    app = App(lifespan=lifespan)
    for _ in range(2):
        async with app.lifespan():
            assert app.state.things == 1
    assert seen == ["up", "down", "up", "down"]
    async with App().lifespan():
        pass


# -- the barrier ---------------------------------------------------------------


async def test_a_handlers_error_is_answered_logged_once_and_goes_no_further(app, errors):
    @app.route("/")
    async def broken(request: Request) -> Response:
        raise ValueError("secret detail")

    exchange = PlainExchange()
    await app.handle(exchange)
    assert exchange.status == 500
    assert b"secret" not in exchange.take_sent()
    (record,) = errors.records
    assert record.name == "engine.error"
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ValueError
    assert record.fields["connection"] == 1
    assert record.fields["exchange"] == 1
    assert record.fields["error"] == "ValueError"
    assert record.fields["kind"] == "http"


async def test_detailed_errors_show_the_text(app, errors):
    @app.route("/")
    async def broken(request: Request) -> Response:
        raise ValueError("the detail")

    exchange = PlainExchange(config=Config(detailed_errors=True))
    await app.handle(exchange)
    assert b"the detail" in exchange.take_sent()


async def test_an_error_that_means_an_answer_is_not_logged(app, errors):
    @app.route("/")
    async def teapot(request: Request) -> Response:
        raise HTTPError(418, "short and stout")

    exchange = PlainExchange()
    await app.handle(exchange)
    assert exchange.status == 418
    assert errors.records == []


async def test_a_group_of_errors_from_a_handlers_nursery_is_one_error(app, errors):
    async def fail(name: str) -> None:
        raise ValueError(name)

    @app.route("/")
    async def broken(request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")
        raise AssertionError("unreachable")

    exchange = PlainExchange()
    await app.handle(exchange)
    assert exchange.status == 500
    (record,) = errors.records
    assert record.fields["error"] == "ExceptionGroup"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_lost_peer_is_no_error_worth_a_traceback(app, errors, wrapped):
    @app.route("/")
    async def interrupted(request: Request) -> Response:
        lost = ConnectionClosed(1006, "reset by peer")
        raise ExceptionGroup("nursery", [lost]) if wrapped else lost

    await app.handle(PlainExchange())
    (record,) = errors.records
    assert record.levelno == logging.DEBUG
    assert record.exc_info is None


async def test_cancellation_passes_through_and_is_logged_as_an_access(app, errors, accesses, autojump_clock):
    @app.route("/")
    async def slow(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    exchange = PlainExchange()
    with exchange.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.handle, exchange)
            await trio.testing.wait_all_tasks_blocked()
            exchange.cancel(CancelReason.PEER_RESET)
    assert exchange.scope.cancelled_caught
    (record,) = accesses.records
    assert record.name == "engine.access"
    assert record.fields["status"] == 0


async def test_ids_of_exchanges_count_up(app, errors):
    @app.route("/")
    async def broken(request: Request) -> Response:
        raise ValueError

    for _ in range(3):
        await app.handle(PlainExchange())
    assert [record.fields["exchange"] for record in errors.records] == [1, 2, 3]


# -- the access log --------------------------------------------------------------


async def test_the_access_log_tells_all_but_the_query(app, accesses):
    @app.route("/page")
    async def page(request: Request) -> Response:
        return Response("12345")

    await app.handle(PlainExchange("/page", query="access_token=secret"))
    (record,) = accesses.records
    seconds = record.fields.pop("seconds")
    assert 0 <= seconds < 5
    assert record.fields == {
        "connection": 1,
        "exchange": 1,
        "peer": "memory",
        "kind": "http",
        "method": "GET",
        "path": "/page",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
    }
    assert "secret" not in record.getMessage()


async def test_nothing_is_made_for_an_access_log_that_nobody_reads(app, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "engine.access")
    monkeypatch.setattr("engine.app._log_access", None)
    await app.handle(PlainExchange())


async def test_a_path_cannot_forge_a_line_of_the_log(app, accesses):
    await app.handle(PlainExchange("/x\r\n2026-11-24 ERROR forged\x1b[31m\udc80"))
    message = accesses.records[0].getMessage()
    assert "\n" not in message
    assert "\x1b" not in message
    assert "forged" in message
    message.encode()


# -- the formats -----------------------------------------------------------------


@pytest.fixture
def output():
    """What `configure` sets is undone afterwards."""
    loggers = [logging.getLogger(name) for name in ("engine", "engine.access")]
    before = [(each, list(each.handlers), each.level, each.propagate) for each in loggers]
    yield StringIO()
    for each, handlers, level, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def test_text_lines_are_one_line_each(output):
    log.configure("info", "text", stream=output)
    logging.getLogger("engine.server").info("listening on %s", "x")
    logging.getLogger("engine.server").debug("not shown")
    (line,) = output.getvalue().splitlines()
    assert line.endswith("Z INFO engine.server: listening on x")


def test_json_lines_carry_the_fields_and_the_traceback(output):
    log.configure("debug", "json", stream=output)
    try:
        raise ValueError("broken \udc80")
    except ValueError:
        logging.getLogger("engine.error").exception("it\nfailed", extra={"fields": {"connection": 7, "level": "x"}})
    (line,) = output.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["connection"] == 7
    assert entry["level"] == "error"
    assert entry["message"] == "it\nfailed"
    assert "ValueError" in entry["traceback"]


def test_the_access_log_can_be_left_out(output):
    log.configure("info", "text", access=False, stream=output)
    assert not logging.getLogger("engine.access").isEnabledFor(logging.INFO)
    assert logging.getLogger("engine.error").isEnabledFor(logging.INFO)
    log.configure("info", "text", stream=output)
    assert logging.getLogger("engine.access").isEnabledFor(logging.INFO)


def test_an_unknown_level_or_format_is_refused(output):
    with pytest.raises(ConfigError, match="debug, info"):
        log.configure("loud", "text", stream=output)
    with pytest.raises(ConfigError, match="text, json"):
        log.configure("info", "xml", stream=output)
