"""A protocol of your own, in callbacks: a key-value store that speaks lines.

    python -m engine serve examples.line_protocol:app --port 8000
    printf 'set a 1\\nget a\\nquit\\n' | nc 127.0.0.1 7000

The callbacks run in the driver, with no task switch: an answer leaves in the same breath in which
its request came.
"""

from __future__ import annotations

from engine import App, StreamProtocol

MAX_LINE = 4096  # bytes; a peer that never ends its line must not fill our memory

store: dict[bytes, bytes] = {}


class LineProtocol(StreamProtocol):
    def __init__(self) -> None:
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in map(bytes.strip, lines):
            self.connection.write(self.answer(line) + b"\n")
            if line == b"quit":
                self.connection.close()
        if len(self.buffer) > MAX_LINE:
            self.connection.write(b"error line too long\n")
            self.connection.close()

    def answer(self, line: bytes) -> bytes:
        match line.split(b" ", 2):
            case [b"set", key, value]:
                store[key] = value
                return b"ok"
            case [b"get", key]:
                return store.get(key, b"nothing")
            case [b"quit"]:
                return b"bye"
            case _:
                return b"error say: set KEY VALUE, get KEY or quit"


app = App()
app.protocol(7000, LineProtocol)
