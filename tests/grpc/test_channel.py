"""Connections of a channel: choice, back-off, GOAWAY, stream limits, keep-alive; and calls that are repeated."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

from engine.config import ChannelConfig
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.errors import ConfigError
from engine.grpc import CallDetails, Channel, ChannelState, ClientInterceptor, Reply, RpcError, StatusCode, access_token
from engine.grpc.balancing import Backoff
from engine.grpc.resolver import parse_target
from engine.grpc.retry import RetryThrottle, ServiceConfig
from tests.grpc.client_peer import (
    DATA,
    GOAWAY,
    PING,
    RST,
    Network,
    Outcomes,
    ScriptedServer,
    addresses,
    frame,
    hello,
    scripted,
    settings,
)

ADA = HelloRequest(name="Ada")
REFUSED, CANCEL, CALM = 7, 8, 11


def retrying(**policy: object) -> dict[str, Any]:
    made = {
        "maxAttempts": 3,
        "initialBackoff": "1s",
        "maxBackoff": "10s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"methodConfig": [{"name": [{"service": "greet.Greeter"}], "retryPolicy": made | policy}]}


async def answer_all(server: ScriptedServer, text: str = "hi") -> None:
    """Answer until the client closes."""
    try:
        while True:
            stream_id, _ = await server.request()
            await server.answer(stream_id, hello(text))
    except (AssertionError, trio.ClosedResourceError):
        return


# -- connections ---------------------------------------------------------------


async def test_nothing_is_connected_before_the_first_call_and_states_can_be_watched() -> None:
    async with scripted() as (_, network, channel), trio.open_nursery() as nursery:
        assert channel.state is ChannelState.IDLE
        states = [channel.state]

        async def watch() -> None:
            while states[-1] is not ChannelState.READY:
                states.append(await channel.state_changed(states[-1]))

        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert network.dialled == []
        await channel.ready()
        assert network.dialled == ["peer:1"]
    assert states == [ChannelState.IDLE, ChannelState.CONNECTING, ChannelState.READY]
    assert channel.state is ChannelState.SHUTDOWN


async def test_a_connection_is_ready_with_the_servers_settings_and_not_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = ChannelConfig(connect_timeout=5, close_timeout=0.01)
    async with scripted(config=config) as (stub, network, channel):
        network.settings = None
        with pytest.raises(RpcError, match="no connection within 5 s") as caught:
            await stub.say_hello(ADA)
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        assert channel.state is ChannelState.TRANSIENT_FAILURE


async def test_pick_first_takes_the_next_address_and_reports_each_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted(resolver=addresses("a", "b", "c")) as (stub, network, _), trio.open_nursery() as nursery:
        network.refused = {"a:1"}
        nursery.start_soon(stub.say_hello, ADA)
        await answer_once(network)
        assert network.dialled == ["a:1", "b:1"]
        network.refused = {"a:1", "b:1", "c:1"}
    async with scripted(resolver=addresses("a", "b")) as (stub, network, _):
        network.refused = {"a:1", "b:1"}
        with pytest.raises(RpcError) as caught:
            await stub.say_hello(ADA)
        assert [(each.address, each.ended_by) for each in caught.value.causes] == [
            ("a:1", "refused by the test"),
            ("b:1", "refused by the test"),
        ]


async def answer_once(network: Network) -> ScriptedServer:
    server = await network.accept()
    stream_id, _ = await server.request()
    await server.answer(stream_id, hello("hi"))
    return server


async def test_a_slow_address_does_not_hold_up_the_next(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(resolver=addresses("slow", "quick")) as (_, network, channel):
        connect = channel._connect

        async def slow(address: Any) -> trio.abc.Stream:
            if address.host == "slow":
                await trio.sleep(100)
            return await connect(address)

        channel._connect = slow
        await channel.ready()
        assert trio.current_time() == pytest.approx(0.25)
        assert network.dialled == ["quick:1"]


async def test_attempts_to_connect_back_off_and_wait_for_ready_waits(autojump_clock: trio.testing.MockClock) -> None:
    config = ChannelConfig(backoff_jitter=0, close_timeout=0.01)
    async with scripted(config=config) as (stub, network, channel), trio.open_nursery() as nursery:
        network.refused = {"peer:1"}
        outcomes = Outcomes()
        nursery.start_soon(outcomes.run, "waits", lambda: stub.say_hello(ADA, wait_for_ready=True))
        await trio.sleep(1 + 1.6 + 2.56 + 0.5)
        assert len(network.dialled) == 4
        with pytest.raises(RpcError):
            await stub.say_hello(ADA)  # fails at once: the channel is in TRANSIENT_FAILURE
        assert channel.state is ChannelState.TRANSIENT_FAILURE
        network.refused = set()
        await answer_once(network)
        await trio.testing.wait_all_tasks_blocked()
    assert outcomes.results["waits"] == HelloReply(message="hi")


def test_the_delays_are_the_official_ones() -> None:
    backoff = Backoff(ChannelConfig(), Random(1))
    expected = 1.0
    for _ in range(20):
        assert abs(backoff.next() - expected) <= 0.2 * expected
        expected = min(expected * 1.6, 120)
    assert expected == 120
    backoff.reset()
    assert backoff.next() <= 1.2


async def test_round_robin_takes_turns_and_leaves_out_what_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    options: dict[str, Any] = {"load_balancing": "round_robin", "resolver": addresses("a", "b", "c")}
    async with scripted(**options) as (stub, network, channel), trio.open_nursery() as nursery:
        network.refused = {"c:1"}
        channel.connect()
        servers = [await network.accept(), await network.accept()]
        for server in servers:
            nursery.start_soon(answer_all, server)
        await trio.testing.wait_all_tasks_blocked()
        peers = [(await stub.say_hello.with_call(ADA)).peer for _ in range(4)]
        assert sorted(peers) == ["a:1", "a:1", "b:1", "b:1"]
        assert peers[:2] == peers[2:]
        network.refused = {"a:1", "b:1", "c:1"}
        await servers[0].stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len({(await stub.say_hello.with_call(ADA)).peer for _ in range(4)}) == 1
        nursery.cancel_scope.cancel()


async def test_calls_wait_for_a_stream_in_their_order(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted() as (stub, network, channel), trio.open_nursery() as nursery:
        network.settings = ((3, 1),)
        await channel.ready()
        server = await network.accept()
        for index in range(4):
            nursery.start_soon(stub.say_hello, HelloRequest(name=str(index)))
            await trio.testing.wait_all_tasks_blocked()
        for index in range(2):
            stream_id, _ = await server.request()
            assert (await server.next(DATA))[3] == hello(str(index))
            with trio.move_on_after(1):
                await server.request()
                raise AssertionError("a second stream at once")
            await server.answer(stream_id, hello("hi"))
        with pytest.raises(RpcError, match="all streams that the server allows are in use"):
            await stub.say_hello(ADA, timeout=1)
        await server.send(settings((3, 5)))
        first, _ = await server.request()
        assert (await server.next(DATA))[3] == hello("2")
        await server.answer(first, hello("hi"))
        assert (await server.next(DATA))[3] == hello("3")
        await server.answer(first + 2, hello("hi"))


async def test_a_name_that_cannot_be_looked_up_is_unavailable(autojump_clock: trio.testing.MockClock) -> None:
    async with Channel(f"{'x' * 70}.example:1") as channel:
        with pytest.raises(RpcError, match="is no host name") as caught:
            await channel.unary_unary("/a/b")(b"")
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_a_call_names_a_compression_that_there_is() -> None:
    async with scripted() as (stub, network, _):
        with pytest.raises(ConfigError, match="compression = 'lz4'"):
            await stub.say_hello(ADA, compression="lz4")
        assert network.dialled == []


async def test_an_attempt_that_is_given_up_before_it_began_leaves_nothing_open() -> None:
    for passes in range(6):  # cancelled at each step on the way to a connection
        async with scripted() as (_, network, channel), trio.open_nursery() as nursery:
            network.settings = None
            nursery.start_soon(channel.ready)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


# -- GOAWAY ----------------------------------------------------------------------


async def test_goaway_lets_streams_finish_and_sends_later_ones_to_a_new_connection() -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        for name in ("a", "b"):
            nursery.start_soon(outcomes.run, name, lambda name=name: stub.say_hello(HelloRequest(name=name)))
            await trio.testing.wait_all_tasks_blocked()
        old = await network.accept()
        await old.request()
        await old.request()
        await old.go_away(1)
        new = await network.accept()
        stream_id, head = await new.request()
        assert b"grpc-previous-rpc-attempts" not in head
        assert (await new.next(DATA))[3] == hello("b")
        await new.answer(stream_id, hello("from the new one"))
        await old.answer(1, hello("from the old one"))
        await old.next(GOAWAY)  # the client closes it, its last stream has ended
    assert outcomes.results["a"].message == "from the old one"
    assert outcomes.results["b"].message == "from the new one"


async def test_after_a_graceful_goaway_the_next_call_connects_again() -> None:
    async with scripted() as (stub, network, channel), trio.open_nursery() as nursery:
        nursery.start_soon(stub.say_hello, ADA)
        old = await answer_once(network)
        await old.go_away(2**31 - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert channel.state is ChannelState.IDLE
        nursery.start_soon(stub.say_hello, ADA)
        await answer_once(network)


async def test_a_refused_stream_is_repeated_once_unseen() -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        for _ in range(2):
            stream_id, _ = await server.request()
            await server.reset(stream_id, REFUSED)
    error = outcomes.results["call"]
    assert error.code is StatusCode.UNAVAILABLE
    assert [str(cause) for cause in error.causes] == [
        "attempt 1 at peer:1: RST_STREAM REFUSED_STREAM",
        "attempt 2 at peer:1: RST_STREAM REFUSED_STREAM",
    ]


async def test_a_refused_upload_is_sent_again_from_its_begin() -> None:
    async with scripted() as (stub, network, _):  # noqa: SIM117  # the stub is of the first
        async with stub.collect_names() as stream:
            await stream.send(HelloRequest(name="a"))
            server = await network.accept()
            stream_id, _ = await server.request()
            await server.reset(stream_id, REFUSED)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send(HelloRequest(name="b"))
            stream_id, _ = await server.request()
            assert (await server.next(DATA))[2:] == (stream_id, hello("a"))
            assert (await server.next(DATA))[2:] == (stream_id, hello("b"))
            await server.answer(stream_id, hello("a and b"))
            assert (await stream.reply()).message == "a and b"


# -- keep-alive --------------------------------------------------------------------


async def test_a_silent_server_is_pinged_and_given_up(autojump_clock: trio.testing.MockClock) -> None:
    config = ChannelConfig(keepalive_time=30, keepalive_timeout=5, close_timeout=0.01)
    outcomes = Outcomes()
    async with scripted(config=config) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        await server.request()
        _, _, _, payload = await server.next(PING)
        assert trio.current_time() == pytest.approx(30)
        await server.send(frame(PING, 1, 0, payload))
        await server.next(PING)
        assert trio.current_time() == pytest.approx(60)
        await trio.sleep(5.1)
    assert outcomes.results["call"].code is StatusCode.UNAVAILABLE
    assert "no answer to a keep-alive PING in 5 s" in outcomes.results["call"].message


async def test_an_answered_ping_is_followed_by_the_next_however_long_the_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = ChannelConfig(keepalive_time=10, keepalive_timeout=25, keepalive_without_calls=True, close_timeout=0.01)
    async with scripted(config=config) as (_, network, channel):
        channel.connect()
        server = await network.accept()
        for due in (10, 20, 30):
            _, _, _, payload = await server.next(PING)
            assert trio.current_time() == pytest.approx(due)
            await server.send(frame(PING, 1, 0, payload))


async def test_too_many_pings_doubles_the_time_between_them(autojump_clock: trio.testing.MockClock) -> None:
    config = ChannelConfig(keepalive_time=1, close_timeout=0.01)  # raised to 10
    async with scripted(config=config) as (stub, network, _), trio.open_nursery() as nursery:
        outcomes = Outcomes()
        nursery.start_soon(outcomes.run, 1, lambda: stub.say_hello(ADA))
        server = await network.accept()
        await server.request()
        await server.next(PING)
        assert trio.current_time() == pytest.approx(10)
        await server.go_away(1, CALM, b"too_many_pings")
        await server.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert "GOAWAY ENHANCE_YOUR_CALM (too_many_pings)" in outcomes.results[1].causes[0].ended_by
        began = trio.current_time()
        nursery.start_soon(outcomes.run, 2, lambda: stub.say_hello(ADA))
        server = await network.accept()
        await server.request()
        await server.next(PING)
        assert trio.current_time() - began == pytest.approx(20)
        nursery.cancel_scope.cancel()


# -- retries -----------------------------------------------------------------------


async def test_a_policy_repeats_what_failed_with_a_growing_delay(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=retrying()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        times, attempts = [], []
        for _ in range(3):
            stream_id, head = await server.request()
            times.append(trio.current_time())
            attempts.append(head.get(b"grpc-previous-rpc-attempts"))
            await server.refuse(stream_id, 14)
    assert attempts == [None, b"1", b"2"]
    assert 0.8 <= times[1] - times[0] <= 1.2
    assert 1.6 <= times[2] - times[1] <= 2.4
    error = outcomes.results["call"]
    assert (error.code, len(error.causes)) == (StatusCode.UNAVAILABLE, 3)


@pytest.mark.parametrize(("pushback", "delay"), [(b"5000", 5.0), (b"-1", None), (b"soon", None)])
async def test_a_server_may_say_when_or_whether_to_retry(
    pushback: bytes, delay: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=retrying()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.refuse(stream_id, 14, (b"grpc-retry-pushback-ms", pushback))
        if delay is not None:
            stream_id, _ = await server.request()
            assert trio.current_time() == pytest.approx(delay)
            await server.answer(stream_id, hello("late"))
    result = outcomes.results["call"]
    assert result.message == "late" if delay is not None else result.code is StatusCode.UNAVAILABLE


async def test_what_the_server_began_to_answer_is_not_repeated() -> None:
    outcomes = Outcomes()
    async with scripted(service_config=retrying()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.answer(stream_id, trailers=[(b"grpc-status", b"14")])
    assert outcomes.results["call"].code is StatusCode.UNAVAILABLE
    assert len(outcomes.results["call"].causes) == 1


async def test_a_deadline_ends_the_waiting_for_a_retry(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=retrying(initialBackoff="9s")) as (stub, network, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA, timeout=3))
            server = await network.accept()
            stream_id, _ = await server.request()
            await server.refuse(stream_id, 14, (b"grpc-message", b"sick"))
        assert trio.current_time() == pytest.approx(3)
    error = outcomes.results["call"]
    assert error.code is StatusCode.DEADLINE_EXCEEDED
    assert "sick" in error.message


def test_the_budget_of_retries_is_shared_and_refilled_by_successes() -> None:
    throttle = RetryThrottle(4, 0.5)
    assert throttle.failed()
    assert not throttle.failed()
    for _ in range(10):
        throttle.succeeded()
    assert throttle.tokens == 4


def test_a_service_config_is_read_as_the_official_ones_are() -> None:
    config = ServiceConfig.parse(
        '{"loadBalancingConfig": [{"xds": {}}, {"round_robin": {}}], "retryThrottling": {"maxTokens": 10, '
        '"tokenRatio": 0.12345}, "methodConfig": [{"name": [{}], "timeout": "1.5s"}, {"name": [{"service": "a.B", '
        '"method": "C"}], "waitForReady": true, "maxResponseMessageBytes": 10}]}'
    )
    assert config.load_balancing == "round_robin"
    assert config.throttling == (10.0, 0.123)
    assert config.for_method("/a.B/C").wait_for_ready is True
    assert config.for_method("/a.B/C").max_response_size == 10
    assert config.for_method("/a.B/D").timeout == 1.5
    policy = ServiceConfig.parse(retrying(maxAttempts=9)).for_method("/greet.Greeter/SayHello").retry
    assert policy is not None
    assert policy.max_attempts == 5


@pytest.mark.parametrize(
    "bad",
    [
        *("[]", "{", '{"methodConfig": 1}', '{"methodConfig": [{"name": [{}], "timeout": "1"}]}'),
        '{"methodConfig": [{"name": [{}]}, {"name": [{}]}]}',
        retrying(maxAttempts=1),
        retrying(initialBackoff="0s"),
        retrying(backoffMultiplier=0),
        retrying(retryableStatusCodes=[]),
        retrying(retryableStatusCodes=["NOPE"]),
        {"retryThrottling": {"maxTokens": 1001, "tokenRatio": 1}},
        {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}},
    ],
)
def test_a_broken_service_config_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="service_config"):
        ServiceConfig.parse(bad)


# -- who calls, and through what -----------------------------------------------------


async def test_credentials_are_asked_for_each_call_and_kept_from_cleartext() -> None:
    async with scripted(credentials=access_token("secret")) as (stub, network, _):
        with pytest.raises(RpcError, match="not sent over a connection without TLS") as caught:
            await stub.say_hello(ADA)
        assert caught.value.code is StatusCode.UNAUTHENTICATED
        assert network.dialled == []
    options = {"credentials": access_token("secret"), "insecure_credentials": True}
    async with scripted(**options) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(stub.say_hello, ADA)
        server = await network.accept()
        stream_id, head = await server.request()
        assert head[b"authorization"] == b"Bearer secret"
        await server.answer(stream_id, hello("hi"))


async def test_interceptors_see_calls_in_their_order() -> None:
    seen: list[str] = []

    class Tagging(ClientInterceptor):
        def __init__(self, tag: str) -> None:
            self.tag = tag

        async def intercept_unary(self, details: CallDetails, request: Any, proceed: Any) -> Reply[Any]:
            seen.append(f"{self.tag} {details.method.path}")
            reply: Reply[Any] = await proceed(details, HelloRequest(name=request.name + self.tag))
            reply.message.message += self.tag
            return reply

        def intercept_stream(self, details: CallDetails, proceed: Any) -> Any:
            seen.append(f"{self.tag} {details.method.kind.name}")
            return proceed(details)

    async with scripted(interceptors=(Tagging("1"), Tagging("2"))) as (stub, network, _):
        outcomes = Outcomes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
            server = await network.accept()
            stream_id, _ = await server.request()
            assert (await server.next(DATA))[3] == hello("Ada12")
            await server.answer(stream_id, hello("hi"))
        assert outcomes.results["call"].message == "hi21"
        async with stub.chat():
            await server.request()
        await server.next(RST)
    assert seen == ["1 /greet.Greeter/SayHello", "2 /greet.Greeter/SayHello", "1 BIDIRECTIONAL", "2 BIDIRECTIONAL"]


# -- targets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "authority", "host", "found"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1", ["127.0.0.1:80"]),
        ("[::1]:80", "[::1]:80", "::1", ["[::1]:80"]),
        ("::1", "::1", "::1", ["[::1]:443"]),
        ("dns:///127.0.0.1:80", "127.0.0.1:80", "127.0.0.1", ["127.0.0.1:80"]),
        ("dns:127.0.0.1", "127.0.0.1", "127.0.0.1", ["127.0.0.1:443"]),
        ("ipv4:10.0.0.1:80,10.0.0.2:81", "10.0.0.1:80", "10.0.0.1", ["10.0.0.1:80", "10.0.0.2:81"]),
        ("ipv6:[::1]:80", "[::1]:80", "::1", ["[::1]:80"]),
        ("unix:a/b", "localhost", "localhost", ["unix:a/b"]),
        ("unix:///a/b", "localhost", "localhost", ["unix:/a/b"]),
        ("unix-abstract:a", "localhost", "localhost", ["unix-abstract:a"]),
    ],
)
async def test_a_target_says_where_and_whom_to_call(target: str, authority: str, host: str, found: list[str]) -> None:
    parsed = parse_target(target)
    assert (parsed.authority, parsed.host) == (authority, host)
    assert [str(address) for address in await parsed.resolve()] == found


@pytest.mark.parametrize(
    "target", ["", ":80", "a:b", "a:99999", "[::1", "http://a:80", "ipv4:name:80", "unix:", "dns://ns/a:80"]
)
def test_a_target_that_means_nothing_is_refused(target: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(target)
