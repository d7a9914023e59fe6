"""An HTTP/1.1 client that shows responses as they are, for requests that overlap."""

from __future__ import annotations

from dataclasses import dataclass

import trio
import trio.testing

from tests.signalr.hub_peer import HubHost


@dataclass
class Answer:
    """A whole response, or the head of one that goes on."""

    status: int
    fields: dict[str, str]
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()


class Request:
    """One request on a connection of its own."""

    def __init__(self, stream: trio.StapledStream, raw: bytes) -> None:
        self._stream = stream
        self._raw = raw
        self._data = b""
        self._chunked = b""
        self.ended = False

    async def send(self) -> None:
        await self._stream.send_all(self._raw)

    async def answer(self) -> Answer:
        """The whole response; then the connection is closed."""
        answer = await self.head()
        if self._raw.startswith(b"HEAD ") or answer.status == 204:
            pass
        elif answer.fields.get("transfer-encoding") == "chunked":
            while not self.ended:
                answer.body += await self.chunk()
        else:
            length = int(answer.fields.get("content-length", "0"))
            while len(self._data) < length:
                await self._receive()
            answer.body = self._data[:length]
        await self._stream.aclose()
        return answer

    async def head(self) -> Answer:
        await self._receive_head()
        head, self._data = self._data.split(b"\r\n\r\n", 1)
        status, *lines = head.decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs})

    async def chunk(self) -> bytes:
        """The next chunk of the body; b"" at its end."""
        while b"\r\n" not in self._data:
            await self._receive()
        size, rest = self._data.split(b"\r\n", 1)
        while len(rest) < int(size, 16) + 2:
            await self._receive()
            size, rest = self._data.split(b"\r\n", 1)
        self._data = rest[int(size, 16) + 2 :]
        self.ended = int(size, 16) == 0
        return rest[: int(size, 16)]

    async def event(self) -> str | None:
        """The next event of a stream of events, as it travels; None at its end."""
        while b"\r\n\r\n" not in self._chunked and self._chunked != b":\r\n":
            chunk = await self.chunk()
            if self.ended:
                return None
            self._chunked += chunk
        if self._chunked.startswith(b":\r\n"):
            event, self._chunked = b":\r\n", self._chunked[3:]
        else:
            event, self._chunked = self._chunked.split(b"\r\n\r\n", 1)
            event += b"\r\n\r\n"
        return event.decode()

    async def is_answered(self) -> bool:
        """At least a head is there, once everything that can run has run. It is left where it is."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_head)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return b"\r\n\r\n" in self._data

    async def _receive_head(self) -> None:
        while b"\r\n\r\n" not in self._data:
            await self._receive()

    async def _receive(self) -> None:
        data = await self._stream.receive_some()
        assert data, f"the connection ended behind {self._data!r}"
        self._data += data

    async def cut(self) -> None:
        await self._stream.aclose()


class HttpPeer:
    """Requests to one host."""

    def __init__(self, host: HubHost) -> None:
        self.host = host

    async def start(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> Request:
        """Send a request; do not wait for the answer."""
        content = body.encode() if isinstance(body, str) else body
        lines = [f"{method} {target} HTTP/1.1", "Host: x"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if content or method == "POST":
            lines.append(f"Content-Length: {len(content)}")
        raw = "\r\n".join([*lines, "", ""]).encode() + content
        return await self.start_raw(raw)

    async def start_raw(self, raw: bytes) -> Request:
        request = Request(await self.host.open_stream(), raw)
        await request.send()
        return request

    async def ask(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> Answer:
        """Send a request and wait for the whole answer."""
        return await (await self.start(method, target, body, **headers)).answer()
