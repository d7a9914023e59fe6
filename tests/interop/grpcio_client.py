"""A stock grpcio client, run as a program: `grpcio_client.py sync|aio TARGET`; prints one JSON object.

Expects the service of `test_grpcio.py`. Each entry holds what one case saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest

Result = dict[str, Any]
METADATA = (("x-a", "1"), ("x-a", "2"), ("x-bin", b"\x00\xff"))
LIMIT = 20  # seconds, of calls that should not take any time


def methods(channel: Any) -> tuple[Any, Any, Any, Any]:
    """What a generated stub consists of."""
    return (
        channel.unary_unary("/greet.Greeter/SayHello", HelloRequest.SerializeToString, HelloReply.FromString),
        channel.unary_stream(
            "/greet.Greeter/StreamHellos", StreamHellosRequest.SerializeToString, HelloReply.FromString
        ),
        channel.stream_unary("/greet.Greeter/CollectNames", HelloRequest.SerializeToString, HelloReply.FromString),
        channel.stream_stream("/greet.Greeter/Chat", HelloRequest.SerializeToString, HelloReply.FromString),
    )


def plain(metadata: Any) -> list[list[str]]:
    """Metadata as JSON can hold it."""
    return [[key, value.hex() if isinstance(value, bytes) else value] for key, value in metadata or ()]


def failure(error: Any) -> Result:
    return {
        "code": error.code().name,
        "details": error.details(),
        "initial": plain(error.initial_metadata()),
        "trailing": plain(error.trailing_metadata()),
    }


def names(*each: str) -> Iterator[HelloRequest]:
    for name in each:
        yield HelloRequest(name=name)


async def anames(*each: str) -> AsyncIterator[HelloRequest]:
    for name in each:
        yield HelloRequest(name=name)


def run_sync(target: str) -> dict[str, Result]:
    results: dict[str, Result] = {}
    with grpc.insecure_channel(target) as channel:
        say, stream, collect, chat = methods(channel)
        reply, call = say.with_call(HelloRequest(name="Ada"), timeout=LIMIT, metadata=METADATA)
        results["unary"] = {
            "reply": reply.message,
            "initial": plain(call.initial_metadata()),
            "trailing": plain(call.trailing_metadata()),
        }
        results["server_stream"] = {
            "replies": [each.message for each in stream(StreamHellosRequest(name="Ada", count=3), timeout=LIMIT)]
        }
        results["client_stream"] = {"reply": collect(names("Ada", "Bob"), timeout=LIMIT).message}
        results["bidi"] = {"replies": [each.message for each in chat(names("Ada", "Bob"), timeout=LIMIT)]}
        for case, timeout in (("abort", LIMIT), ("raise", LIMIT), ("hang", 0.2)):
            try:
                say(HelloRequest(name=case), timeout=timeout)
            except grpc.RpcError as error:
                results[case] = failure(error)
        try:
            list(stream(StreamHellosRequest(name="abort", count=2), timeout=LIMIT))
        except grpc.RpcError as error:
            results["stream_abort"] = failure(error)
        try:
            channel.unary_unary("/greet.Greeter/Nope")(b"", timeout=LIMIT)
        except grpc.RpcError as error:
            results["unknown"] = failure(error)
        results["large"] = {"size": len(say(HelloRequest(name="x" * 3_000_000), timeout=LIMIT).message)}
        try:
            say(HelloRequest(name="x" * 5_000_000), timeout=LIMIT)
        except grpc.RpcError as error:
            results["too_large"] = failure(error)
        results["cancel"] = cancel_sync(chat)
    return results


def cancel_sync(chat: Any) -> Result:
    done = threading.Event()

    def requests() -> Iterator[HelloRequest]:
        yield HelloRequest(name="hang")
        done.wait(LIMIT)

    call = chat(requests(), timeout=LIMIT)
    first = next(call).message
    call.cancel()
    done.set()
    try:
        next(call)
    except grpc.RpcError as error:
        return {"first": first, **failure(error)}
    return {"first": first}


async def run_aio(target: str) -> dict[str, Result]:
    results: dict[str, Result] = {}
    async with grpc.aio.insecure_channel(target) as channel:
        say, stream, collect, chat = methods(channel)
        call = say(HelloRequest(name="Ada"), timeout=LIMIT, metadata=METADATA)
        results["unary"] = {
            "reply": (await call).message,
            "initial": plain(await call.initial_metadata()),
            "trailing": plain(await call.trailing_metadata()),
        }
        replies = stream(StreamHellosRequest(name="Ada", count=3), timeout=LIMIT)
        results["server_stream"] = {"replies": [each.message async for each in replies]}
        results["client_stream"] = {"reply": (await collect(anames("Ada", "Bob"), timeout=LIMIT)).message}
        results["bidi"] = {"replies": [each.message async for each in chat(anames("Ada", "Bob"), timeout=LIMIT)]}
        for case, timeout in (("abort", LIMIT), ("raise", LIMIT), ("hang", 0.2)):
            try:
                await say(HelloRequest(name=case), timeout=timeout)
            except grpc.RpcError as error:
                results[case] = failure(error)
        try:
            async for _ in stream(StreamHellosRequest(name="abort", count=2), timeout=LIMIT):
                pass
        except grpc.RpcError as error:
            results["stream_abort"] = failure(error)
        try:
            await channel.unary_unary("/greet.Greeter/Nope")(b"", timeout=LIMIT)
        except grpc.RpcError as error:
            results["unknown"] = failure(error)
        results["large"] = {"size": len((await say(HelloRequest(name="x" * 3_000_000), timeout=LIMIT)).message)}
        try:
            await say(HelloRequest(name="x" * 5_000_000), timeout=LIMIT)
        except grpc.RpcError as error:
            results["too_large"] = failure(error)
        results["side_by_side"] = {
            "replies": [
                reply.message
                for reply in await asyncio.gather(
                    *(say(HelloRequest(name=str(index)), timeout=LIMIT) for index in range(300))
                )
            ]
        }
        talk = chat(timeout=LIMIT)
        await talk.write(HelloRequest(name="hang"))
        first = (await talk.read()).message
        talk.cancel()
        results["cancel"] = {"first": first, "code": (await talk.code()).name}
    return results


if __name__ == "__main__":
    _, mode, target = sys.argv
    print(json.dumps(run_sync(target) if mode == "sync" else asyncio.run(run_aio(target))))
