"""`engine call`: gRPC from the command line, without generated code.

Owns: the way from arguments to requests and from replies to JSON lines. Descriptors are
`engine.grpc.schema`'s. Exits with 0, or 64 and the number of the gRPC status, as grpcurl does.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import trio
from google.protobuf import json_format
from google.protobuf.descriptor import ServiceDescriptor

from engine.cli.interrupt import run_until_interrupted
from engine.config import ClientTlsConfig
from engine.errors import ConfigError, ConnectionClosed, RpcError
from engine.grpc.call import ClientMethod
from engine.grpc.channel import Channel
from engine.grpc.client import BidiMethod, BidiStream, ClientStreamMethod, ServerStreamMethod, UnaryMethod
from engine.grpc.methods import MethodKind
from engine.grpc.schema import FileSchema, ReflectionSchema, Schema, describe
from engine.wire.grpc.compression import ENCODINGS

__all__ = ["call"]

_DECODER = json.JSONDecoder()
_STDIN = 0
_READ_SIZE = 64 * 1024
EXIT_STATUS = 64  # plus the status: grpcurl's


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("target")
@click.argument("method")
@click.argument("data", required=False)
@click.option("-H", "--header", "headers", multiple=True, metavar="KEY:VALUE", help="Metadata; -bin values in hex.")
@click.option(
    "--proto", "protos", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="No reflection."
)
@click.option("-I", "--include", multiple=True, metavar="DIR", type=click.Path(path_type=Path), help="For --proto.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of the call.")
@click.option("--tls", is_flag=True, help="Encrypt, and check the server by the system's authorities.")
@click.option("--tls-ca", metavar="FILE", help="Encrypt, and check the server by these authorities.")
@click.option("--tls-no-verify", is_flag=True, help="Encrypt, and check nothing.")
@click.option("--tls-cert", metavar="FILE", help="Our certificate, for servers that ask for one.")
@click.option("--tls-key", metavar="FILE", help="Its key, if that is not in the same file.")
@click.option("--authority", metavar="NAME", help="The server's name, instead of TARGET's.")
@click.option("--compression", type=click.Choice(ENCODINGS[1:]), help="Of requests.")
@click.option("-v", "--verbose", is_flag=True, help="Show metadata, on standard error.")
def call(
    target: str,
    method: str,
    data: str | None,
    headers: tuple[str, ...],
    protos: tuple[Path, ...],
    include: tuple[Path, ...],
    timeout: float | None,
    tls: bool,
    tls_ca: str | None,
    tls_no_verify: bool,
    tls_cert: str | None,
    tls_key: str | None,
    authority: str | None,
    compression: str | None,
    verbose: bool,
) -> int:
    """Call METHOD (pkg.Service/Method) of TARGET with DATA, or look at what there is.

    DATA is JSON; several values one after the other for a method that takes a stream; - reads standard input,
    value by value as they come.
    Instead of METHOD, `list` shows services, `list SERVICE` its methods, and `describe SYMBOL` any definition.
    """
    settings = None
    if tls or tls_no_verify or tls_ca is not None or tls_cert is not None:
        settings = ClientTlsConfig(ca_file=tls_ca, verify=not tls_no_verify, cert_file=tls_cert, key_file=tls_key)
    options: dict[str, Any] = {"timeout": timeout, "metadata": _metadata(headers), "compression": compression}

    async def run() -> None:
        async with Channel(target, tls=settings, authority=authority) as channel:
            schema: Schema = FileSchema(protos, include) if protos else ReflectionSchema(channel)
            # Reflection is bounded as the call is.
            with trio.fail_after(timeout) if timeout is not None else nullcontext():
                if method == "list":
                    await _list(schema, data)
                    return
                if method == "describe":
                    click.echo(await _describe(schema, data))
                    return
                found, request_type = await schema.method(method)
            async with aclosing(_requests(data, request_type, schema)) as requests:
                await _call(channel, found, request_type, requests, options, verbose=verbose)

    try:
        run_until_interrupted(run)
    except RpcError as error:
        click.echo(f"engine: error: {error}", err=True)
        for cause in error.causes:
            click.echo(f"  {cause}", err=True)
        return EXIT_STATUS + error.code
    except trio.TooSlowError:
        raise ConfigError("--timeout", timeout, "the server did not describe itself in time; give more") from None
    return 0


async def _list(schema: Schema, service: str | None) -> None:
    if service is None:
        click.echo("\n".join(await schema.services()))
        return
    found = await schema.find(service) if service in await schema.services() else None
    if not isinstance(found, ServiceDescriptor):
        known = ", ".join(await schema.services())
        raise ConfigError("SERVICE", service, f"there is no such service; there are {known}")
    click.echo("\n".join(f"{service}/{each.name}" for each in found.methods))


async def _describe(schema: Schema, symbol: str | None) -> str:
    names = [symbol.strip("/").replace("/", ".")] if symbol else await schema.services()
    return "\n".join([describe(await schema.find(name)) for name in names])


def _metadata(headers: Sequence[str]) -> list[tuple[str, str | bytes]]:
    metadata: list[tuple[str, str | bytes]] = []
    for header in headers:
        key, colon, value = header.partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon or not key:
            raise ConfigError("--header", header, "write KEY:VALUE, such as 'authorization: Bearer x'")
        try:
            metadata.append((key, bytes.fromhex(value) if key.endswith("-bin") else value))
        except ValueError:
            raise ConfigError("--header", header, "give the value of a -bin key in hex") from None
    return metadata


async def _requests(data: str | None, request_type: type[Any], schema: Schema) -> AsyncGenerator[Any, None]:
    """The messages of DATA; those of standard input as they come."""
    name = request_type.DESCRIPTOR.full_name
    try:
        async for value in _stdin_values() if data == "-" else _json_values(data or ""):
            yield json_format.ParseDict(value, request_type(), descriptor_pool=schema.pool)
    except (ValueError, json_format.ParseError) as error:
        raise ConfigError("DATA", None, f"give JSON for {name} ({error}); see `describe {name}`") from None


async def _json_values(text: str) -> AsyncGenerator[Any, None]:
    await trio.lowlevel.checkpoint()
    text = text.strip()
    while text:
        value, end = _DECODER.raw_decode(text)
        yield value
        text = text[end:].lstrip().removeprefix(",").lstrip()


async def _stdin_values() -> AsyncGenerator[Any, None]:
    """A value is read until it is whole, over several lines if need be."""
    text = ""
    async for line in _stdin_lines():
        text = (text + line).lstrip().removeprefix(",").lstrip()
        while text:
            try:
                value, end = _DECODER.raw_decode(text)
            except ValueError:
                break  # perhaps the next line completes it
            yield value
            text = text[end:].lstrip().removeprefix(",").lstrip()
    if text:
        _DECODER.raw_decode(text)  # raises


async def _stdin_lines() -> AsyncGenerator[str, None]:
    """Not by `sys.stdin`: a thread that reads from it when the program ends holds its lock, and Python aborts."""
    decoder, kept = codecs.getincrementaldecoder("utf-8")(), ""
    while data := await trio.to_thread.run_sync(os.read, _STDIN, _READ_SIZE, abandon_on_cancel=True):
        *lines, kept = (kept + decoder.decode(data)).split("\n")
        for line in lines:
            yield line + "\n"
    yield kept


async def _call(
    channel: Channel,
    method: ClientMethod,
    request_type: type[Any],
    requests: AsyncGenerator[Any, None],
    options: dict[str, Any],
    *,
    verbose: bool,
) -> None:
    kind = method.kind
    if kind is MethodKind.UNARY:
        one = await _only(method, requests, request_type)
        reply = await UnaryMethod[Any, Any](channel, method).with_call(one, **options)
        _show("initial", reply.initial_metadata, verbose=verbose)
        _print(reply.message)
        _show("trailing", reply.trailing_metadata, verbose=verbose)
    elif kind is MethodKind.CLIENT_STREAMING:
        async with ClientStreamMethod[Any, Any](channel, method)(**options) as upload:
            with suppress(ConnectionClosed):  # it has replied already
                async for request in requests:
                    await upload.send(request)
            _print(await upload.reply())
            _show("trailing", upload.trailing_metadata, verbose=verbose)
    elif kind is MethodKind.SERVER_STREAMING:
        one = await _only(method, requests, request_type)
        async with ServerStreamMethod[Any, Any](channel, method)(one, **options) as download:
            async for message in download:
                _print(message)
            _show("trailing", download.trailing_metadata, verbose=verbose)
    else:
        await _talk(BidiMethod[Any, Any](channel, method)(**options), requests, verbose=verbose)


async def _talk(stream: BidiStream[Any, Any], requests: AsyncGenerator[Any, None], *, verbose: bool) -> None:
    """Both directions at once; the status is that of the receiving one."""

    async def send() -> None:
        with suppress(RpcError, ConnectionClosed):  # whoever receives gets it, too
            async for request in requests:
                await stream.send(request)
            await stream.done_writing()

    failure: RpcError | None = None
    async with stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                async for message in stream:
                    _print(message)
            except RpcError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        _show("trailing", stream.trailing_metadata, verbose=verbose)


async def _only(method: ClientMethod, requests: AsyncGenerator[Any, None], request_type: type[Any]) -> Any:
    """The request of a method that takes one; without DATA it is an empty message."""
    found = [request async for request in requests]
    if len(found) > 1:
        raise ConfigError("DATA", None, f"{method.path} takes one request, not {len(found)}")
    return found[0] if found else request_type()


def _print(message: Any) -> None:
    click.echo(json_format.MessageToJson(message, indent=None, ensure_ascii=False))


def _show(what: str, metadata: Any, *, verbose: bool) -> None:
    for key, value in metadata if verbose else ():
        click.echo(f"{what} {key}: {value.hex() if isinstance(value, bytes) else value}", err=True)
