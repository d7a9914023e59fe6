"""The hub that test programs of other implementations call, at all its mounts, and three plain HTTP routes.

Wire names are the methods' names in PascalCase. All mounts share one registry of counters, records
and events; each has connections, groups and users of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import trio

from engine import App, Hub, Request, Response, authorize, hub_method
from engine.errors import ConnectionClosed, HubError, LimitExceeded
from engine.signalr.auth import User, bearer_token
from engine.transport.exchange import RequestHead
from engine.wire.signalr.negotiate import query_value

BASE = "/conformance"
MOUNTS: dict[str, dict[str, Any]] = {
    "": {},
    "-big": {"max_message_size": 8 * 1024 * 1024},
    "-fast": {
        "keep_alive_interval": 1,
        "client_timeout": 2,
        "handshake_timeout": 2,
        "long_poll_timeout": 2,
        "disconnect_timeout": 3,
    },
    "-detailed": {"detailed_errors": True},
    "-parallel": {"parallel_invocations": 4},
    "-nows": {"transports": ("ServerSentEvents", "LongPolling")},
    "-auth": {
        "require_user": True,
        "close_on_authentication_expiration": True,
        "authentication_refresh": True,
    },
}
Int = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class T(msgspec.Struct):
    Id: int
    Name: str | None
    Score: float
    Tags: list[str]
    When: datetime
    Blob: bytes
    Child: T | None


class Registry:
    """What all mounts count, record and wait for."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, int] = defaultdict(int)
        self.records: defaultdict[str, list[Any]] = defaultdict(list)
        self.events: defaultdict[str, list[str]] = defaultdict(list)
        self._gates: dict[str, trio.Event] = {}

    def gate(self, key: str) -> trio.Event:
        return self._gates.setdefault(key, trio.Event())


registry = Registry()


class ArithmeticException(Exception):  # detailed errors show the names of types
    """A generic error."""


class InvalidOperationException(Exception):
    """Another."""


class Unserialisable:
    """No protocol can encode it."""


def is_admin(context: Any) -> bool:
    return context.user is not None and context.user.claims.get("role") == "admin"


class SimpleCalls(Hub):
    def echo(self, x: Any) -> Any:
        return x

    def echo_three(self, a: Any, b: Any, c: Any) -> list[Any]:
        return [a, b, c]

    async def add(self, a: Int, b: Int) -> int:
        return a + b

    def concat(self, a: str, b: str) -> str:
        return a + b

    def no_args(self) -> str:
        return "ok"

    def return_null(self) -> None:
        return None

    async def do_nothing(self) -> None:
        pass

    def return_large(self, n: Int) -> str:
        return "x" * n

    def utf8_length(self, s: str) -> int:
        return len(s.encode())

    def reverse_bytes(self, b: bytes) -> bytes:
        return b[::-1]

    def add_days(self, d: datetime, n: Int) -> datetime:
        return d + timedelta(days=n)

    async def echo_typed(self, x: T) -> T:
        return x

    async def delay(self, ms: Int) -> int:
        await trio.sleep(ms / 1000)
        return ms

    async def block(self, key: str) -> str:
        await registry.gate(key).wait()
        return key

    def release(self, key: str) -> None:
        registry.gate(key).set()

    @hub_method(name="RenamedMethod")
    async def other_name(self) -> str:
        return "renamed"

    async def long_running(self, key: str, ms: Int) -> str:
        try:
            await trio.sleep(ms / 1000)
        except trio.Cancelled:
            registry.counters[f"cancelled:{key}"] += 1
            raise
        return "done"

    def throw_hub_error(self, m: str) -> None:
        raise HubError(m)

    async def throw_error(self, m: str) -> None:
        raise ArithmeticException(m)

    def return_unserialisable(self) -> Any:
        return Unserialisable()

    @authorize(is_admin)
    def admin_only(self) -> str:
        return "secret"


