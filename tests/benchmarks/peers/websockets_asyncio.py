"""Echo on websockets' asyncio server. Prints its port, or the path of the Unix socket that is its argument.

With the argument `tls` it speaks TLS, with a certificate made for the moment.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from websockets.asyncio.server import ServerConnection, serve, unix_serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def throw_away_context() -> ssl.SSLContext:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def main(argument: str) -> None:
    if argument.startswith("/"):
        async with unix_serve(echo, argument):
            print(argument, flush=True)
            await asyncio.Event().wait()
    async with serve(echo, "127.0.0.1", 0, ssl=throw_away_context() if argument == "tls" else None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.Event().wait()


asyncio.run(main("".join(sys.argv[1:])))
