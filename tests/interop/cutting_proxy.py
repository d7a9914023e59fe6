"""A TCP proxy that cuts all its connections when it is told to, without a word to either side."""

from __future__ import annotations

import trio


class CuttingProxy:
    """Forwards to one address.

    Attributes:
        address: where it listens, once `run` has started.
        cuts: connections that were cut.
    """

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._open: set[trio.CancelScope] = set()
        self.address = ""
        self.cuts = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, listeners)
            task_status.started()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for scope in list(self._open):
            self.cuts += 1
            scope.cancel()

    async def _serve(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                server = await trio.open_tcp_stream(*self._target)
                async with client, server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, client, server)
                    await self._forward(server, client)
                    nursery.cancel_scope.cancel()
            finally:
                self._open.discard(scope)

    async def _forward(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
