"""The hub that the golden transcripts were recorded from, as far as it is needed yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import trio

from engine.errors import HubError
from engine.signalr.hub import Hub, hub_method

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class Record(msgspec.Struct):
    Id: int
    Name: str | None
    Score: float
    Tags: list[str]
    When: datetime
    Blob: bytes
    Child: Record | None


class ArithmeticException(Exception):  # detailed errors show the type's name
    pass


class InvalidOperationException(Exception):
    pass


class Unserialisable:
    pass


class ContractHub(Hub):
    async def on_connected(self) -> None:
        query = self.context.request.query
        if "welcome=1" in query:
            await self.clients.caller.send("Welcome", self.context.connection_id)
        if "reject=1" in query:
            raise InvalidOperationException("rejected")

    async def echo(self, x: Any) -> Any:
        return x

    def echo_three(self, a: Any, b: Any, c: Any) -> list[Any]:
        return [a, b, c]

    async def add(self, a: Int32, b: Int32) -> int:
        return a + b

    def no_args(self) -> str:
        return "ok"

    async def return_null(self) -> None:
        return None

    async def do_nothing(self) -> None:
        pass

    async def reverse_bytes(self, b: bytes) -> bytes:
        return b[::-1]

    async def add_days(self, d: datetime, n: int) -> datetime:
        return d + timedelta(days=n)

    async def echo_typed(self, x: Record) -> Record:
        return x

    @hub_method(name="RenamedMethod")
    async def other_name(self) -> str:
        return "renamed"

    async def throw_hub_error(self, m: str) -> None:
        raise HubError(m)

    async def throw_error(self, m: str) -> None:
        raise ArithmeticException(m)

    async def return_unserialisable(self) -> Any:
        return Unserialisable()

    async def stream_counter(self, n: Int32, delay_ms: Int32) -> AsyncIterator[int]:
        for number in range(n):
            await trio.sleep(delay_ms / 1000)
            yield number

    async def stream_empty(self) -> AsyncIterator[int]:
        return
        yield

    async def stream_throw(self, n: int, m: str) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise HubError(m)

    async def stream_throw_generic(self, n: int, m: str) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise ArithmeticException(m)

    async def stream_forever(self, key: str, delay_ms: int) -> AsyncIterator[int]:
        number = 0
        while True:
            await trio.sleep(delay_ms / 1000)
            yield number
            number += 1

    async def send_to_caller(self, method: str, arg: Any) -> None:
        await self.clients.caller.send(method, arg)

    async def send_args(self, method: str, args: list[Any]) -> None:
        await self.clients.caller.send(method, *args)

    async def invoke_caller(self, method: str, arg: Any) -> Any:
        return await self.clients.caller.invoke(method, arg)

    async def invoke_client(self, connection_id: str, method: str, arg: Any) -> Any:
        return await self.clients.client(connection_id).invoke(method, arg)

    async def invoke_caller_timeout(self, method: str, arg: Any, ms: int) -> Any:
        with trio.move_on_after(ms / 1000):
            return await self.clients.caller.invoke(method, arg)
        return "timeout"

    async def abort(self) -> None:
        self.context.abort()
