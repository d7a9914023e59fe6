"""The commands: `serve`, `routes`, `proto generate`, and the ways to `call` and `hub …`."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

import engine
from engine.cli import hub, welcome
from engine.cli.allocator import keep_freed_memory
from engine.cli.settings import build_config, setting_options
from engine.cli.target import DEMO, load_app
from engine.observe import log
from engine.server import Server, run_until_signal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.routing import RouteInfo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(engine.__version__, prog_name="engine")
def cli() -> None:
    """HTTP/1.1, HTTP/2, WebSocket, gRPC and SignalR on one port."""


@cli.command()
@click.argument("target", default=DEMO)
@setting_options
@click.option("--log-level", type=click.Choice(log.LEVELS), default="info", show_default=True, help="Least level.")
@click.option("--log-format", type=click.Choice(log.FORMATS), default="text", show_default=True, help="Its lines.")
@click.option("--access-log/--no-access-log", default=False, help="Log a line for each request.")
def serve(
    target: str, log_level: str, log_format: str, access_log: bool, overrides: tuple[str, ...], **flags: Any
) -> int:
    """Serve TARGET, written module:attribute, or the built-in demo.

    Ctrl-C and SIGTERM stop it gracefully, a second one at once.
    """
    log.configure(log_level, log_format, access=access_log)
    app = load_app(target)
    config = build_config(app.config, flags, overrides)

    def started(server: Server) -> None:
        # What is imported and built by now lives as long as the process: a full collection would walk all of
        # it again and again, 20 ms for each, while every connection waits.
        gc.collect()
        gc.freeze()
        urls = welcome.urls(server.addresses, server.tls_addresses, tls=config.tls is not None)
        click.echo("\n".join(welcome.lines(target, urls, app.routes(), server.protocol_addresses)))  # echo flushes

    keep_freed_memory()
    return trio.run(partial(run_until_signal, app, config, on_started=started))


@cli.command()
@click.argument("target", default=DEMO)
def routes(target: str) -> None:
    """List what TARGET would serve."""
    click.echo("\n".join(_table(load_app(target).routes())))


def _table(infos: Iterable[RouteInfo]) -> list[str]:
    rows = [("KIND", "METHODS", "PATH", "HANDLER", "")]
    rows += [(info.kind, ",".join(info.methods) or "-", info.path, info.name, info.detail) for info in infos]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@cli.command(name="call", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def call(arguments: tuple[str, ...]) -> int:
    """Call a gRPC method, or list and describe a server's services."""
    from engine.cli.call import call as command  # protobuf's JSON and the client: only here

    result = command.main(list(arguments), prog_name="python -m engine call", standalone_mode=False)
    return result if isinstance(result, int) else 0


cli.add_command(hub.hub)


@cli.group()
def proto() -> None:
    """Work with .proto files."""


@proto.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", default=".", metavar="DIR", type=click.Path(path_type=Path), help="Where to write [.]")
@click.option("-I", "--include", multiple=True, metavar="DIR", type=click.Path(path_type=Path), help="For imports.")
@click.option("--absolute-imports", is_flag=True, help="Let generated modules import each other as protoc writes it.")
def generate(paths: tuple[Path, ...], out: Path, include: tuple[Path, ...], absolute_imports: bool) -> None:
    """Generate messages and typed services from PATHS: .proto files, or directories of them.

    Without PATHS, inside this project: all generated code that is kept in its tree.
    """
    from engine.grpc.codegen.generate import generate as generate_from  # an extra: only here
    from engine.grpc.codegen.generate import regenerate

    if paths:
        imports = "absolute" if absolute_imports else "relative"
        written = generate_from(paths, out, include=include, imports=imports)
    else:
        written = regenerate(Path.cwd())
    for path in written:
        click.echo(path)
