"""A client that speaks frames and nothing else, for what real clients refuse to send."""

from __future__ import annotations

import socket
from typing import Self

from tests.wire.websocket.client_frames import KEY

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: {extensions}\r\n\r\n"
)


class RawWebSocket:
    """An open WebSocket on a blocking socket."""

    def __init__(self, port: int, path: str, extensions: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(UPGRADE.format(path=path, extensions=extensions).encode())
        assert b"101" in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, first: int, payload: bytes) -> None:
        """A frame of at most 125 bytes, by the first byte of its header."""
        masked = bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(bytes((first, 0x80 | len(payload))) + KEY + masked)

    def receive(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame, of at most 125 bytes."""
        first, length = self._file.read(2)
        assert length < 126
        return first, self._file.read(length)

    def send_raw(self, data: bytes) -> None:
        """Any bytes."""
        self._socket.sendall(data)

    def receive_any(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame, of any size."""
        first, length = self._file.read(2)
        if length > 125:
            length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
        return first, self._file.read(length)
