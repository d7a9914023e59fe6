"""Responses as a test sees them.

Owns: `TestResponse`, which is whole, and `TestStream`, which is still coming. Never talks to a server by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.http.request import Headers
from engine.transport.http1_client import StreamedResponse

__all__ = ["TestResponse", "TestStream"]


@dataclass(frozen=True, slots=True)
class TestResponse:
    """A whole response.

    Attributes:
        status: such as 200.
        headers: by name, whatever its case.
        body: the bytes.
    """

    __test__ = False

    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self, type: Any = Any) -> Any:
        """The body as JSON, converted to `type`.

        Raises:
            msgspec.DecodeError: it is not JSON, or not of that type.
        """
        return msgspec.json.decode(self.body, type=type)


class TestStream:
    """A response whose head has come; iterate over its body."""

    __test__ = False

    def __init__(self, response: StreamedResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = Headers(response.headers)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.receive_some():
            yield data

    async def read(self) -> bytes:
        """All that is left of the body.

        Raises:
            ConnectionClosed: the connection broke.
            RemoteProtocolError: what came is no HTTP, or more than 32 MiB.
        """
        return await self._response.read()