class Streams(Hub):
    async def stream_counter(self, n: Int, delay_ms: Int) -> AsyncIterator[int]:
        for number in range(n):
            if delay_ms:
                await trio.sleep(delay_ms / 1000)
            yield number

    async def stream_empty(self) -> AsyncIterator[int]:
        return
        yield

    async def stream_throw(self, n: Int, m: str) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise HubError(m)

    async def stream_throw_generic(self, n: Int, m: str) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise ArithmeticException(m)

    async def stream_forever(self, key: str, delay_ms: Int) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                await trio.sleep(delay_ms / 1000)
                yield number
                number += 1
        finally:
            registry.counters[f"cancelled:{key}"] += 1

    async def stream_objects(self, n: Int) -> AsyncIterator[dict[str, Any]]:
        for number in range(n):
            yield {"Index": number, "Label": f"item-{number}"}

    async def upload_sum(self, s: AsyncIterator[Int]) -> int:
        return sum([item async for item in s])

    async def upload_concat(self, s: AsyncIterator[str]) -> str:
        return "".join([item async for item in s])

    async def upload_two(self, a: AsyncIterator[Int], s: str, b: AsyncIterator[str]) -> list[Any]:
        return [sum([item async for item in a]), s, "".join([item async for item in b])]

    async def upload_with_args(self, p: str, s: AsyncIterator[str], q: str) -> str:
        return p + "".join([item async for item in s]) + q

    async def upload_take(self, s: AsyncIterator[Int], n: Int) -> int:
        total = 0
        while n > 0:
            total += await anext(s)
            n -= 1
        return total

    async def upload_hold(self, s: AsyncIterator[Int], key: str) -> int:
        await registry.gate(key).wait()
        return sum([item async for item in s])

    async def upload_watch(self, s: AsyncIterator[Any], key: str) -> int:
        count = 0
        try:
            async for _ in s:
                count += 1
        except (HubError, ConnectionClosed, trio.Cancelled):
            registry.counters[f"uploaderror:{key}"] = 1
            raise
        return count

    async def echo_stream(self, s: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in s:
            yield item


class Sending(Hub):
    async def send_to_caller(self, method: str, arg: Any) -> None:
        await self.clients.caller.send(method, arg)

    async def send_to_all(self, method: str, arg: Any) -> None:
        await self.clients.all.send(method, arg)

    async def send_to_others(self, method: str, arg: Any) -> None:
        await self.clients.others.send(method, arg)

    async def send_to_all_except(self, ids: list[str], method: str, arg: Any) -> None:
        await self.clients.all_except(ids).send(method, arg)

    async def send_to_client(self, id: str, method: str, arg: Any) -> None:
        await self.clients.client(id).send(method, arg)

    async def send_to_clients(self, ids: list[str], method: str, arg: Any) -> None:
        await self.clients.clients(ids).send(method, arg)

    async def send_to_group(self, g: str, method: str, arg: Any) -> None:
        await self.clients.group(g).send(method, arg)

    async def send_to_groups(self, gs: list[str], method: str, arg: Any) -> None:
        await self.clients.groups(gs).send(method, arg)

    async def send_to_group_except(self, g: str, ids: list[str], method: str, arg: Any) -> None:
        await self.clients.group_except(g, ids).send(method, arg)

    async def send_to_others_in_group(self, g: str, method: str, arg: Any) -> None:
        await self.clients.others_in_group(g).send(method, arg)

    async def send_to_user(self, u: str, method: str, arg: Any) -> None:
        await self.clients.user(u).send(method, arg)

    async def send_to_users(self, us: list[str], method: str, arg: Any) -> None:
        await self.clients.users(us).send(method, arg)

    async def send_many(self, method: str, n: Int) -> None:
        for number in range(n):
            await self.clients.caller.send(method, number)

    async def send_args(self, method: str, args: list[Any]) -> None:
        await self.clients.caller.send(method, *args)

    async def start_sequence(self, method: str, n: Int, interval_ms: Int) -> None:
        self.context.start_soon(send_sequence, self.clients.caller.send, method, n, interval_ms / 1000)

    async def start_bulk(self, method: str, n: Int, size: Int) -> None:
        counter = f"bulk:{self.context.connection_id}"
        self.context.start_soon(send_bulk, self.clients.caller.send, method, n, "y" * size, counter)

    async def join_group(self, g: str) -> None:
        await self.groups.add(self.context.connection_id, g)

    async def leave_group(self, g: str) -> None:
        await self.groups.remove(self.context.connection_id, g)

    async def add_to_group(self, id: str, g: str) -> None:
        await self.groups.add(id, g)

    async def remove_from_group(self, id: str, g: str) -> None:
        await self.groups.remove(id, g)

    async def invoke_caller(self, method: str, arg: Any) -> Any:
        return await self.clients.caller.invoke(method, arg)

    async def invoke_client(self, id: str, method: str, arg: Any) -> Any:
        return await self.clients.client(id).invoke(method, arg)

    async def invoke_caller_timeout(self, method: str, arg: Any, ms: Int) -> Any:
        with trio.move_on_after(ms / 1000):
            return await self.clients.caller.invoke(method, arg)
        return "timeout"


async def send_sequence(send: Callable[..., Awaitable[None]], method: str, n: int, interval: float) -> None:
    for number in range(n):
        await send(method, number)
        await trio.sleep(interval)


async def send_bulk(send: Callable[..., Awaitable[None]], method: str, n: int, payload: str, counter: str) -> None:
    for number in range(n):
        await send(method, number, payload)
        registry.counters[counter] = number + 1


class ConformanceHub(SimpleCalls, Streams, Sending):
    async def on_connected(self) -> None:
        query, own_id = self.context.request.query, self.context.connection_id
        registry.events[own_id].append("connected")
        if query_value(query, "welcome") == "1":
            await self.clients.caller.send("Welcome", own_id)
        if query_value(query, "reject") == "1":
            raise InvalidOperationException("rejected")

    async def on_disconnected(self, error: Exception | None) -> None:
        how = "clean" if error is None else "error"
        registry.events[self.context.connection_id].append(f"disconnected:{how}")

    def get_connection_id(self) -> str:
        return self.context.connection_id

    def get_user_id(self) -> str | None:
        return self.context.user_id

    def get_claim(self, name: str) -> Any:
        return None if self.context.user is None else self.context.user.claims.get(name)

    def get_transport(self) -> str:
        return self.context.transport

    def get_header(self, name: str) -> str | None:
        value = self.context.request.header(name.lower().encode("utf-8", "replace"))
        return None if value is None else value.decode("utf-8", "replace")

    def get_query(self, name: str) -> str | None:
        return query_value(self.context.request.query, name.lower())

    def set_item(self, k: str, v: Any) -> None:
        self.context.items[k] = v

    def get_item(self, k: str) -> Any:
        return self.context.items.get(k)

    def abort(self) -> None:
        self.context.abort()

    def get_counter(self, k: str) -> int:
        return registry.counters[k]

    def increment(self, k: str) -> None:
        registry.counters[k] += 1

    def record(self, k: str, v: Any) -> None:
        registry.records[k].append(v)

    def get_record(self, k: str) -> list[Any]:
        return registry.records[k]

    def get_events(self, connection_id: str) -> list[str]:
        return registry.events.get(connection_id, [])


def identify(head: RequestHead) -> User | None:
    """`user:NAME[;role=R][;exp=UNIX_MILLISECONDS]`: neither secret nor signed."""
    name, *attributes = (bearer_token(head) or "").split(";")
    if not name.startswith("user:"):
        return None
    claims = dict(each.split("=", 1) for each in attributes if "=" in each)
    expires = claims.pop("exp", None)
    if expires is not None and not expires.isdecimal():
        return None
    return User(name.removeprefix("user:"), claims, None if expires is None else int(expires) / 1000)


def mount_all(app: App) -> None:
    """The hub at all its paths, and the plain HTTP endpoints, which send from outside of it."""
    for suffix, options in MOUNTS.items():
        app.hub(BASE + suffix, authenticator=identify, **options)(ConformanceHub)

    @app.route(f"{BASE}-broadcast", methods=("POST",))
    async def broadcast(request: Request) -> Response:
        query = request.query
        await app.hub_context(BASE).clients.all.send(query["method"], query["arg"])
        return Response("ok\n")

    @app.route(f"{BASE}-clientresult", methods=("POST",))
    async def client_result(request: Request) -> Response:
        query = request.query
        client = app.hub_context(BASE).clients.client(query["id"])
        try:
            value = await client.invoke(query["method"], query["arg"])
        except (HubError, ConnectionClosed, LimitExceeded) as error:
            return Response(str(error), 502)
        return Response(json.dumps(value), content_type="application/json")

    @app.route(f"{BASE}-ready")
    async def ready(request: Request) -> Response:
        return Response("ready\n")
