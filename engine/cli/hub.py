"""The commands of `hub`: `describe` what hubs offer, `call` a method, `listen` to calls.

Owns: their output and exit codes: 0, or 1 where a hub answered with an error, did not answer in time, or
went away.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click
import msgspec
import trio

from engine.cli.interrupt import run_until_interrupted
from engine.cli.target import DEMO, load_app
from engine.config import ClientTlsConfig
from engine.errors import ConnectionClosed, EngineError, HandshakeRejected, HubError, LimitExceeded, ProtocolError
from engine.signalr.client.connection import HubConnection, HubConnectionState
from engine.signalr.schema import describe as describe_hubs
from engine.signalr.typescript import typescript as to_typescript
from engine.transport.tls_client import client_context
from engine.wire.signalr.json import encode_value
from engine.wire.signalr.negotiate import TransportKind

__all__ = ["hub"]

EXIT_FAILED = 1

_NEGATIVE = re.compile(r"-\.?\d")
_GUARD = "\0"  # in front of what is no option; nobody can type it
_STREAMING = "The client attempted to invoke the streaming '"  # our servers' and ASP.NET Core's

_Command = TypeVar("_Command", bound=Callable[..., Any])
_EXPECTED = (HubError, ConnectionClosed, HandshakeRejected, LimitExceeded, ProtocolError)


class _WithNumbers(click.Command):
    """A command whose arguments may be negative numbers: click takes them for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        guarded = [
            _GUARD + each if _NEGATIVE.match(each) and not _takes_value(before) else each
            for before, each in zip(["", *args], args, strict=False)
        ]
        return super().parse_args(ctx, guarded)


def _takes_value(argument: str) -> bool:
    return argument.startswith("--") and argument not in ("--", "--stream", "--tls-no-verify")


@click.group()
def hub() -> None:
    """Look at SignalR hubs, and talk to them."""


@hub.command()
@click.argument("target", default=DEMO)
@click.option("--typescript", is_flag=True, help="Declarations for @microsoft/signalr instead of JSON.")
def describe(target: str, typescript: bool) -> None:
    """Print the methods, streams and client calls of TARGET's hubs as JSON."""
    schema = describe_hubs(load_app(target).hubs())
    click.echo(to_typescript(schema) if typescript else json.dumps(schema, indent=2, ensure_ascii=False))


def _connection_options(command: _Command) -> _Command:
    kinds = [each.value for each in TransportKind]
    for option in (
        click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long."),
        click.option("--protocol", type=click.Choice(["json", "messagepack"]), default="json", show_default=True),
        click.option("--transport", "transports", multiple=True, type=click.Choice(kinds), help="Only these."),
        click.option("--token", default=None, help="Sent as a bearer token."),
        click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Sent with every request."),
        click.option("--tls-ca", metavar="FILE", help="Check an https server by these authorities."),
        click.option("--tls-no-verify", is_flag=True, help="Do not check an https server."),
        click.option("--unix", metavar="PATH", help="Connect to a Unix socket, whatever host URL names."),
    ):
        command = option(command)
    return command


@hub.command(cls=_WithNumbers)
@click.argument("url")
@click.argument("method")
@click.argument("arguments", nargs=-1)
@click.option("--stream", is_flag=True, help="The results are a stream. Not needed: it is found out.")
@_connection_options
def call(url: str, method: str, arguments: tuple[str, ...], stream: bool, **options: Any) -> int:
    """Call METHOD of the hub at URL and print its result as JSON; the results of a stream, one a line.

    ARGUMENTS are JSON values; what is no JSON is text.
    """
    values = [_value(each.removeprefix(_GUARD)) for each in arguments]
    timeout = options.pop("timeout")
    # What the hub calls meanwhile has no handler here, and is not meant to have one.
    logging.getLogger("engine.signalr.client.handlers").setLevel(logging.ERROR)

    async def run(connection: HubConnection) -> None:
        if not stream:
            try:
                _print(await connection.invoke(method, *values))
                return
            except HubError as error:
                if not str(error).startswith(_STREAMING):  # then nothing has been run yet
                    raise
        async with connection.stream(method, *values) as items:
            async for item in items:
                _print(item)

    return _run(url, options, timeout, run)


@hub.command()
@click.argument("url")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--count", type=int, default=None, metavar="N", help="Stop after N calls.")
@_connection_options
def listen(url: str, names: tuple[str, ...], count: int | None, **options: Any) -> int:
    """Print each call that the hub at URL makes of the client methods NAMES: the name and its arguments."""
    timeout = options.pop("timeout")

    async def run(connection: HubConnection) -> None:
        left = trio.Event()
        seen = 0

        def received(name: str, *arguments: Any) -> None:
            nonlocal seen
            seen += 1
            if count is None or seen <= count:
                _print([name, *arguments])
            if seen == count:
                left.set()

        for name in names:
            connection.on(name, partial(received, name))
        click.echo(f"listening to {', '.join(names)} at {url}", err=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_lost, connection, left)
            await left.wait()
            nursery.cancel_scope.cancel()
        if connection.close_error is not None:
            raise connection.close_error
        if count is None or seen < count:
            raise ConnectionClosed(1000, "the server closed the connection", clean=True)

    return _run(url, options, timeout, run)


async def _until_lost(connection: HubConnection, lost: trio.Event) -> None:
    await connection.wait_state(HubConnectionState.DISCONNECTED)
    lost.set()


def _run(url: str, options: dict[str, Any], timeout: float | None, use: Callable[[HubConnection], Any]) -> int:
    headers = [_header(each) for each in options["headers"]]
    chosen = options["transports"] or tuple(TransportKind)
    tls = ClientTlsConfig(ca_file=options["tls_ca"], verify=not options["tls_no_verify"])
    connection = HubConnection(
        url,
        protocol=options["protocol"],
        transports=chosen,
        headers=headers,
        access_token=options["token"],
        tls=client_context(tls, ["http/1.1"]),
        unix=options["unix"],
    )

    async def main() -> int:
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            try:
                async with connection:
                    await use(connection)
            except _EXPECTED as error:
                return _fail(error)
            return 0
        return _fail(f"no answer within {timeout:g} s")

    return run_until_interrupted(main)


def _fail(error: EngineError | str) -> int:
    click.echo(f"engine: error: {error}", err=True)
    return EXIT_FAILED


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"write --header NAME:VALUE, not {text!r}")
    return name.strip(), value.strip()


def _print(value: Any) -> None:
    sys.stdout.write(encode_value(value).decode() + "\n")
    sys.stdout.flush()
